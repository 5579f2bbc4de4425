//! Bounds on what is parsed at all.
//!
//! Trees of expressions are walked and dropped recursively, by sqlparser, DataFusion and ourselves. So the depth of a
//! tree is bounded here, by looking at tokens: by how far brackets nest, and by how many operators follow one another
//! without a comma, each of which makes a left-leaning tree one level deeper.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::from_location;
use crate::error::{Error, ErrorCode, Result};

/// The longest text that is looked at, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 64 << 20;
/// The most tokens of one request: each takes some 80 bytes.
pub(super) const MAX_TOKENS: usize = 4_000_000;
/// How deep brackets may nest.
const MAX_NESTING: usize = 64;
/// Brackets nested deeper than this are parsed on a large stack: some of sqlparser's functions need tens of kilobytes per
/// level, more than its own protection against overflows keeps free.
pub(super) const ORDINARY_NESTING: usize = 12;
/// Bytes of the large stack.
pub(super) const LARGE_STACK: usize = 32 << 20;
/// How many operators may follow one another between two commas.
const MAX_OPERATORS: usize = 2_000;
/// sqlparser's own bound, which also counts what needs no brackets, such as `NOT NOT NOT`.
pub(super) const RECURSION_LIMIT: usize = 300;
/// How often a part of a text may be read again because parentheses around a subquery can mean several things.
const MAX_READINGS: usize = 500;
/// How many generic types may be inside one another: `ARRAY<ARRAY<INT>>` has two.
const MAX_TYPE_NESTING: usize = 16;

/// Refuses a statement that is too deep. Returns how deep its brackets nest.
///
/// # Errors
/// [`ErrorCode::TooLarge`] with the place where the bound was reached.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<usize> {
    let mut levels = vec![Level::default()];
    let mut deepest = 0;
    let mut previous_is_type = false;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => {
                let above = levels.last().copied().unwrap_or_default();
                levels.push(Level { readings: above.readings, opened: above.opened + 1, ..Level::default() });
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                levels.pop();
                count(&mut levels, |level| level.operators += 1);
            }
            Token::Comma => count(&mut levels, |level| {
                *level = Level { readings: level.readings, ..Level::default() };
            }),
            Token::Lt if previous_is_type => count(&mut levels, |level| level.types += 1),
            other if starts_query(other) => count(&mut levels, |level| level.readings *= level.opened.max(1)),
            other if is_operator(other) => count(&mut levels, |level| level.operators += 1),
            _ => {}
        }
        previous_is_type = is_generic_type(&token.token);
        if token.token != Token::LParen {
            count(&mut levels, |level| level.opened = 0);
        }
        deepest = deepest.max(levels.len() - 1);
        let level = levels.last().copied().unwrap_or_default();
        let too_deep = levels.len() > MAX_NESTING + 1
            || level.operators > MAX_OPERATORS
            || level.types > MAX_TYPE_NESTING
            || level.readings > MAX_READINGS;
        if too_deep {
            return Err(self::too_deep().with_position(from_location(token.span.start)));
        }
    }
    Ok(deepest)
}

#[derive(Clone, Copy)]
struct Level {
    operators: usize,
    types: usize,
    /// Parentheses opened one after another just before here.
    opened: usize,
    /// How often sqlparser may read what is here: `FROM (((SELECT ...` is tried as a subquery and as a join at every
    /// parenthesis, and so is what is inside of it.
    readings: usize,
}

impl Default for Level {
    fn default() -> Self {
        Self { operators: 0, types: 0, opened: 0, readings: 1 }
    }
}

fn count(levels: &mut [Level], change: impl FnOnce(&mut Level)) {
    if let Some(level) = levels.last_mut() {
        change(level);
    }
}

/// Everything that can make a tree deeper without a bracket. A bracket that closes counts too: `INT[][][]`.
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::NOTNULL
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::DIV
                | Keyword::OPERATOR
                | Keyword::OVERLAPS
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::MINUS
                | Keyword::CASE
                | Keyword::JOIN
                | Keyword::EXPLAIN
        ),
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Period
        | Token::EOF
        | Token::LParen
        | Token::LBracket
        | Token::LBrace
        | Token::RParen
        | Token::RBracket
        | Token::RBrace => false,
        _ => true,
    }
}

fn starts_query(token: &Token) -> bool {
    let Token::Word(word) = token else { return false };
    matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE)
}

fn is_generic_type(token: &Token) -> bool {
    let Token::Word(word) = token else { return false };
    matches!(word.keyword, Keyword::ARRAY | Keyword::STRUCT | Keyword::MAP)
}

/// The error for what is nested too deeply.
pub(super) fn too_deep() -> Error {
    Error::new(ErrorCode::TooLarge, "the statement is nested too deeply").with_hint(format!(
        "brackets nest at most {MAX_NESTING} deep and an expression has at most {MAX_OPERATORS} operators in a row; \
         long lists of alternatives are better written with IN (...)"
    ))
}

/// The error for text that has too much of everything.
pub(super) fn too_long() -> Error {
    Error::new(ErrorCode::TooLarge, "the text of the request is too long")
        .with_hint("load many rows with the import endpoint, or in several requests")
}

/// Guesses the number of tokens from above without making any: signs and white space count one each outside of
/// strings, and so does every word.
pub(super) fn estimate_tokens(sql: &str) -> usize {
    let (mut tokens, mut in_string, mut in_word) = (0, false, false);
    for byte in sql.bytes() {
        if byte == b'\'' {
            in_string = !in_string;
            tokens += usize::from(in_string);
            in_word = false;
        } else if !in_string {
            let word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
            tokens += usize::from(!word || !in_word);
            in_word = word;
        }
    }
    tokens
}
