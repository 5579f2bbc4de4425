//! What differs between our SQL and sqlparser's PostgreSQL.

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
    UnaryOperator,
};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// PostgreSQL's grammar with these differences:
///
/// - `x<-5` is a comparison with a negative number: there are no operators made of arbitrary signs;
/// - `SELECT * EXCLUDE (c)` and `SELECT * REPLACE (...)` work, because DataFusion knows them;
/// - `CURRENT_ROLE` needs no parentheses, and `CURRENT_USER` may have them;
/// - `user` without parentheses is an ordinary name: tables of users are common.
#[derive(Debug)]
pub(crate) struct KalamDialect;

/// The same grammar for texts of clients. sqlparser tries some constructs in several ways, and where these nest a wrong
/// text takes time exponential in its depth; here an operand more than there can be ends the parse.
#[derive(Debug)]
pub(super) struct BoundedDialect {
    operands_left: Cell<usize>,
}

impl BoundedDialect {
    /// The grammar for one statement of so many tokens.
    pub(super) fn for_tokens(count: usize) -> Self {
        Self { operands_left: Cell::new(10_000 + 20 * count) }
    }
}

/// Asked before every operand.
trait Budget {
    /// False if there were too many.
    fn take_operand(&self) -> bool;
}

impl Budget for KalamDialect {
    fn take_operand(&self) -> bool {
        true
    }
}

impl Budget for BoundedDialect {
    fn take_operand(&self) -> bool {
        let left = self.operands_left.get();
        self.operands_left.set(left.saturating_sub(1));
        left > 0
    }
}

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

macro_rules! like_postgres {
    ($($method:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $method(&self, $($arg: $type),*) -> $result { POSTGRES.$method($($arg),*) })*
    };
}

macro_rules! grammar {
    ($dialect:ident) => {
        impl Dialect for $dialect {
            fn dialect(&self) -> TypeId {
                TypeId::of::<PostgreSqlDialect>()
            }

            like_postgres! {
                identifier_quote_style(identifier: &str) -> Option<char>;
                is_delimited_identifier_start(ch: char) -> bool;
                is_identifier_start(ch: char) -> bool;
                is_identifier_part(ch: char) -> bool;
                supports_unicode_string_literal() -> bool;
                is_reserved_for_identifier(keyword: Keyword) -> bool;
                get_next_precedence(parser: &Parser<'_>) -> Option<Result<u8, ParserError>>;
                supports_filter_during_aggregation() -> bool;
                supports_group_by_expr() -> bool;
                prec_value(precedence: Precedence) -> u8;
                allow_extract_custom() -> bool;
                allow_extract_single_quotes() -> bool;
                supports_factorial_operator() -> bool;
                supports_bitwise_shift_operators() -> bool;
                supports_named_fn_args_with_colon_operator() -> bool;
                supports_nested_comments() -> bool;
                supports_string_escape_constant() -> bool;
                supports_numeric_literal_underscores() -> bool;
                supports_array_typedef_with_brackets() -> bool;
                supports_notnull_operator() -> bool;
                supports_interval_options() -> bool;
                supports_insert_table_alias() -> bool;
                supports_select_wildcard_with_alias() -> bool;
                supports_comma_separated_trim() -> bool;
            }

            fn supports_select_wildcard_exclude(&self) -> bool {
                true
            }

            fn supports_select_wildcard_replace(&self) -> bool {
                true
            }

            /// Literals come first, without sqlparser's attempt to read every operand as a type name: an `INSERT` has thousands.
            fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
                if !self.take_operand() {
                    return Some(Err(ParserError::RecursionLimitExceeded));
                }
                match &parser.peek_token_ref().token {
                    Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => {
                        Some(parser.parse_value().map(Expr::Value))
                    }
                    Token::Minus => {
                        parser.advance_token();
                        let operand = parser.parse_subexpr(self.prec_value(Precedence::MulDivModOp));
                        let negated = |expr| Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(expr) };
                        Some(operand.map(negated))
                    }
                    Token::Word(word) if word.quote_style.is_none() => {
                        let keyword = word.keyword;
                        match keyword {
                            Keyword::CURRENT_USER | Keyword::CURRENT_ROLE | Keyword::SESSION_USER => {
                                Some(identity_function(parser))
                            }
                            Keyword::USER => Some(parse_user_as_name(parser)),
                            _ => None,
                        }
                    }
                    _ => None,
                }
            }
        }
    };
}

grammar!(KalamDialect);
grammar!(BoundedDialect);

/// `CURRENT_USER` and `CURRENT_ROLE`, with and without parentheses, as ordinary calls.
fn identity_function(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let name = parser.parse_identifier()?;
    if parser.consume_token(&Token::LParen) {
        parser.expect_token(&Token::RParen)?;
    }
    Ok(call(name, Vec::new()))
}

/// A call by name.
pub(crate) fn call(name: impl Into<Ident>, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![name.into()]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `user`, `user.column`, as PostgreSQL would treat any unreserved word.
fn parse_user_as_name(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    let mut parts = vec![parser.parse_identifier()?];
    while parts.len() < 3 && parser.consume_token(&Token::Period) {
        parts.push(parser.parse_identifier()?);
    }
    Ok(match <[Ident; 1]>::try_from(parts) {
        Ok([name]) => Expr::Identifier(name),
        Err(parts) => Expr::CompoundIdentifier(parts),
    })
}
