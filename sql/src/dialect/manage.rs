//! Namespaces, users, SHOW, DESCRIBE and USE.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::ast::{CreateNamespace, CreateUser, Statement};
use super::options;
use super::tokens::Tokens;
use crate::auth::Role;
use crate::error::{Error, ErrorCode, Result};

/// `CREATE NAMESPACE [IF NOT EXISTS] app [WITH OPTIONS (k = v)]`.
pub(super) fn create_namespace(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["CREATE", "NAMESPACE"])?;
    let if_not_exists = tokens.take_all(&["IF", "NOT", "EXISTS"]);
    let (name, position) = tokens.name("the name of the namespace")?;
    let options = if tokens.take("WITH") {
        tokens.take("OPTIONS");
        namespace_options(tokens)?
    } else {
        serde_json::Map::new()
    };
    Ok(Statement::CreateNamespace(CreateNamespace { name, if_not_exists, options, position }))
}

/// `ALTER NAMESPACE app SET OPTIONS (k = v)`.
pub(super) fn alter_namespace(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["ALTER", "NAMESPACE"])?;
    let (name, position) = tokens.name("the name of the namespace")?;
    tokens.expect(&["SET", "OPTIONS"])?;
    let options = namespace_options(tokens)?;
    Ok(Statement::AlterNamespace(CreateNamespace { name, if_not_exists: false, options, position }))
}

fn namespace_options(tokens: &mut Tokens<'_>) -> Result<serde_json::Map<String, serde_json::Value>> {
    tokens.expect_sign(&Token::LParen)?;
    let pairs = options::pairs(tokens)?;
    Ok(pairs.into_iter().map(|written| (written.key, written.value)).collect())
}

/// `DROP NAMESPACE [IF EXISTS] app [CASCADE]`.
pub(super) fn drop_namespace(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["DROP", "NAMESPACE"])?;
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let (name, position) = tokens.name("the name of the namespace")?;
    let cascade = tokens.take("CASCADE");
    if !cascade {
        tokens.take("RESTRICT");
    }
    Ok(Statement::DropNamespace { name, if_exists, cascade, position })
}

/// `USE [NAMESPACE] app`.
pub(super) fn use_namespace(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["USE"])?;
    if matches!(tokens.parser.peek_nth_token_ref(1).token, Token::Word(_)) {
        tokens.take("NAMESPACE");
    }
    let (namespace, position) = tokens.name("the name of a namespace")?;
    Ok(Statement::Use { namespace, position })
}

/// The SHOW statements.
pub(super) fn show(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["SHOW"])?;
    if tokens.take("NAMESPACES") {
        Ok(Statement::ShowNamespaces)
    } else if tokens.take("TABLES") {
        let named = tokens.take("IN") || tokens.take("FROM");
        let (namespace, position) = match named {
            true => tokens.name("the name of a namespace").map(|(name, at)| (Some(name), at))?,
            false => (None, None),
        };
        Ok(Statement::ShowTables { namespace, position })
    } else if tokens.take("COLUMNS") {
        if !tokens.take("FROM") {
            tokens.expect(&["IN"])?;
        }
        Ok(Statement::ShowColumns(tokens.table()?))
    } else if tokens.take("STATS") {
        tokens.expect(&["FOR"])?;
        tokens.take("TABLE");
        Ok(Statement::ShowStats(tokens.table()?))
    } else if tokens.take_all(&["TABLE", "STATS"]) {
        tokens.take("FOR");
        Ok(Statement::ShowStats(tokens.table()?))
    } else if tokens.take("MANIFEST") {
        tokens.expect(&["FOR"])?;
        tokens.take("TABLE");
        Ok(Statement::ShowManifest(tokens.table()?))
    } else {
        Err(tokens.expected("NAMESPACES, TABLES, COLUMNS, STATS, TABLE STATS or MANIFEST"))
    }
}

/// `DESCRIBE [TABLE] t [HISTORY]`.
pub(super) fn describe(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.parser.advance_token();
    if matches!(tokens.parser.peek_nth_token_ref(1).token, Token::Word(_)) && !tokens.sees_nth(1, "HISTORY") {
        tokens.take("TABLE");
    }
    let table = tokens.table()?;
    let history = tokens.take("HISTORY");
    Ok(Statement::Describe { table, history })
}

/// `CREATE USER [IF NOT EXISTS] 'u1' [WITH] [PASSWORD '...'] [ROLE r]`.
pub(super) fn create_user(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["CREATE", "USER"])?;
    let if_not_exists = tokens.take_all(&["IF", "NOT", "EXISTS"]);
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    tokens.take("WITH");
    let Settings { password, role } = settings(tokens)?;
    Ok(Statement::CreateUser(CreateUser {
        user,
        if_not_exists,
        password,
        role: role.unwrap_or(Role::User),
        position,
    }))
}

/// `ALTER USER 'u1' [SET] [PASSWORD '...'] [ROLE r]`.
pub(super) fn alter_user(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["ALTER", "USER"])?;
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    if !tokens.take("SET") {
        tokens.take("WITH");
    }
    let Settings { password, role } = settings(tokens)?;
    if password.is_none() && role.is_none() {
        return Err(tokens.expected("PASSWORD '...' or ROLE"));
    }
    Ok(Statement::AlterUser { user, password, role, position })
}

/// `DROP USER [IF EXISTS] 'u1'`.
pub(super) fn drop_user(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["DROP", "USER"])?;
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let (user, position) = tokens.text_or_name("a user id in quotes")?;
    Ok(Statement::DropUser { user, if_exists, position })
}

struct Settings {
    password: Option<String>,
    role: Option<Role>,
}

/// `PASSWORD '...'` and `ROLE r` in any order, with or without commas or `SET` between them.
fn settings(tokens: &mut Tokens<'_>) -> Result<Settings> {
    let mut settings = Settings { password: None, role: None };
    loop {
        let at = tokens.here();
        let twice = |what: &str| {
            Error::new(ErrorCode::SyntaxError, format!("{what} is written twice")).with_position(at)
        };
        if tokens.take("PASSWORD") {
            let (password, _) = tokens.text("a password in quotes")?;
            if settings.password.replace(password).is_some() {
                return Err(twice("PASSWORD"));
            }
        } else if tokens.take("ROLE") {
            let (role, at) = tokens.text_or_name("a role")?;
            let role = role.parse::<Role>().map_err(|error| error.with_position(at))?;
            if settings.role.replace(role).is_some() {
                return Err(twice("ROLE"));
            }
        } else {
            return Ok(settings);
        }
        if !tokens.take_sign(&Token::Comma) {
            tokens.take("SET");
        }
    }
}
