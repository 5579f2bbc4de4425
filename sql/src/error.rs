//! The one error type of this crate: a public code, a message fit for any client, and where in the text it is about.
//!
//! Errors of the engine and of DataFusion are mapped here and nowhere else. What a client cannot act on becomes
//! [`ErrorCode::Internal`]: its details go to the log under an id, and only the id is shown.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use kalamdb_engine::Error as EngineError;

use crate::{functions, names};

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:literal;)*) => {
        /// What kind of error, as clients see it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are those of the public contract")]
        pub enum ErrorCode { $($variant),* }

        impl ErrorCode {
            /// The code as it is written in answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }
        }
    };
}

codes! {
    SyntaxError = "SYNTAX_ERROR", 400;
    InvalidStatement = "INVALID_STATEMENT", 400;
    InvalidParameter = "INVALID_PARAMETER", 400;
    Unsupported = "UNSUPPORTED", 400;
    TypeMismatch = "TYPE_MISMATCH", 400;
    Unauthenticated = "UNAUTHENTICATED", 401;
    PermissionDenied = "PERMISSION_DENIED", 403;
    NamespaceNotFound = "NAMESPACE_NOT_FOUND", 404;
    TableNotFound = "TABLE_NOT_FOUND", 404;
    ColumnNotFound = "COLUMN_NOT_FOUND", 404;
    UserNotFound = "USER_NOT_FOUND", 404;
    LiveQueryNotFound = "LIVE_QUERY_NOT_FOUND", 404;
    StorageNotFound = "STORAGE_NOT_FOUND", 404;
    NotFound = "NOT_FOUND", 404;
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405;
    UniqueViolation = "UNIQUE_VIOLATION", 409;
    AlreadyExists = "ALREADY_EXISTS", 409;
    Conflict = "CONFLICT", 409;
    InUse = "IN_USE", 409;
    CursorExpired = "CURSOR_EXPIRED", 410;
    TooLarge = "TOO_LARGE", 413;
    RateLimited = "RATE_LIMITED", 429;
    NotNullViolation = "NOT_NULL_VIOLATION", 422;
    CheckViolation = "CHECK_VIOLATION", 422;
    ValueOutOfRange = "VALUE_OUT_OF_RANGE", 422;
    DivisionByZero = "DIVISION_BY_ZERO", 422;
    Cancelled = "CANCELLED", 499;
    Internal = "INTERNAL", 500;
    Overloaded = "OVERLOADED", 503;
    ShuttingDown = "SHUTTING_DOWN", 503;
    ReadOnly = "READ_ONLY", 503;
    StorageFull = "STORAGE_FULL", 507;
}

/// A place in the text of a request, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column within the line.
    pub column: u64,
}

/// An error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind.
    pub code: ErrorCode,
    /// What happened, in a sentence; never shows internals or data of other users.
    pub message: String,
    /// What might help.
    pub hint: Option<String>,
    /// Where in the whole text of the request.
    pub position: Option<Position>,
}

impl Error {
    /// An error without hint and position.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, position: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the position, unless a more precise one is there already.
    #[must_use]
    pub fn with_position(mut self, position: impl Into<Option<Position>>) -> Self {
        self.position = self.position.or(position.into());
        self
    }

    /// An error whose details a client must not see: they are logged under an id, and the id is shown.
    pub fn internal(details: impl std::fmt::Display) -> Self {
        // A fresh RandomState differs from every other one of the process: enough to find one line in a log.
        let id = RandomState::new().build_hasher().finish();
        tracing::error!(error_id = format!("{id:016x}"), %details, "internal error");
        Self::new(ErrorCode::Internal, format!("internal error {id:016x}"))
            .with_hint("the server's log has the details under this id")
    }

    /// The error as one that DataFusion can carry through a plan; [`From`] gives it back unchanged.
    pub fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        from_engine(&error)
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(&error)
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        from_arrow(&error)
    }
}

