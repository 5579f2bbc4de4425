//! Options of tables and namespaces: their names, values and what they mean.

use datafusion::sql::sqlparser::tokenizer::Token;
pub(super) use kalamdb_engine::retention::duration_millis;
use kalamdb_engine::{Access, TableKind, TableOptions, retention};
use serde_json::Value;

use super::tokens::Tokens;
use crate::error::{Error, ErrorCode, Position, Result};

/// The names of the options of a table.
const TABLE_OPTIONS: [&str; 9] = [
    "type",
    "access",
    "compression",
    "deleted_retention",
    "ephemeral",
    "flush_interval",
    "flush_rows",
    "max_buffer",
    "retention",
];
const STREAM_OPTIONS: [&str; 3] = ["retention", "ephemeral", "max_buffer"];
const STORED_OPTIONS: [&str; 4] = ["compression", "deleted_retention", "flush_interval", "flush_rows"];

/// Those that can be changed.
const ALTERABLE: [&str; 5] = ["access", "compression", "deleted_retention", "flush_interval", "flush_rows"];

/// One `key = value`.
#[derive(Debug, Clone)]
pub struct Written {
    /// Folded to lower case.
    pub(crate) key: String,
    pub(crate) value: Value,
    /// Where the key is.
    pub(crate) position: Option<Position>,
}

impl Written {
    fn bad(&self, wanted: &str) -> Error {
        let message = format!("{} = {} is not possible: it takes {wanted}", self.key, self.value);
        Error::new(ErrorCode::InvalidParameter, message).with_position(self.position)
    }

    fn text(&self, wanted: &str) -> Result<&str> {
        self.value.as_str().ok_or_else(|| self.bad(wanted))
    }

    fn count(&self, wanted: &str) -> Result<u64> {
        let number = match &self.value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        number.filter(|n| *n > 0).ok_or_else(|| self.bad(wanted))
    }

    fn duration_millis(&self) -> Result<u64> {
        let wanted = "a duration such as '500ms', '10s', '5 minutes', '12h' or '7d'";
        let millis = match &self.value {
            Value::String(text) => duration_millis(text),
            other => other.as_u64().and_then(|seconds| seconds.checked_mul(1_000)),
        };
        millis.filter(|millis| *millis > 0).ok_or_else(|| self.bad(wanted))
    }
}

/// `k = v, ...)` up to and with the closing parenthesis.
pub(super) fn pairs(tokens: &mut Tokens<'_>) -> Result<Vec<Written>> {
    let mut pairs: Vec<Written> = Vec::new();
    if tokens.take_sign(&Token::RParen) {
        return Ok(pairs);
    }
    loop {
        let (key, position) = tokens.text_or_name("the name of an option")?;
        tokens.expect_sign(&Token::Eq)?;
        let value = value(tokens)?;
        if pairs.iter().any(|other| other.key == key) {
            let message = format!("option {key} is written twice");
            return Err(Error::new(ErrorCode::SyntaxError, message).with_position(position));
        }
        pairs.push(Written { key, value, position });
        if !tokens.take_sign(&Token::Comma) {
            tokens.expect_sign(&Token::RParen)?;
            return Ok(pairs);
        }
    }
}

fn value(tokens: &mut Tokens<'_>) -> Result<Value> {
    let value = match &tokens.parser.peek_token_ref().token {
        Token::SingleQuotedString(text) => Value::from(text.clone()),
        Token::Number(digits, _) => serde_json::from_str(digits)
            .map_err(|_| tokens.expected("a number, a text in quotes, TRUE or FALSE"))?,
        Token::Word(word) if word.quote_style.is_none() => match word.value.to_ascii_lowercase().as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            word => Value::from(word),
        },
        _ => return Err(tokens.expected("a number, a text in quotes, TRUE or FALSE")),
    };
    tokens.parser.advance_token();
    Ok(value)
}

/// The value of `type`.
pub(super) fn table_type(written: &Written) -> Result<TableKind> {
    let wanted = "'user', 'shared' or 'stream'";
    match written.text(wanted)?.to_ascii_lowercase().as_str() {
        "user" => Ok(TableKind::User),
        "shared" => Ok(TableKind::Shared),
        "stream" => Ok(TableKind::Stream),
        _ => Err(written.bad(wanted)),
    }
}

/// Stores an option of a table after checking its value.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`] that names the options there are, or the values the option takes.
pub(super) fn apply(written: &Written, options: &mut TableOptions) -> Result<()> {
    match written.key.as_str() {
        "access" => options.access = access(written)?,
        "compression" => options.compression = Some(compression(written)?),
        "deleted_retention" => options.deleted_retention = Some(deleted_retention(written)?),
        "flush_rows" => options.flush_rows = Some(written.count("a number of rows")?),
        "flush_interval" => options.flush_interval_secs = Some(written.duration_millis()?.div_ceil(1_000)),
        "retention" => options.retention_millis = Some(written.duration_millis()?),
        "max_buffer" => options.max_buffer = Some(written.count("a number of rows")?),
        "ephemeral" => {
            options.ephemeral = Some(written.value.as_bool().ok_or_else(|| written.bad("TRUE or FALSE"))?);
        }
        _ => return Err(unknown(written)),
    }
    Ok(())
}

