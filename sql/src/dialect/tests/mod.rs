mod errors;
mod statements;

use super::*;

/// The statements of a text as short words, and the error of the last if it has one.
fn parsed(sql: &str) -> Vec<Statement> {
    parse(sql).into_iter().map(|statement| Arc::unwrap_or_clone(statement.statement)).collect()
}

/// The one statement of a text.
fn one(sql: &str) -> Statement {
    let mut statements = parsed(sql);
    assert_eq!(statements.len(), 1, "{sql}");
    match statements.remove(0) {
        Statement::Invalid(error) => panic!("{sql}: {error} at {:?}", error.position),
        statement => statement,
    }
}

/// The error of the last statement of a text.
fn error(sql: &str) -> Error {
    match parsed(sql).pop() {
        Some(Statement::Invalid(error)) => error,
        other => panic!("{sql} is understood as {other:?}"),
    }
}

fn at(line: u64, column: u64) -> Option<Position> {
    Some(Position { line, column })
}

#[test]
fn statements_are_cut_at_semicolons_with_their_texts_and_places() {
    let statements = parse(" ; SELECT 1 ;;\n  SELECT ';' AS a -- no; end\n ; /* ; */ SELECT 'é' ;");
    let found: Vec<_> =
        statements.iter().map(|s| (s.text.as_ref(), s.position.line, s.position.column)).collect();
    assert_eq!(found, [("SELECT 1", 1, 4), ("SELECT ';' AS a", 2, 3), ("SELECT 'é'", 3, 12)]);
    assert!(statements.iter().all(|s| matches!(*s.statement, Statement::Query(_))));
    assert!(parse("  ; -- nothing\n").is_empty());
}

#[test]
fn statements_before_an_error_are_kept_and_those_after_it_are_not() {
    let statements = parsed("SELECT 1; SELEC 2; SELECT 3");
    assert!(matches!(statements.as_slice(), [Statement::Query(_), Statement::Invalid(_)]));
    let statements = parsed("SELECT 1; SELECT 'open");
    assert!(matches!(statements.as_slice(), [Statement::Query(_), Statement::Invalid(_)]));
    let statements = parsed("SELECT 1; 'open");
    assert!(matches!(statements.as_slice(), [Statement::Query(_), Statement::Invalid(_)]), "{statements:?}");
}

#[test]
fn positions_count_from_the_start_of_the_whole_text() {
    assert_eq!(error("SELECT 1;\nSELECT 2;\n  SELECT FROM WHERE").position, at(3, 15));
    assert_eq!(error("SELECT 'é', ,").position, at(1, 13));
}

#[test]
fn what_is_missing_is_missing_at_the_end() {
    let error = error("SELECT 1; INSERT INTO t VALUES (1, 2");
    assert_eq!(error.code, ErrorCode::SyntaxError);
    assert_eq!(error.position, at(1, 37));
    assert!(error.message.contains("end of the statement"), "{error}");
}

#[test]
fn deep_and_long_texts_are_refused_and_wide_ones_are_not() {
    let nested = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let chain = format!("SELECT 1{}", " + 1".repeat(100_000));
    let subqueries = format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(500), ")".repeat(500));
    let negations = format!("SELECT {}TRUE", "NOT ".repeat(100_000));
    let casts = format!("SELECT 1{}", "::int".repeat(10_000));
    let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(10_000));
    let types = format!("CREATE TABLE t (a {}INT{})", "ARRAY<".repeat(10_000), ">".repeat(10_000));
    let brackets = format!("CREATE TABLE t (a INT{})", "[]".repeat(10_000));
    let signs = format!("SELECT {}1", "- ".repeat(10_000));
    let explains = format!("{}SELECT 1", "EXPLAIN ".repeat(10_000));
    let executes = format!("{}SELECT 1{}", "EXECUTE AS USER 'a' (".repeat(10_000), ")".repeat(10_000));
    for deep in
        [nested, chain, subqueries, negations, casts, unions, types, brackets, signs, explains, executes]
    {
        let error = error(&deep);
        let shown = &deep[..40];
        assert!(matches!(error.code, ErrorCode::TooLarge | ErrorCode::Unsupported), "{shown}: {error}");
    }
    let rows = vec!["(1, 'a' || 'b', -1, NULL)"; 20_000].join(", ");
    assert!(matches!(one(&format!("INSERT INTO t VALUES {rows}")), Statement::Insert(_)));
    let list = vec!["1"; 50_000].join(", ");
    assert!(matches!(one(&format!("SELECT * FROM t WHERE a IN ({list})")), Statement::Query(_)));
    let spaces = " ".repeat(5_000_000);
    assert_eq!(error(&format!("SELECT{spaces}1")).code, ErrorCode::TooLarge);
}