fn from_engine(error: &EngineError) -> Error {
    let code = match error {
        EngineError::InvalidName { .. } => ErrorCode::InvalidParameter,
        EngineError::InvalidSchema(_) => ErrorCode::InvalidStatement,
        EngineError::UniqueViolation { .. } => ErrorCode::UniqueViolation,
        EngineError::NotNullViolation { .. } => ErrorCode::NotNullViolation,
        EngineError::Conflict => ErrorCode::Conflict,
        EngineError::AlreadyExists { .. } => ErrorCode::AlreadyExists,
        EngineError::NamespaceNotFound(_) => ErrorCode::NamespaceNotFound,
        EngineError::TableNotFound(_) => ErrorCode::TableNotFound,
        EngineError::InUse { .. } => ErrorCode::InUse,
        EngineError::TooLarge(_) => ErrorCode::TooLarge,
        EngineError::Overloaded(_) => ErrorCode::Overloaded,
        EngineError::Expired { .. } => ErrorCode::CursorExpired,
        EngineError::Cancelled(_) => ErrorCode::Cancelled,
        EngineError::Closed => ErrorCode::ShuttingDown,
        // Met while opening, where the reader is the operator: the file and offset are the point of the message.
        EngineError::Locked(_) | EngineError::Corrupt(_) | EngineError::NewerFormat(_) => ErrorCode::Internal,
        EngineError::ReadOnly(_) => return hidden(ErrorCode::ReadOnly, READ_ONLY, error),
        EngineError::StorageFull(_) => return hidden(ErrorCode::StorageFull, STORAGE_FULL, error),
        other => return Error::internal(other),
    };
    Error::new(code, error.to_string())
}

const READ_ONLY: &str = "the log failed: the database is read-only until it is restarted";
const STORAGE_FULL: &str = "no space left on the server's disk; reads go on";

/// A known failure of the machine: clients get a fixed sentence, the log the details.
fn hidden(code: ErrorCode, message: &str, details: &EngineError) -> Error {
    tracing::error!(code = code.as_str(), %details, "write refused");
    Error::new(code, message)
}

fn from_datafusion(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::ArrowError(error, _) => from_arrow(error),
        DataFusionError::SQL(error, _) => crate::dialect::syntax_error(error),
        DataFusionError::NotImplemented(message) => unsupported(message),
        DataFusionError::Plan(message) => from_plan(message),
        DataFusionError::Configuration(message) => Error::new(ErrorCode::InvalidParameter, tidy(message)),
        DataFusionError::SchemaError(error, _) => from_schema(error),
        DataFusionError::Execution(message) => from_execution(message),
        DataFusionError::ResourcesExhausted(message) => crate::query::exhausted(message),
        DataFusionError::External(error) => from_external(error.as_ref()),
        DataFusionError::Context(_, inner) => from_datafusion(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let start = diagnostic.span.map(|span| span.start);
            let known = start.filter(|start| start.line > 0);
            from_datafusion(inner)
                .with_position(known.map(|at| Position { line: at.line, column: at.column }))
        }
        DataFusionError::Collection(errors) if !errors.is_empty() => from_datafusion(&errors[0]),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::IoError(error) => from_io(error),
        other => from_filter(&other.to_string()).unwrap_or_else(|| Error::internal(other)),
    }
}

/// Errors of a filter that the Parquet reader evaluates come as text that holds them as they are debugged.
fn from_filter(message: &str) -> Option<Error> {
    let (_, inner) = message.split_once("Error evaluating filter predicate: ")?;
    if inner.contains("DivideByZero") {
        return Some(division_by_zero());
    }
    let out_of_range = ["ArithmeticOverflow(", "CastError(", "ParseError("];
    let (_, after) = out_of_range.iter().find_map(|kind| inner.split_once(kind))?;
    let message = after.trim_start_matches('"').split("\")").next().unwrap_or(after);
    Some(Error::new(ErrorCode::ValueOutOfRange, tidy(message)))
}

fn from_external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(error) = error.downcast_ref::<Error>() {
        error.clone()
    } else if let Some(error) = error.downcast_ref::<EngineError>() {
        from_engine(error)
    } else if let Some(error) = error.downcast_ref::<DataFusionError>() {
        from_datafusion(error)
    } else if let Some(error) = error.downcast_ref::<ArrowError>() {
        from_arrow(error)
    } else {
        Error::internal(error)
    }
}

