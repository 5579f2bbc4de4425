//! Which statement it is, by its first words.

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{self, DescribeAlias, FromTable, SetExpr, TableWithJoins};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::ast::Statement;
use super::grammar::BoundedDialect;
use super::tokens::Tokens;
use super::{alter as alter_table, elsewhere, jobs, manage, table, transaction, view};
use crate::error::{Error, ErrorCode, Position, Result};

/// The one statement that these tokens are.
pub(super) fn parse(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let dialect = BoundedDialect::for_tokens(tokens.len());
    let mut tokens = Tokens::new(&dialect, tokens);
    let statement = statement(&mut tokens)?;
    tokens.expect_end()?;
    Ok(statement)
}

fn statement(tokens: &mut Tokens<'_>) -> Result<Statement> {
    if let Some(error) = elsewhere::refusal(tokens) {
        return Err(error);
    }
    let at = tokens.here();
    let Token::Word(word) = &tokens.parser.peek_token_ref().token else {
        return match tokens.parser.peek_token_ref().token {
            Token::LParen => query(tokens),
            _ => Err(tokens.expected("an SQL statement")),
        };
    };
    let first = if word.quote_style.is_none() { word.value.to_ascii_uppercase() } else { String::new() };
    match first.as_str() {
        "SELECT" | "WITH" | "VALUES" | "TABLE" => query(tokens),
        "INSERT" => {
            let token = tokens.parser.next_token();
            match tokens.parser.parse_insert(token)? {
                ast::Statement::Insert(insert) => Ok(Statement::Insert(Box::new(insert))),
                _ => Err(unsupported("this form of INSERT", at)),
            }
        }
        "UPDATE" => {
            let token = tokens.parser.next_token();
            match tokens.parser.parse_update(token)? {
                ast::Statement::Update(update) => Ok(Statement::Update(Box::new(update))),
                _ => Err(unsupported("this form of UPDATE", at)),
            }
        }
        "DELETE" => {
            let token = tokens.parser.next_token();
            match tokens.parser.parse_delete(token)? {
                ast::Statement::Delete(delete) => Ok(Statement::Delete(Box::new(delete))),
                _ => Err(unsupported("this form of DELETE", at)),
            }
        }
        "TRUNCATE" => truncate(tokens),
        "EXPLAIN" => explain(tokens),
        "CREATE" => create(tokens),
        "DROP" => drop(tokens),
        "ALTER" => alter(tokens),
        "SHOW" => manage::show(tokens),
        "DESCRIBE" | "DESC" => manage::describe(tokens),
        "USE" => manage::use_namespace(tokens),
        "FLUSH" => jobs::flush(tokens),
        "KILL" => jobs::kill(tokens),
        "COMPACT" => jobs::compact(tokens),
        "PURGE" => jobs::purge(tokens),
        "EXPORT" => jobs::export(tokens),
        "EXECUTE" => execute_as(tokens),
        "BEGIN" | "START" => transaction::begin(tokens),
        "COMMIT" | "END" => transaction::commit(tokens),
        "ROLLBACK" => transaction::rollback(tokens),
        _ => Err(tokens.expected("an SQL statement")),
    }
}

/// `TRUNCATE [TABLE] t` is `DELETE FROM t`: the same rights, the same rows, one commit that feeds hear of.
fn truncate(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["TRUNCATE"])?;
    tokens.take("TABLE");
    if !matches!(tokens.parser.peek_token_ref().token, Token::Word(_)) {
        return Err(tokens.expected("a table name"));
    }
    let name = tokens.parser.parse_object_name(false)?;
    let at = tokens.here();
    if tokens.take_sign(&Token::Comma) {
        return Err(unsupported("TRUNCATE of several tables", at));
    }
    let table = TableWithJoins { relation: super::plain_table(name, None), joins: Vec::new() };
    Ok(Statement::Delete(Box::new(ast::Delete {
        delete_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        tables: Vec::new(),
        from: FromTable::WithFromKeyword(vec![table]),
        using: None,
        selection: None,
        returning: None,
        output: None,
        order_by: Vec::new(),
        limit: None,
    })))
}

