//! sqlparser's parser with what our own statements need: words that are no keywords there, and errors with positions.

use datafusion::sql::sqlparser::ast::ObjectName;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::ast::TableRef;
use super::grammar::BoundedDialect;
use super::limits::RECURSION_LIMIT;
use super::position;
use crate::error::{Error, ErrorCode, Position, Result};
use crate::names;

/// The tokens of one statement.
pub(super) struct Tokens<'a> {
    pub(super) parser: Parser<'a>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(dialect: &'a BoundedDialect, tokens: Vec<TokenWithSpan>) -> Self {
        let parser = Parser::new(dialect).with_recursion_limit(RECURSION_LIMIT);
        Self { parser: parser.with_tokens_with_locations(tokens) }
    }

    /// Where the next token is; `None` at the end.
    pub(super) fn here(&self) -> Option<Position> {
        position(self.parser.peek_token_ref().span)
    }

    /// True if the token `n` ahead is this unquoted word.
    pub(super) fn sees_nth(&self, n: usize, word: &str) -> bool {
        matches!(&self.parser.peek_nth_token_ref(n).token,
            Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    /// True if the next token is this unquoted word.
    pub(super) fn sees(&self, word: &str) -> bool {
        self.sees_nth(0, word)
    }

    /// True if the next tokens are these words.
    pub(super) fn sees_all(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| self.sees_nth(n, word))
    }

    /// Takes this word if it is next.
    pub(super) fn take(&mut self, word: &str) -> bool {
        self.take_all(&[word])
    }

    /// Takes all of these words if they are next, or none of them.
    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let found = self.sees_all(words);
        if found {
            words.iter().for_each(|_| self.parser.advance_token());
        }
        found
    }

    /// Takes this sign if it is next.
    pub(super) fn take_sign(&mut self, sign: &Token) -> bool {
        self.parser.consume_token(sign)
    }

    /// Takes these words or fails.
    pub(super) fn expect(&mut self, words: &[&str]) -> Result<()> {
        if self.take_all(words) { Ok(()) } else { Err(self.expected(&words.join(" "))) }
    }

    /// Takes this sign or fails.
    pub(super) fn expect_sign(&mut self, sign: &Token) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.expected(&format!("'{sign}'"))) }
    }

    /// Fails unless everything was taken.
    pub(super) fn expect_end(&mut self) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.expected("the end of the statement")) }
    }

    pub(super) fn at_end(&self) -> bool {
        self.parser.peek_token_ref().token == Token::EOF
    }

    /// The error that something else is next.
    pub(super) fn expected(&self, what: &str) -> Error {
        let token = self.parser.peek_token_ref();
        let found = match &token.token {
            Token::EOF => "the end of the statement".to_owned(),
            token => shortened(&token.to_string()),
        };
        Error::new(ErrorCode::SyntaxError, format!("expected {what}, found {found}"))
            .with_position(self.here())
    }

    /// A name, folded unless quoted, and where it is.
    pub(super) fn name(&mut self, what: &str) -> Result<(String, Option<Position>)> {
        let at = self.here();
        match &self.parser.peek_token_ref().token {
            Token::Word(_) => Ok((names::fold(&self.parser.parse_identifier()?), at)),
            _ => Err(self.expected(what)),
        }
    }

    /// A table's name with or without its namespace.
    pub(super) fn table(&mut self) -> Result<TableRef> {
        if !matches!(self.parser.peek_token_ref().token, Token::Word(_)) {
            return Err(self.expected("a table name"));
        }
        let name: ObjectName = self.parser.parse_object_name(false)?;
        names::table_ref(&name)
    }

    /// A text in single quotes.
    pub(super) fn text(&mut self, what: &str) -> Result<(String, Option<Position>)> {
        let at = self.here();
        match &self.parser.peek_token_ref().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => {
                let text = text.clone();
                self.parser.advance_token();
                Ok((text, at))
            }
            _ => Err(self.expected(what)),
        }
    }

    /// A text in single quotes or a name.
    pub(super) fn text_or_name(&mut self, what: &str) -> Result<(String, Option<Position>)> {
        match &self.parser.peek_token_ref().token {
            Token::Word(_) => self.name(what),
            _ => self.text(what),
        }
    }

    /// A whole number.
    pub(super) fn number(&mut self, what: &str) -> Result<(u64, Option<Position>)> {
        let at = self.here();
        let Token::Number(digits, _) = &self.parser.peek_token_ref().token else {
            return Err(self.expected(what));
        };
        let number = digits.parse();
        let number = number.map_err(|_| {
            Error::new(ErrorCode::InvalidParameter, format!("expected {what}, found {}", shortened(digits)))
                .with_position(at)
        })?;
        self.parser.advance_token();
        Ok((number, at))
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(60).chain(['…']).collect()
}