fn from_arrow(error: &ArrowError) -> Error {
    if let ArrowError::ComputeError(message) | ArrowError::ParquetError(message) = error
        && let Some(error) = from_filter(message)
    {
        return error;
    }
    let out_of_range = |message: &str| Error::new(ErrorCode::ValueOutOfRange, tidy(message));
    match error {
        ArrowError::DivideByZero => division_by_zero(),
        ArrowError::ArithmeticOverflow(message)
        | ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::ComputeError(message) => out_of_range(message),
        // Arrow reports decimals that do not fit their precision this way.
        ArrowError::InvalidArgumentError(message)
            if message.contains("too large") || message.contains("too small") =>
        {
            out_of_range(message)
        }
        ArrowError::IoError(_, error) => from_io(error),
        ArrowError::NotYetImplemented(message) => Error::new(ErrorCode::Unsupported, tidy(message)),
        ArrowError::ExternalError(error) => from_external(error.as_ref()),
        other => Error::internal(other),
    }
}

/// Files that statements spill to are all that DataFusion writes.
fn from_io(error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull => Error::new(ErrorCode::StorageFull, STORAGE_FULL),
        ErrorKind::QuotaExceeded => {
            Error::new(ErrorCode::StorageFull, "statements have spilled as much to disk as they may")
                .with_hint("sort, group or join less at once, or raise limits.spill")
        }
        _ => Error::internal(error),
    }
}

fn division_by_zero() -> Error {
    Error::new(ErrorCode::DivisionByZero, "division by zero")
}

fn from_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error =
                Error::new(ErrorCode::ColumnNotFound, format!("column {} does not exist", field.flat_name()));
            let candidates = valid_fields.iter().map(|f| f.name());
            match names::nearest(field.name(), candidates) {
                Some(name) => error.with_hint(format!("did you mean {name}?")),
                None => error,
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Error::new(ErrorCode::InvalidStatement, format!("column {} is ambiguous", field.flat_name()))
                .with_hint("write the table's name or alias before it")
        }
        SchemaError::DuplicateQualifiedField { qualifier, name } => {
            Error::new(ErrorCode::InvalidStatement, format!("column {qualifier}.{name} appears twice"))
        }
        SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(ErrorCode::InvalidStatement, format!("column {name} appears twice"))
                .with_hint("give one of them another name with AS")
        }
    }
}

/// Planning errors are prose; a few families of them have a code of their own.
fn from_plan(message: &str) -> Error {
    const TYPE_ERRORS: [&str; 10] = [
        "coerce",
        "coercion",
        "No function matches",
        "Cannot infer common",
        "does not support",
        "Cannot cast",
        "Unsupported CAST",
        "Cannot get result type",
        "requires a boolean",
        "only supports",
    ];
    let lower = message.to_lowercase();
    if let Some(error) = unknown_function(message) {
        return error;
    }
    let code = if lower.contains("divide by zero") {
        return division_by_zero();
    } else if TYPE_ERRORS.iter().any(|part| message.contains(part)) {
        ErrorCode::TypeMismatch
    } else {
        ErrorCode::InvalidStatement
    };
    Error::new(code, tidy(message))
}

/// `Invalid function 'uppr'. Did you mean 'upper'?`, where the name meant is always some name.
fn unknown_function(message: &str) -> Option<Error> {
    let (name, rest) = message.strip_prefix("Invalid function '")?.split_once('\'')?;
    if let Some(instead) = functions::instead_of(name) {
        let error = Error::new(ErrorCode::Unsupported, format!("there is no function {name}"));
        return Some(error.with_hint(instead));
    }
    let error = Error::new(ErrorCode::InvalidStatement, format!("function {name} does not exist"));
    let meant = rest.split_once("Did you mean '").and_then(|(_, rest)| rest.split('\'').next());
    Some(match meant.and_then(|meant| names::nearest(name, [meant])) {
        Some(meant) => error.with_hint(format!("did you mean {meant}?")),
        None => error,
    })
}

