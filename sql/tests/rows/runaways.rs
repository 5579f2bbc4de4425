//! Statements that want more memory than there is.

use kalamdb_sql::ErrorCode;
use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn rows_that_do_not_fit_memory_are_refused_as_a_whole_and_give_it_back() {
    let server = Server::with(|options| options.memory_limit = 1 << 20).await;
    let mut root = server.root();
    root.run("CREATE TABLE t (id BIGINT PRIMARY KEY, s TEXT)").await;
    let rows = "INSERT INTO t SELECT value, repeat('x', 200) FROM generate_series";
    assert_eq!(root.fail(&format!("{rows}(1, 20000)")).await.code, ErrorCode::Overloaded);
    assert_eq!(root.rows("SELECT count(*) FROM t").await, json!([[0]]), "nothing of it was written");
    for first in [1, 1001, 2001, 3001] {
        let part = format!("{rows}({first}, {})", first + 999);
        assert_eq!(root.run(&part).await.affected_rows, Some(1000), "what fits has all the memory again");
    }
}