/// Changes an option of a table that exists; NULL takes it back to what tables have that say nothing.
///
/// # Errors
/// [`ErrorCode::InvalidParameter`] that names the options that can be changed, or the values the option takes.
pub(crate) fn alter(written: &Written, options: &mut TableOptions, kind: TableKind) -> Result<()> {
    if !ALTERABLE.contains(&written.key.as_str()) {
        let known = TABLE_OPTIONS.contains(&written.key.as_str());
        let message = match known {
            true => format!("option {} of a table cannot be changed", written.key),
            false => format!("there is no table option {}", written.key),
        };
        return Err(Error::new(ErrorCode::InvalidParameter, message)
            .with_position(written.position)
            .with_hint(format!("the options that can be changed are {}", ALTERABLE.join(", "))));
    }
    check_kind(std::slice::from_ref(written), kind)?;
    if !written.value.is_null() {
        return apply(written, options);
    }
    match written.key.as_str() {
        "access" => options.access = Access::default(),
        "compression" => options.compression = None,
        "deleted_retention" => options.deleted_retention = None,
        "flush_interval" => options.flush_interval_secs = None,
        _ => options.flush_rows = None,
    }
    Ok(())
}

fn unknown(written: &Written) -> Error {
    let error = Error::new(ErrorCode::InvalidParameter, format!("there is no table option {}", written.key))
        .with_position(written.position);
    error.with_hint(format!("the options are {}", TABLE_OPTIONS.join(", ")))
}

/// Refuses options that mean nothing for a table of this kind.
pub(super) fn check_kind(written: &[Written], kind: TableKind) -> Result<()> {
    for option in written {
        let key = option.key.as_str();
        let only_for = match kind {
            TableKind::Stream if STORED_OPTIONS.contains(&key) => "USER and SHARED",
            TableKind::User | TableKind::Shared if STREAM_OPTIONS.contains(&key) => "STREAM",
            TableKind::User if key == "access" => "SHARED and STREAM",
            _ => continue,
        };
        let message = format!("option {key} is for {only_for} tables");
        return Err(Error::new(ErrorCode::InvalidParameter, message).with_position(option.position));
    }
    Ok(())
}

fn access(written: &Written) -> Result<Access> {
    let wanted = "'public', 'read' or 'private'";
    match written.text(wanted)?.to_ascii_lowercase().as_str() {
        "public" => Ok(Access::Public),
        "read" => Ok(Access::Read),
        "private" => Ok(Access::Private),
        _ => Err(written.bad(wanted)),
    }
}

fn compression(written: &Written) -> Result<String> {
    let wanted = "'zstd', 'snappy' or 'none'";
    let text = written.text(wanted)?.to_ascii_lowercase();
    if ["zstd", "snappy", "none"].contains(&text.as_str()) { Ok(text) } else { Err(written.bad(wanted)) }
}

fn deleted_retention(written: &Written) -> Result<String> {
    let wanted = "a duration such as '7d', or 'off'";
    let text = written.text(wanted)?.to_ascii_lowercase();
    if text == retention::OFF || duration_millis(&text).is_some() {
        Ok(text)
    } else {
        Err(written.bad(wanted))
    }
}

/// The path of a LOCATION clause.
pub(super) fn check_location(path: String) -> Result<String> {
    let problem = if path.trim().is_empty() {
        "it is empty"
    } else if path.len() > 1_024 {
        "it is longer than 1,024 bytes"
    } else if path.chars().any(char::is_control) {
        "it has control characters"
    } else if path.split(['/', '\\']).any(|part| part == "..") {
        "it climbs with .."
    } else {
        return Ok(path);
    };
    Err(Error::new(ErrorCode::InvalidParameter, format!("this location is not possible: {problem}")))
}

/// `[ROWS n] [INTERVAL '..']` after `FLUSH POLICY`: either or both, in any order.
pub(super) fn flush_policy(tokens: &mut Tokens<'_>, options: &mut TableOptions) -> Result<()> {
    let refuse = |message: &str, at| {
        Error::new(ErrorCode::InvalidParameter, message.to_owned())
            .with_position(at)
            .with_hint("FLUSH POLICY takes ROWS n, INTERVAL 'duration', or both")
    };
    let mut seen = false;
    loop {
        let at = tokens.here();
        if tokens.take("ROWS") {
            let (rows, at) = tokens.number("a number of rows")?;
            if rows == 0 {
                return Err(refuse("FLUSH POLICY ROWS must be at least 1", at));
            }
            if options.flush_rows.replace(rows).is_some() {
                return Err(refuse("FLUSH POLICY has ROWS twice", at));
            }
        } else if tokens.take("INTERVAL") {
            let (text, at) = tokens.text("a duration in quotes")?;
            let millis = duration_millis(&text).filter(|millis| *millis > 0);
            let millis = millis.ok_or_else(|| refuse(&format!("{text:?} is not a duration"), at))?;
            if options.flush_interval_secs.replace(millis.div_ceil(1_000)).is_some() {
                return Err(refuse("FLUSH POLICY has INTERVAL twice", at));
            }
        } else if !seen {
            return Err(refuse("FLUSH POLICY says nothing that is known", at));
        } else {
            let known = ["LOCATION", "FLUSH", "WITH"];
            let next = tokens.at_end() || known.iter().any(|word| tokens.sees(word));
            return if next {
                Ok(())
            } else {
                Err(refuse("FLUSH POLICY says something that is not known", at))
            };
        }
        seen = true;
    }
}
