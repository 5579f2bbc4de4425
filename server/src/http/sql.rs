//! `POST /api/sql`: runs the statements of a request, one after another, and streams what they give.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use kalamdb_sql::{ErrorCode, ParsedStatement, RowFormat, Session};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::aside::Aside;
use super::auth::Caller;
use super::body;
use super::error::{ApiError, ApiResult};
use super::formats::{Format, json::JsonRun, negotiate, table::TableRun};
use super::produce::{self, Produce};
use super::query::Pairs;
use super::state::Shared;

/// Most parameters of one statement.
const MAX_PARAMS: usize = 1000;

/// A request, however it was written.
#[derive(Debug)]
struct SqlRequest {
    sql: String,
    params: Vec<Value>,
    namespace: Option<String>,
    row_format: RowFormat,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest {
    sql: String,
    #[serde(default)]
    params: Option<Vec<Value>>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    row_format: Option<Layout>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Layout {
    Objects,
    Arrays,
}

impl From<Layout> for RowFormat {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Objects => Self::Objects,
            Layout::Arrays => Self::Arrays,
        }
    }
}

/// `POST /api/sql`.
pub(crate) async fn sql(
    State(app): State<Shared>,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let body = body::gather(&headers, body, app.config.limits.body.bytes()).await?;
    let request = understand(&headers, &uri, &body)?;
    let format = negotiate(headers.get(ACCEPT));
    let turn = app.turn().await?;
    let mut session = app.instance.session(caller.identity);
    if let Some(namespace) = &request.namespace {
        session.use_namespace(namespace)?;
    }
    let statements = parse(&session, &request)?;
    let quick = statements.iter().all(|statement| session.is_quick(statement));
    match format {
        Format::Json => {
            let run = JsonRun::new(session, statements, request.params, request.row_format);
            answer(app, run, turn, quick).await
        }
        other => {
            let run = TableRun::new(session, statements, request.params, request.row_format, other);
            answer(app, run, turn, quick).await
        }
    }
}

async fn answer<P: Produce>(app: Shared, run: P, turn: OwnedSemaphorePermit, quick: bool) -> ApiResult {
    if quick {
        return produce::answer(app, run, turn).await;
    }
    let run = Aside::begin(&app.queries, run);
    produce::answer(app, run, turn).await
}

fn parse(session: &Session, request: &SqlRequest) -> ApiResult<Vec<ParsedStatement>> {
    // The one thing that fails here: a statement that cannot be understood fails when its turn comes.
    let nothing = |_| ApiError::new(ErrorCode::InvalidStatement, "the request holds no statement");
    let statements = session.parse(&request.sql).map_err(nothing)?;
    if statements.len() > 1 && !request.params.is_empty() {
        return Err(ApiError::invalid("parameters can be used with one statement only")
            .hint("send the statements one by one"));
    }
    Ok(statements)
}

fn understand(headers: &HeaderMap, uri: &Uri, body: &[u8]) -> ApiResult<SqlRequest> {
    let media_type = body::media_type(headers);
    match media_type.as_str() {
        "application/json" => from_json(body),
        "text/plain" | "application/sql" => from_text(uri, body),
        // Without a type, what begins like an object is one: no SQL statement begins so.
        "" if body.trim_ascii_start().starts_with(b"{") => from_json(body),
        "" => from_text(uri, body),
        other => Err(ApiError::invalid(format!("a body of type {other:?} cannot be run"))
            .hint("send application/json, or text/plain or application/sql with the SQL itself")),
    }
}

fn from_json(body: &[u8]) -> ApiResult<SqlRequest> {
    let request: JsonRequest = body::parse_json(body)?;
    let params = request.params.unwrap_or_default();
    if params.len() > MAX_PARAMS {
        let message = format!("{} parameters are more than the {MAX_PARAMS} allowed", params.len());
        return Err(ApiError::new(ErrorCode::TooLarge, message));
    }
    let row_format = request.row_format.unwrap_or(Layout::Objects).into();
    Ok(SqlRequest { sql: request.sql, params, namespace: request.namespace, row_format })
}

fn from_text(uri: &Uri, body: &[u8]) -> ApiResult<SqlRequest> {
    let sql = std::str::from_utf8(body)
        .map_err(|error| ApiError::invalid(format!("the body is not UTF-8 text: {error}")))?;
    let pairs = Pairs::of(uri);
    pairs.only(&["namespace", "row_format"])?;
    let row_format = match pairs.last("row_format") {
        None | Some("objects") => RowFormat::Objects,
        Some("arrays") => RowFormat::Arrays,
        Some(other) => {
            return Err(ApiError::invalid(format!("row_format must be objects or arrays, not {other:?}")));
        }
    };
    let namespace = pairs.last("namespace").map(Into::into);
    Ok(SqlRequest { sql: sql.to_owned(), params: Vec::new(), namespace, row_format })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media_type: &str, uri: &str, body: &str) -> Result<SqlRequest, ErrorCode> {
        let mut headers = HeaderMap::new();
        if !media_type.is_empty() {
            headers.insert("content-type", media_type.parse().unwrap());
        }
        understand(&headers, &uri.parse().unwrap(), body.as_bytes()).map_err(|error| error.error().code)
    }

    #[test]
    fn requests_are_understood_in_every_form() {
        let request = read("text/plain", "/x?namespace=app&row_format=arrays", "SELECT 1").unwrap();
        assert_eq!((request.sql.as_str(), request.namespace.as_deref()), ("SELECT 1", Some("app")));
        assert!(matches!(request.row_format, RowFormat::Arrays));
        let json = r#"{"sql":"SELECT $1","params":[1],"namespace":null,"row_format":"objects"}"#;
        assert_eq!(read("application/json; charset=utf-8", "/x", json).unwrap().params, [Value::from(1)]);
        assert_eq!(read("", "/x", " {\"sql\":\"SELECT 2\"}").unwrap().sql, "SELECT 2");
        assert_eq!(read("", "/x", "SELECT 3").unwrap().sql, "SELECT 3");
        assert_eq!(read("application/sql", "/x", "SELECT 4").unwrap().sql, "SELECT 4");
    }

    #[test]
    fn what_cannot_be_understood_has_its_code() {
        use ErrorCode::{InvalidParameter, SyntaxError, TooLarge};
        let many = format!(r#"{{"sql":"x","params":[{}1]}}"#, "1,".repeat(1000));
        let cases = [
            ("application/json", "/x", "{", SyntaxError),
            ("application/json", "/x", r#"{"sql":1}"#, InvalidParameter),
            ("application/json", "/x", r#"{"sqll":"x"}"#, InvalidParameter),
            ("application/json", "/x", r#"{"sql":"x","row_format":"columns"}"#, InvalidParameter),
            ("application/json", "/x", r#"{"sql":"x","params":{}}"#, InvalidParameter),
            ("application/json", "/x", "[]", InvalidParameter),
            ("application/json", "/x", &many, TooLarge),
            ("application/x-www-form-urlencoded", "/x", "sql=x", InvalidParameter),
            ("text/plain", "/x?row_format=columns", "x", InvalidParameter),
            ("text/plain", "/x?row_formt=arrays", "x", InvalidParameter),
        ];
        for (media_type, uri, body, code) in cases {
            assert_eq!(read(media_type, uri, body).unwrap_err(), code, "{media_type} {uri} {body:.40}");
        }
    }
}