fn create(tokens: &mut Tokens<'_>) -> Result<Statement> {
    if tokens.sees_all(&["CREATE", "NAMESPACE"]) {
        manage::create_namespace(tokens)
    } else if tokens.sees_all(&["CREATE", "USER"]) && !tokens.sees_nth(2, "TABLE") {
        manage::create_user(tokens)
    } else if view::is_create(tokens) {
        view::create(tokens)
    } else {
        table::create(tokens)
    }
}

fn drop(tokens: &mut Tokens<'_>) -> Result<Statement> {
    if tokens.sees_all(&["DROP", "NAMESPACE"]) {
        manage::drop_namespace(tokens)
    } else if tokens.sees_all(&["DROP", "USER"]) && !tokens.sees_nth(2, "TABLE") {
        manage::drop_user(tokens)
    } else if tokens.sees_all(&["DROP", "VIEW"]) {
        view::drop(tokens)
    } else {
        table::drop(tokens)
    }
}

fn alter(tokens: &mut Tokens<'_>) -> Result<Statement> {
    if tokens.sees_all(&["ALTER", "NAMESPACE"]) {
        manage::alter_namespace(tokens)
    } else if tokens.sees_all(&["ALTER", "USER"]) {
        manage::alter_user(tokens)
    } else if tokens.sees_all(&["ALTER", "TABLE"]) {
        alter_table::parse(tokens)
    } else {
        tokens.parser.advance_token();
        Err(tokens.expected("NAMESPACE, TABLE or USER"))
    }
}

fn query(tokens: &mut Tokens<'_>) -> Result<Statement> {
    let at = tokens.here();
    let query = tokens.parser.parse_query()?;
    check_read_only(&query.body, at)?;
    Ok(Statement::Query(Box::new(ast::Statement::Query(query))))
}

/// A query that writes in disguise is refused: `WITH ... INSERT`, `SELECT ... INTO`.
pub(super) fn check_read_only(body: &SetExpr, at: Option<Position>) -> Result<()> {
    match body {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Err(unsupported("a statement that writes after WITH", at))
        }
        SetExpr::Select(select) if select.into.is_some() => {
            Err(unsupported("SELECT INTO", at).with_hint("use CREATE TABLE and INSERT INTO ... SELECT"))
        }
        SetExpr::Query(inner) => check_read_only(&inner.body, at),
        _ => Ok(()),
    }
}

/// `EXPLAIN [ANALYZE] [VERBOSE] [FORMAT f] query`. sqlparser would try the query and lose the place of an error in it.
fn explain(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["EXPLAIN"])?;
    let analyze = tokens.take("ANALYZE");
    let verbose = tokens.take("VERBOSE");
    let format = match tokens.take("FORMAT") {
        true => Some(tokens.parser.parse_analyze_format()?.into_kind()),
        false => None,
    };
    let at = tokens.here();
    let Statement::Query(inner) = statement(tokens)? else {
        return Err(unsupported("EXPLAIN of anything but a query", at));
    };
    Ok(Statement::Explain(Box::new(ast::Statement::Explain {
        describe_alias: DescribeAlias::Explain,
        analyze,
        verbose,
        query_plan: false,
        estimate: false,
        statement: inner,
        format,
        options: None,
    })))
}

trait IntoKind {
    fn into_kind(self) -> ast::AnalyzeFormatKind;
}

impl IntoKind for ast::AnalyzeFormat {
    fn into_kind(self) -> ast::AnalyzeFormatKind {
        ast::AnalyzeFormatKind::Keyword(self)
    }
}

/// `EXECUTE AS USER 'u1' (statement)`.
fn execute_as(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["EXECUTE"])?;
    tokens.expect(&["AS", "USER"])?;
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    tokens.expect_sign(&Token::LParen)?;
    let at = tokens.here();
    let inner = statement(tokens)?;
    tokens.take_sign(&Token::SemiColon);
    tokens.expect_sign(&Token::RParen)?;
    match inner {
        Statement::Query(_)
        | Statement::Explain(_)
        | Statement::Insert(_)
        | Statement::Update(_)
        | Statement::Delete(_) => Ok(Statement::ExecuteAsUser { user, position, inner: Box::new(inner) }),
        _ => Err(Error::new(
            ErrorCode::InvalidStatement,
            "EXECUTE AS USER runs SELECT, EXPLAIN, INSERT, UPDATE and DELETE only",
        )
        .with_position(at)),
    }
}

fn unsupported(what: &str, at: Option<Position>) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} is not supported")).with_position(at)
}
