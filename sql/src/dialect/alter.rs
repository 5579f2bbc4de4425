//! `ALTER TABLE`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::ast::{AlterTable, Alteration, ColumnDef, Named, Statement};
use super::tokens::Tokens;
use super::{columns, options};
use crate::error::{Error, ErrorCode, Result};
use crate::types;

/// `ALTER TABLE [IF EXISTS] t change, change, ...`.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["ALTER", "TABLE"])?;
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let table = tokens.table()?;
    let mut changes = vec![change(tokens)?];
    while tokens.take_sign(&Token::Comma) {
        changes.push(change(tokens)?);
    }
    if !tokens.at_end() {
        return Err(tokens.expected("',' or the end of the statement"));
    }
    Ok(Statement::AlterTable(Box::new(AlterTable { table, if_exists, changes })))
}

fn change(tokens: &mut Tokens<'_>) -> Result<Alteration> {
    if tokens.take("ADD") {
        add(tokens)
    } else if tokens.take("DROP") {
        drop(tokens)
    } else if tokens.take("RENAME") {
        rename(tokens)
    } else if tokens.take("MODIFY") {
        tokens.take("COLUMN");
        let column = column(tokens)?;
        retype(tokens, column)
    } else if tokens.take("ALTER") {
        tokens.take("COLUMN");
        let name = column(tokens)?;
        alter_column(tokens, name)
    } else if tokens.take("SET") {
        tokens.expect_sign(&Token::LParen)?;
        Ok(Alteration::SetOptions(options::pairs(tokens)?))
    } else {
        Err(tokens.expected("ADD, DROP, RENAME, MODIFY, ALTER or SET"))
    }
}

fn column(tokens: &mut Tokens<'_>) -> Result<Named> {
    let (name, position) = tokens.name("a column name")?;
    Ok(Named { name, position })
}

fn add(tokens: &mut Tokens<'_>) -> Result<Alteration> {
    let at = tokens.here();
    if columns::starts_constraint(tokens) {
        return Err(Error::new(ErrorCode::Unsupported, "constraints cannot be added to a table that exists")
            .with_position(at));
    }
    tokens.take("COLUMN");
    let if_not_exists = tokens.take_all(&["IF", "NOT", "EXISTS"]);
    let at = tokens.here();
    let mut checks = Vec::new();
    let column: ColumnDef = columns::column(tokens, &mut checks)?;
    let refused = match (column.primary_key, checks.is_empty()) {
        (true, _) => "a column of the primary key cannot be added to a table that exists",
        (false, false) => "a column cannot be added together with a CHECK",
        (false, true) => return Ok(Alteration::AddColumn { column, if_not_exists }),
    };
    Err(Error::new(ErrorCode::Unsupported, refused).with_position(at))
}

fn drop(tokens: &mut Tokens<'_>) -> Result<Alteration> {
    let at = tokens.here();
    if tokens.sees("CONSTRAINT") || tokens.sees_all(&["PRIMARY", "KEY"]) {
        let message = "constraints cannot be dropped; NOT NULL is dropped with ALTER COLUMN c DROP NOT NULL";
        return Err(Error::new(ErrorCode::Unsupported, message).with_position(at));
    }
    tokens.take("COLUMN");
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let column = column(tokens)?;
    // Nothing depends on a column that could go with it.
    let _ = tokens.take("RESTRICT") || tokens.take("CASCADE");
    Ok(Alteration::DropColumn { column, if_exists })
}

fn rename(tokens: &mut Tokens<'_>) -> Result<Alteration> {
    // `RENAME to TO b` renames a column called `to`.
    if tokens.sees("TO") && !tokens.sees_nth(1, "TO") {
        tokens.expect(&["TO"])?;
        return Ok(Alteration::RenameTable(tokens.table()?));
    }
    tokens.take("COLUMN");
    let from = column(tokens)?;
    tokens.expect(&["TO"])?;
    Ok(Alteration::RenameColumn { column: from, to: column(tokens)? })
}

fn retype(tokens: &mut Tokens<'_>, column: Named) -> Result<Alteration> {
    let at = tokens.here();
    if !matches!(tokens.parser.peek_token_ref().token, Token::Word(_)) {
        return Err(tokens.expected(&format!("the new type of column {}", column.name)));
    }
    let data_type = types::from_sql(&tokens.parser.parse_data_type()?).map_err(|e| e.with_position(at))?;
    Ok(Alteration::Retype { column, data_type, position: at })
}

fn alter_column(tokens: &mut Tokens<'_>, column: Named) -> Result<Alteration> {
    if tokens.take_all(&["SET", "DEFAULT"]) {
        let position = tokens.here();
        let default = Some(tokens.parser.parse_expr()?);
        Ok(Alteration::SetDefault { column, default, position })
    } else if tokens.take_all(&["DROP", "DEFAULT"]) {
        Ok(Alteration::SetDefault { column, default: None, position: None })
    } else if tokens.take_all(&["SET", "NOT", "NULL"]) {
        Ok(Alteration::SetNotNull { column, not_null: true })
    } else if tokens.take_all(&["DROP", "NOT", "NULL"]) {
        Ok(Alteration::SetNotNull { column, not_null: false })
    } else if tokens.take_all(&["SET", "DATA", "TYPE"]) || tokens.take("TYPE") {
        retype(tokens, column)
    } else {
        Err(tokens.expected("SET DEFAULT, DROP DEFAULT, SET NOT NULL, DROP NOT NULL or TYPE"))
    }
}