#[test]
fn nesting_that_the_parser_tries_in_several_ways_stays_fast() {
    for depth in [8, 16, 30, 60] {
        let _ = parse(&format!("SELECT * FROM {}t{}", "(".repeat(depth), ")".repeat(depth)));
        let _ = parse(&format!("SELECT * FROM {}t JOIN u{}", "(".repeat(depth), ")".repeat(depth)));
        let _ = parse(&format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth)));
        let _ = parse(&format!("SELECT {}", "CASE WHEN ".repeat(depth)));
        let _ = parse(&format!("SELECT {}", "CAST(".repeat(depth)));
        let _ = parse(&format!("SELECT {}1 AS {}", "CAST(".repeat(depth), ")".repeat(depth)));
        let _ = parse(&format!("SELECT {}1{}", "f(g => ".repeat(depth), ")".repeat(depth)));
        let joins = format!(
            "SELECT * FROM {}t{}",
            "((SELECT * FROM ".repeat(depth / 2),
            ") JOIN b)".repeat(depth / 2)
        );
        let _ = parse(&joins);
        let _ = parse(&format!("SELECT {}1{}", "f(".repeat(depth), ")".repeat(depth)));
    }
}

#[test]
fn random_cuts_and_swaps_of_statements_never_panic() {
    let corpus = [
        "CREATE USER TABLE IF NOT EXISTS app.messages (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), a TEXT NOT NULL, \
         b DECIMAL(10,2) DEFAULT 0 CHECK (b >= 0), PRIMARY KEY (id, a)) LOCATION '/x/${user_id}/' FLUSH POLICY ROWS 10 \
         INTERVAL '5 minutes' WITH (deleted_retention = '7d', compression = 'zstd')",
        "EXECUTE AS USER 'u1' (SELECT * FROM a.b WHERE x->>'y' = $1 AND z IN (1, 2) ORDER BY 1 LIMIT 5)",
        "CREATE USER 'u1' WITH PASSWORD 'x' ROLE user; ALTER USER 'u1' SET PASSWORD 'y'; DROP USER IF EXISTS u1",
        "SELECT CURRENT_USER, CURRENT_USER(), \"Q\" FROM t /* c */ JOIN u USING (a) -- end\n; FLUSH ALL NOWAIT",
        "INSERT INTO t (a, b) VALUES (-1, E'\\n'), (DEFAULT, X'00ff') ON CONFLICT (a) DO NOTHING RETURNING *",
    ];
    // A small generator of its own: a failing text can be made again from the seed.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..3_000 {
        let mut text: Vec<char> = corpus[random(corpus.len())].chars().collect();
        for _ in 0..=random(4) {
            let (from, to) = (random(text.len()), random(text.len()));
            match random(4) {
                0 => text.truncate(from.max(1)),
                1 => text.swap(from, to),
                2 => text[from] = ['(', ')', '\'', '"', ';', '\0', ',', '$', '\\', 'é', '-'][random(11)],
                _ => text.extend_from_within(from.min(to)..from.max(to)),
            }
        }
        let text: String = text.into_iter().collect();
        for statement in parse(&text) {
            assert!(text.contains(statement.text.as_ref()), "{text:?}");
        }
    }
}