/// What DataFusion cannot plan, in other words than those of its own trees.
fn unsupported(message: &str) -> Error {
    let error = |text: &str| Error::new(ErrorCode::Unsupported, text);
    if let Some((_, node)) = message.split_once("Unsupported ast node in sqltorel: ") {
        let name = node.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        return error(&format!("{name} is not supported here"));
    }
    if let Some((_, expression)) = message.split_once("does not support logical expression ") {
        return match expression.split(['(', ' ']).next() {
            Some("OuterReferenceColumn") => {
                error("a subquery refers to a row outside of it in a way that cannot be planned")
                    .with_hint("write it as a join, without LIMIT or set operations in the subquery")
            }
            _ => error("a subquery stands where none can")
                .with_hint("subqueries can stand in conditions and lists"),
        };
    }
    error(&tidy(message))
}

fn from_execution(message: &str) -> Error {
    let lower = message.to_lowercase();
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return division_by_zero();
    }
    let out_of_range = ["overflow", "out of range", "parsing", "parse", "cast", "too large"];
    let code = if out_of_range.iter().any(|part| lower.contains(part)) {
        ErrorCode::ValueOutOfRange
    } else {
        ErrorCode::InvalidStatement
    };
    Error::new(code, tidy(message))
}

/// A library's message without its line breaks and trailing advice to its own developers.
fn tidy(message: &str) -> String {
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    let message = message.split("This issue was likely caused by a bug").next().unwrap_or(message);
    let message = ["Internal error: ", "Error during planning: ", "Execution error: "]
        .iter()
        .fold(message.to_owned(), |message, prefix| message.replace(prefix, ""));
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_error_of_ours_survives_any_wrapping_by_datafusion() {
        let ours =
            Error::new(ErrorCode::TableNotFound, "table a.b does not exist").with_hint("did you mean a.c?");
        let wrapped = DataFusionError::Context(
            "while planning".into(),
            Box::new(DataFusionError::Shared(Arc::new(ours.clone().into_datafusion()))),
        );
        assert_eq!(Error::from(wrapped), ours);
        let through_arrow = ArrowError::ExternalError(Box::new(ours.clone().into_datafusion()));
        assert_eq!(Error::from(DataFusionError::from(through_arrow)), ours);
    }

    #[test]
    fn arithmetic_errors_have_their_own_codes() {
        let cases = [
            (ArrowError::DivideByZero, ErrorCode::DivisionByZero),
            (
                ArrowError::ArithmeticOverflow("Overflow happened on: 1 + 2".into()),
                ErrorCode::ValueOutOfRange,
            ),
            (ArrowError::CastError("Cannot cast string 'x' to Int32".into()), ErrorCode::ValueOutOfRange),
        ];
        for (error, code) in cases {
            assert_eq!(Error::from(DataFusionError::from(error)).code, code);
        }
    }

    #[test]
    fn an_error_of_a_filter_in_a_file_is_the_error_of_the_filter() {
        let text = |inner: DataFusionError| format!("Error evaluating filter predicate: {inner:?}");
        let divided = text(DataFusionError::from(ArrowError::DivideByZero));
        let overflowed = text(DataFusionError::from(ArrowError::ArithmeticOverflow("1 + 2 is much".into())));
        for (text, code) in [(divided, ErrorCode::DivisionByZero), (overflowed, ErrorCode::ValueOutOfRange)] {
            let error = Error::from(ArrowError::ComputeError(text.clone()));
            assert_eq!(error.code, code, "{error}");
            let wrapped = DataFusionError::External(Box::new(ArrowError::ParquetError(text)));
            assert_eq!(Error::from(wrapped), error);
            assert!(error.message == "division by zero" || error.message == "1 + 2 is much", "{error}");
        }
    }

    #[test]
    fn an_internal_error_shows_an_id_and_no_details() {
        let error = Error::from(DataFusionError::Internal("secret /path".into()));
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn the_most_precise_position_wins() {
        let at = |line| Position { line, column: 1 };
        let error = Error::new(ErrorCode::SyntaxError, "x").with_position(at(1)).with_position(at(2));
        assert_eq!(error.position, Some(at(1)));
    }
}
