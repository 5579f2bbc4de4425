//! `CREATE TABLE` and `DROP TABLE`.

use datafusion::sql::sqlparser::tokenizer::Token;
use kalamdb_engine::{TableKind, TableOptions};

use super::ast::{CreateTable, Statement};
use super::columns::{self, Declared};
use super::options::{self, Written};
use super::tokens::Tokens;
use crate::error::{Error, ErrorCode, Position, Result};

/// `CREATE [USER|SHARED|STREAM] TABLE [IF NOT EXISTS] t (...) [LOCATION ...] [FLUSH POLICY ...] [WITH (...)]`.
pub(super) fn create(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["CREATE"])?;
    let said = kind(tokens)?;
    let if_not_exists = tokens.take_all(&["IF", "NOT", "EXISTS"]);
    let table = tokens.table()?;
    let declared = columns::parse(tokens)?;
    let mut clauses = Clauses::default();
    while clauses.parse_one(tokens)? {}
    let kind = clauses.kind(said)?;
    options::check_kind(&clauses.written, kind)?;
    let Declared { columns, primary_key, checks } = declared;
    Ok(Statement::CreateTable(Box::new(CreateTable {
        table,
        kind,
        if_not_exists,
        columns,
        primary_key,
        checks,
        options: clauses.options,
        location_reference: clauses.location_reference,
    })))
}

/// `DROP [USER|SHARED|STREAM] TABLE [IF EXISTS] t [CASCADE|RESTRICT]`.
pub(super) fn drop(tokens: &mut Tokens<'_>) -> Result<Statement> {
    tokens.expect(&["DROP"])?;
    let kind = kind(tokens)?;
    let if_exists = tokens.take_all(&["IF", "EXISTS"]);
    let table = tokens.table()?;
    let cascade = tokens.take("CASCADE");
    if !cascade {
        tokens.take("RESTRICT");
    }
    Ok(Statement::DropTable { table, kind, if_exists, cascade })
}

/// `[USER|SHARED|STREAM] TABLE`.
fn kind(tokens: &mut Tokens<'_>) -> Result<Option<TableKind>> {
    let kinds = [("USER", TableKind::User), ("SHARED", TableKind::Shared), ("STREAM", TableKind::Stream)];
    for (word, kind) in kinds {
        if tokens.take(word) {
            tokens.expect(&["TABLE"])?;
            return Ok(Some(kind));
        }
    }
    if tokens.take("TABLE") {
        return Ok(None);
    }
    Err(tokens.expected("[USER | SHARED | STREAM] TABLE, NAMESPACE or USER"))
}

/// What comes after the columns, in any order, each at most once.
#[derive(Default)]
struct Clauses {
    options: TableOptions,
    /// What was said in WITH, for checks that need the kind of the table.
    written: Vec<Written>,
    type_option: Option<(TableKind, Option<Position>)>,
    location_reference: Option<(String, Option<Position>)>,
    seen: Vec<&'static str>,
}

impl Clauses {
    fn parse_one(&mut self, tokens: &mut Tokens<'_>) -> Result<bool> {
        let at = tokens.here();
        if tokens.take("LOCATION") {
            self.once("LOCATION", at)?;
            if tokens.take("REFERENCE") {
                self.location_reference = Some(tokens.text("the name of a storage location in quotes")?);
            } else {
                let (path, at) = tokens.text("a path in quotes, or REFERENCE and a name")?;
                self.options.location = Some(options::check_location(path).map_err(|e| e.with_position(at))?);
            }
        } else if tokens.take_all(&["FLUSH", "POLICY"]) {
            self.once("FLUSH POLICY", at)?;
            options::flush_policy(tokens, &mut self.options)?;
        } else if tokens.take("WITH") {
            self.once("WITH", at)?;
            tokens.expect_sign(&Token::LParen)?;
            for written in options::pairs(tokens)? {
                if written.key == "type" {
                    self.type_option = Some((options::table_type(&written)?, written.position));
                } else {
                    options::apply(&written, &mut self.options)?;
                    self.written.push(written);
                }
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn once(&mut self, clause: &'static str, at: Option<Position>) -> Result<()> {
        if self.seen.contains(&clause) {
            let message = format!("{clause} is written twice");
            return Err(Error::new(ErrorCode::SyntaxError, message).with_position(at));
        }
        self.seen.push(clause);
        Ok(())
    }

    fn kind(&self, said: Option<TableKind>) -> Result<TableKind> {
        match (said, self.type_option) {
            (Some(said), Some((option, at))) if said != option => Err(Error::new(
                ErrorCode::InvalidParameter,
                format!("type = '{option}' contradicts CREATE {} TABLE", said.to_string().to_uppercase()),
            )
            .with_position(at)),
            (Some(kind), _) | (None, Some((kind, _))) => Ok(kind),
            (None, None) => Ok(TableKind::Shared),
        }
    }
}
