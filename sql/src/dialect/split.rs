//! Cutting a text into statements at semicolons, by tokens.

use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::{KalamDialect, from_location, limits};
use crate::error::{Error, ErrorCode, Position, Result};

/// The tokens of one statement, or why there are none.
pub(super) struct Piece {
    /// Its tokens, white space included, the semicolon not.
    pub(super) tokens: Result<Vec<TokenWithSpan>>,
    /// Its text without surrounding white space.
    pub(super) text: String,
    /// Where it starts.
    pub(super) position: Position,
    /// Where it ends: the place of an error that is about what is missing.
    pub(super) end: Option<Position>,
}

/// The statements of a text; nothing for what is empty between semicolons.
pub(super) fn split(sql: &str) -> impl Iterator<Item = Piece> {
    let too_long = sql.len() > limits::MAX_TEXT_BYTES
        || (sql.len() > limits::MAX_TOKENS && limits::estimate_tokens(sql) > limits::MAX_TOKENS);
    let (tokens, error) = if too_long { (Vec::new(), Some(limits::too_long())) } else { tokenize(sql) };
    Pieces { sql, cursor: Cursor::new(sql), tokens: tokens.into_iter().peekable(), error }
}

/// The tokens up to the first place that is not SQL, and what is wrong there.
fn tokenize(sql: &str) -> (Vec<TokenWithSpan>, Option<Error>) {
    let mut tokens = Vec::new();
    let outcome = Tokenizer::new(&KalamDialect, sql).tokenize_with_location_into_buf(&mut tokens);
    let error = outcome.err().map(|error| {
        Error::new(ErrorCode::SyntaxError, error.message).with_position(from_location(error.location))
    });
    (tokens, error)
}

struct Pieces<'a> {
    sql: &'a str,
    cursor: Cursor<'a>,
    tokens: Peekable<IntoIter<TokenWithSpan>>,
    error: Option<Error>,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let mut tokens = Vec::new();
            let mut depth = 0_usize;
            let mut ended = false;
            for token in self.tokens.by_ref() {
                match token.token {
                    Token::SemiColon if depth == 0 => {
                        ended = true;
                        break;
                    }
                    Token::LParen => depth += 1,
                    Token::RParen => depth = depth.saturating_sub(1),
                    _ => {}
                }
                tokens.push(token);
            }
            let broken = !ended && self.tokens.peek().is_none() && self.error.is_some();
            let mut spans =
                tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).map(|t| t.span);
            let first = spans.next();
            let last = spans.next_back().or(first);
            match (first, last) {
                (Some(first), Some(last)) => {
                    let range = self.cursor.range(first.start, last.end);
                    let tokens = if broken { self.take_error() } else { Ok(tokens) };
                    return Some(self.piece(tokens, range, first.start, last.end));
                }
                _ if broken => {
                    let error = self.take_error();
                    let at = Location { line: 1, column: 1 };
                    return Some(self.piece(error, 0..0, at, at));
                }
                _ if ended => {}
                _ => return None,
            }
        }
    }
}

impl Pieces<'_> {
    fn take_error(&mut self) -> Result<Vec<TokenWithSpan>> {
        self.error.take().map_or_else(|| Ok(Vec::new()), Err)
    }

    fn piece(
        &self,
        tokens: Result<Vec<TokenWithSpan>>,
        text: Range<usize>,
        start: Location,
        end: Location,
    ) -> Piece {
        let start = from_location(start).unwrap_or(Position { line: 1, column: 1 });
        Piece { tokens, text: self.sql[text].to_owned(), position: start, end: from_location(end) }
    }
}

/// From line and column to byte offset, for places in ascending order, counting as the tokenizer does.
struct Cursor<'a> {
    rest: std::str::CharIndices<'a>,
    length: usize,
    at: Location,
}

impl<'a> Cursor<'a> {
    fn new(sql: &'a str) -> Self {
        Self { rest: sql.char_indices(), length: sql.len(), at: Location { line: 1, column: 1 } }
    }

    fn range(&mut self, start: Location, end: Location) -> Range<usize> {
        let start = self.offset(start);
        start..self.offset(end).max(start)
    }

    fn offset(&mut self, place: Location) -> usize {
        while (self.at.line, self.at.column) < (place.line, place.column) {
            match self.rest.next() {
                Some((_, '\n')) => self.at = Location { line: self.at.line + 1, column: 1 },
                Some(_) => self.at.column += 1,
                None => return self.length,
            }
        }
        self.rest.offset()
    }
}
