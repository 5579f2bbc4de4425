//! Statements of other databases that are understood and refused, with what there is instead.

use super::tokens::Tokens;
use crate::error::{Error, ErrorCode};

/// First words, what they would do, and what to do instead.
const STATEMENTS: [(&[&str], &str, Option<&str>); 40] = [
    (&["SAVEPOINT"], "savepoints", None),
    (&["RELEASE"], "savepoints", None),
    (&["BACKUP"], "backups", None),
    (&["RESTORE"], "backups", None),
    (&["SHOW", "BACKUP"], "backups", None),
    (&["CREATE", "INDEX"], "secondary indexes", KEYS),
    (&["CREATE", "UNIQUE"], "secondary indexes", KEYS),
    (&["DROP", "INDEX"], "secondary indexes", KEYS),
    (&["CREATE", "SCHEMA"], "schemas", NAMESPACES),
    (&["CREATE", "DATABASE"], "databases", NAMESPACES),
    (&["DROP", "SCHEMA"], "schemas", NAMESPACES),
    (&["DROP", "DATABASE"], "databases", NAMESPACES),
    (
        &["CREATE", "SEQUENCE"],
        "sequences",
        Some("a BIGINT column can be AUTO_INCREMENT, or DEFAULT SNOWFLAKE_ID()"),
    ),
    (&["CREATE", "FUNCTION"], "functions of one's own", None),
    (&["CREATE", "PROCEDURE"], "procedures", None),
    (&["CREATE", "TRIGGER"], "triggers", LIVE),
    (
        &["CREATE", "MATERIALIZED"],
        "materialized views",
        Some("CREATE VIEW makes one that is computed when it is read"),
    ),
    (&["CREATE", "TEMP"], "temporary tables", WITH),
    (&["CREATE", "TEMPORARY"], "temporary tables", WITH),
    (&["CREATE", "TYPE"], "types of one's own", None),
    (&["CREATE", "EXTENSION"], "extensions", None),
    (
        &["CREATE", "ROLE"],
        "roles of one's own",
        Some("CREATE USER 'name' WITH PASSWORD '...' ROLE user makes a user"),
    ),
    (&["GRANT"], "privileges", ACCESS),
    (&["REVOKE"], "privileges", ACCESS),
    (&["SET"], "settings of a session", Some("USE chooses the namespace; times are in UTC")),
    (&["RESET"], "settings of a session", None),
    (&["PREPARE"], "prepared statements", PARAMETERS),
    (&["DEALLOCATE"], "prepared statements", PARAMETERS),
    (&["DECLARE"], "cursors", Some("answers are streamed, however long they are")),
    (&["COPY"], "COPY", Some("POST a file to /api/import/{namespace}/{table}, or use kalamdb import")),
    (&["MERGE"], "MERGE", Some("INSERT ... ON CONFLICT (key) DO UPDATE SET ... inserts or changes rows")),
    (&["REPLACE"], "REPLACE", Some("INSERT ... ON CONFLICT (key) DO UPDATE SET ... inserts or changes rows")),
    (&["VACUUM"], "VACUUM", COMPACT),
    (
        &["ANALYZE"],
        "ANALYZE",
        Some("statistics are kept with every write; EXPLAIN ANALYZE runs and explains a query"),
    ),
    (&["COMMENT"], "comments", None),
    (&["LISTEN"], "LISTEN", LIVE),
    (&["NOTIFY"], "NOTIFY", LIVE),
    (&["LOCK"], "locks", Some("of two transactions that change a row the first to commit wins")),
    (&["CALL"], "procedures", None),
    (&["DO"], "procedures", None),
];

const KEYS: Option<&str> = Some("rows are found by their primary key, and by what is known of every file");
const NAMESPACES: Option<&str> = Some("CREATE NAMESPACE and DROP NAMESPACE are what there is");
const LIVE: Option<&str> = Some("a live query, GET /api/live?sql=SELECT..., tells of every change");
const WITH: Option<&str> = Some("WITH names the rows of a query within a statement");
const ACCESS: Option<&str> = Some("users have a ROLE, shared tables the option access");
const PARAMETERS: Option<&str> =
    Some("send values as params for $1, $2, ...: plans of statements that come again are kept");
const COMPACT: Option<&str> = Some("this goes on by itself; COMPACT TABLE does it at once");

/// The error for a statement that there is not; `None` for all others.
pub(super) fn refusal(tokens: &mut Tokens<'_>) -> Option<Error> {
    let (_, what, instead) = STATEMENTS.iter().find(|(words, ..)| tokens.sees_all(words))?;
    let error = Error::new(ErrorCode::Unsupported, format!("{what}: not supported by this version"));
    let error = error.with_position(tokens.here());
    Some(match instead {
        Some(instead) => error.with_hint(*instead),
        None => error,
    })
}
