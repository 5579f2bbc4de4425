//! The columns and constraints of `CREATE TABLE`.

use datafusion::sql::sqlparser::ast::{self, ColumnOption, Expr, TableConstraint};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::ast::ColumnDef;
use super::position;
use super::tokens::Tokens;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::{names, types};

/// What is between the parentheses.
pub(super) struct Declared {
    pub(super) columns: Vec<ColumnDef>,
    pub(super) primary_key: Vec<(String, Option<Position>)>,
    pub(super) checks: Vec<Expr>,
}

/// `(column type options..., ..., [PRIMARY KEY (...)], [CHECK (...)])`.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Declared> {
    tokens.expect_sign(&Token::LParen)?;
    let mut declared = Declared { columns: Vec::new(), primary_key: Vec::new(), checks: Vec::new() };
    loop {
        let at = tokens.here();
        if starts_constraint(tokens)
            && let Some(constraint) = tokens.parser.parse_optional_table_constraint()?
        {
            table_constraint(constraint, at, &mut declared)?;
        } else {
            let column = column(tokens, &mut declared.checks)?;
            declared.columns.push(column);
        }
        if !tokens.take_sign(&Token::Comma) {
            break;
        }
    }
    if !tokens.take_sign(&Token::RParen) {
        return Err(tokens.expected("',' or ')' after a column"));
    }
    Ok(declared)
}

/// Only what is followed as a constraint is: a column may be called `check` or `unique`.
pub(super) fn starts_constraint(tokens: &Tokens<'_>) -> bool {
    let paren_follows = |n| tokens.parser.peek_nth_token_ref(n).token == Token::LParen;
    tokens.sees("CONSTRAINT")
        || tokens.sees_all(&["PRIMARY", "KEY"])
        || tokens.sees_all(&["FOREIGN", "KEY"])
        || ((tokens.sees("UNIQUE") || tokens.sees("CHECK")) && paren_follows(1))
}

/// One column; CHECK conditions after it go to `checks`.
pub(super) fn column(tokens: &mut Tokens<'_>, checks: &mut Vec<Expr>) -> Result<ColumnDef> {
    let (name, position) = tokens.name("a column name")?;
    let at = tokens.here();
    if !matches!(tokens.parser.peek_token_ref().token, Token::Word(_)) {
        return Err(tokens.expected(&format!("the type of column {name}")));
    }
    let data_type = types::from_sql(&tokens.parser.parse_data_type()?).map_err(|e| e.with_position(at))?;
    let mut column = ColumnDef {
        name,
        data_type,
        nullable: true,
        primary_key: false,
        default: None,
        default_position: None,
        position,
    };
    while column_option(tokens, &mut column, checks)? {}
    Ok(column)
}

fn column_option(tokens: &mut Tokens<'_>, column: &mut ColumnDef, checks: &mut Vec<Expr>) -> Result<bool> {
    let at = tokens.here();
    if tokens.take("AUTO_INCREMENT") || tokens.take("AUTOINCREMENT") {
        set_default(column, super::parse_expression("SNOWFLAKE_ID()")?, at)?;
        return Ok(true);
    }
    if tokens.take("CONSTRAINT") {
        tokens.name("the name of the constraint")?;
    }
    let Some(option) = tokens.parser.parse_optional_column_option()? else {
        return Ok(false);
    };
    match option {
        ColumnOption::NotNull => column.nullable = false,
        ColumnOption::Null => column.nullable = true,
        ColumnOption::PrimaryKey(_) => column.primary_key = true,
        ColumnOption::Default(default) => set_default(column, default, at)?,
        ColumnOption::Check(check) => checks.push(*check.expr),
        other => return Err(refused(&other.to_string(), at)),
    }
    Ok(true)
}

fn set_default(column: &mut ColumnDef, default: Expr, at: Option<Position>) -> Result<()> {
    if column.default.is_some() {
        let message = format!("column {} has two defaults", column.name);
        return Err(Error::new(ErrorCode::SyntaxError, message).with_position(at));
    }
    column.default = Some(default);
    column.default_position = at;
    Ok(())
}

fn table_constraint(
    constraint: TableConstraint,
    at: Option<Position>,
    declared: &mut Declared,
) -> Result<()> {
    match constraint {
        TableConstraint::Check(check) => declared.checks.push(*check.expr),
        TableConstraint::PrimaryKey(key) => {
            if !declared.primary_key.is_empty() {
                return Err(
                    Error::new(ErrorCode::SyntaxError, "the table has two primary keys").with_position(at)
                );
            }
            declared.primary_key =
                key.columns.iter().map(|column| key_column(column, at)).collect::<Result<_>>()?;
        }
        other => return Err(refused(&other.to_string(), at)),
    }
    Ok(())
}

fn key_column(column: &ast::IndexColumn, at: Option<Position>) -> Result<(String, Option<Position>)> {
    match &column.column.expr {
        Expr::Identifier(ident) => Ok((names::fold(ident), position(ident.span))),
        _ => Err(Error::new(ErrorCode::SyntaxError, "a primary key is a list of columns").with_position(at)),
    }
}

fn refused(what: &str, at: Option<Position>) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} is not supported"))
        .with_position(at)
        .with_hint("columns take NOT NULL, PRIMARY KEY, DEFAULT, AUTO_INCREMENT and CHECK")
}
