//! Every error with its code and place.

use super::*;

#[test]
fn errors_have_codes_and_places() {
    use ErrorCode::{InvalidParameter, InvalidStatement, SyntaxError, TooLarge, Unsupported};
    let cases = [
        ("SELEC 1", SyntaxError, at(1, 1)),
        ("42", SyntaxError, at(1, 1)),
        ("SELECT * FORM t", SyntaxError, at(1, 15)),
        ("SELECT (1", SyntaxError, at(1, 10)),
        ("SELECT 1 2", SyntaxError, at(1, 10)),
        ("SELECT 'open", SyntaxError, at(1, 8)),
        ("SELECT \"open", SyntaxError, at(1, 8)),
        ("EXPLAIN SELECT FROM WHERE", SyntaxError, at(1, 21)),
        ("EXPLAIN DELETE FROM t", Unsupported, at(1, 9)),
        ("CREATE", SyntaxError, at(1, 7)),
        ("CREATE THING t", SyntaxError, at(1, 8)),
        ("CREATE NAMESPACE", SyntaxError, at(1, 17)),
        ("CREATE NAMESPACE 'a'", SyntaxError, at(1, 18)),
        ("CREATE NAMESPACE a b", SyntaxError, at(1, 20)),
        ("CREATE TABLE (a INT)", SyntaxError, at(1, 14)),
        ("CREATE TABLE t", SyntaxError, at(1, 15)),
        ("CREATE TABLE t ()", SyntaxError, at(1, 17)),
        ("CREATE TABLE t (a)", SyntaxError, at(1, 18)),
        ("CREATE TABLE t (a INT,)", SyntaxError, at(1, 23)),
        ("CREATE TABLE t (a INT", SyntaxError, at(1, 22)),
        ("CREATE TABLE a.b.c.t (a INT)", InvalidStatement, at(1, 14)),
        ("CREATE TABLE t (a INTEGRE)", Unsupported, at(1, 19)),
        ("CREATE TABLE t (a DECIMAL(50))", InvalidParameter, at(1, 19)),
        ("CREATE TABLE t (a INT UNIQUE)", Unsupported, at(1, 23)),
        ("CREATE TABLE t (a INT REFERENCES u (b))", Unsupported, at(1, 23)),
        ("CREATE TABLE t (a INT, UNIQUE (a))", Unsupported, at(1, 24)),
        ("CREATE TABLE t (a INT DEFAULT 1 DEFAULT 2)", SyntaxError, at(1, 33)),
        ("CREATE TABLE t (a INT, PRIMARY KEY (a), PRIMARY KEY (a))", SyntaxError, at(1, 41)),
        ("CREATE TABLE t (a INT) WITH (typo = 1)", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (type = 'view')", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (access = 'none')", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (compression = 'rar')", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (deleted_retention = 'soon')", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (flush_rows = 0)", InvalidParameter, at(1, 30)),
        ("CREATE TABLE t (a INT) WITH (retention = '1s')", InvalidParameter, at(1, 30)),
        ("CREATE STREAM TABLE t (a INT) WITH (flush_rows = 1)", InvalidParameter, at(1, 37)),
        ("CREATE USER TABLE t (a INT) WITH (access = 'read')", InvalidParameter, at(1, 35)),
        ("CREATE USER TABLE t (a INT) WITH (type = 'shared')", InvalidParameter, at(1, 35)),
        ("CREATE TABLE t (a INT) WITH (access = 'read', access = 'read')", SyntaxError, at(1, 47)),
        ("CREATE TABLE t (a INT) WITH (access = 'read') WITH (flush_rows = 1)", SyntaxError, at(1, 47)),
        ("CREATE TABLE t (a INT) WITH (access 'read')", SyntaxError, at(1, 37)),
        ("CREATE TABLE t (a INT) FLUSH POLICY", InvalidParameter, at(1, 36)),
        ("CREATE TABLE t (a INT) FLUSH POLICY SIZE 5", InvalidParameter, at(1, 37)),
        ("CREATE TABLE t (a INT) FLUSH POLICY ROWS 5 SIZE 5", InvalidParameter, at(1, 44)),
        ("CREATE TABLE t (a INT) FLUSH POLICY ROWS 0", InvalidParameter, at(1, 42)),
        ("CREATE TABLE t (a INT) FLUSH POLICY ROWS x", SyntaxError, at(1, 42)),
        ("CREATE TABLE t (a INT) FLUSH POLICY INTERVAL 'often'", InvalidParameter, at(1, 46)),
        ("CREATE TABLE t (a INT) FLUSH POLICY ROWS 1 ROWS 2", InvalidParameter, at(1, 49)),
        ("CREATE TABLE t (a INT) LOCATION ''", InvalidParameter, at(1, 33)),
        ("CREATE TABLE t (a INT) LOCATION '/a/../b'", InvalidParameter, at(1, 33)),
        ("CREATE TABLE t (a INT) PARTITION BY a", SyntaxError, at(1, 24)),
        ("DROP TABLE", SyntaxError, at(1, 11)),
        ("DROP TABLE t, u", SyntaxError, at(1, 13)),
        ("USE", SyntaxError, at(1, 4)),
        ("SHOW", SyntaxError, at(1, 5)),
        ("SHOW CREATE TABLE t", SyntaxError, at(1, 6)),
        ("DESCRIBE", SyntaxError, at(1, 9)),
        ("FLUSH", SyntaxError, at(1, 6)),
        ("FLUSH TABLE t FOR USER", SyntaxError, at(1, 23)),
        ("KILL QUERY 'x'", SyntaxError, at(1, 6)),
        ("CREATE USER", SyntaxError, at(1, 12)),
        ("CREATE USER 'u' PASSWORD x", SyntaxError, at(1, 26)),
        ("CREATE USER 'u' ROLE admin", InvalidParameter, at(1, 22)),
        ("CREATE USER 'u' PASSWORD 'a' PASSWORD 'b'", SyntaxError, at(1, 30)),
        ("ALTER USER 'u'", SyntaxError, at(1, 15)),
        ("ALTER THING", SyntaxError, at(1, 7)),
        ("EXECUTE AS USER 'u' SELECT 1", SyntaxError, at(1, 21)),
        ("EXECUTE AS USER 'u' (SELECT 1", SyntaxError, at(1, 30)),
        ("EXECUTE AS USER 'u' (DROP TABLE t)", InvalidStatement, at(1, 22)),
        ("EXECUTE AS USER 'u' (EXECUTE AS USER 'v' (SELECT 1))", InvalidStatement, at(1, 22)),
        ("EXECUTE p", SyntaxError, at(1, 9)),
        ("SELECT 1 INTO t", Unsupported, at(1, 1)),
        ("WITH x AS (SELECT 1) DELETE FROM t", Unsupported, at(1, 1)),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", Unsupported, at(1, 1)),
        ("ALTER TABLE t", SyntaxError, at(1, 14)),
        ("ALTER TABLE t ADD COLUMN a INT b", SyntaxError, at(1, 32)),
        ("SAVEPOINT a", Unsupported, at(1, 1)),
        ("CREATE VIEW v AS DELETE FROM t", SyntaxError, at(1, 18)),
        ("CREATE VIEW v (a, ) AS SELECT 1", SyntaxError, at(1, 19)),
        ("CREATE VIEW v AS SELECT 1 INTO t", Unsupported, at(1, 18)),
        ("DROP VIEW a, b", SyntaxError, at(1, 12)),
        ("TRUNCATE TABLE t, u", Unsupported, at(1, 17)),
        ("TRUNCATE TABLE", SyntaxError, at(1, 15)),
        ("BACKUP NAMESPACE a TO 'b'", Unsupported, at(1, 1)),
        ("COPY t FROM 'x'", Unsupported, at(1, 1)),
        ("SET x = 1", Unsupported, at(1, 1)),
        ("GRANT ALL ON t TO u", Unsupported, at(1, 1)),
    ];
    for (sql, code, position) in cases {
        let error = error(sql);
        assert_eq!((error.code, error.position), (code, position), "{sql}: {error}");
        assert!(!error.message.contains(" at Line"), "{sql}: {error}");
    }
    let deep = format!("SELECT {}1", "(".repeat(100));
    assert_eq!((error(&deep).code, error(&deep).position), (TooLarge, at(1, 72)));
}

#[test]
fn an_unknown_option_or_value_names_the_valid_ones() {
    for (sql, named) in [
        ("CREATE TABLE t (a INT) WITH (typo = 1)", "deleted_retention"),
        ("CREATE TABLE t (a INT) WITH (access = 'none')", "'public', 'read' or 'private'"),
        ("CREATE TABLE t (a INT) WITH (compression = 7)", "'zstd', 'snappy' or 'none'"),
        ("CREATE TABLE t (a INT) FLUSH POLICY SIZE 5", "ROWS n"),
        ("CREATE USER 'u' ROLE admin", "user, service, dba and system"),
        ("CREATE TABLE t (a NUMBER)", "BIGINT"),
    ] {
        let error = error(sql);
        let text = format!("{} {}", error.message, error.hint.unwrap_or_default());
        assert!(text.contains(named), "{sql}: {text}");
    }
}
