use bytes::Bytes;
use kalamdb_sql::{ErrorCode, ImportOptions, Role};
use serde_json::json;

use crate::harness::{Client, Server};

const FLIGHTS: &str = "CREATE TABLE flights (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), year SMALLINT, carrier TEXT NOT NULL, \
                       delay DOUBLE, distance INT, at TIMESTAMP)";

async fn import(
    client: &Client,
    table: &str,
    options: ImportOptions,
    text: &str,
    piece: usize,
) -> Result<u64, (String, u64)> {
    let mut importer =
        client.session.importer("default", table, options).await.map_err(|e| (e.to_string(), 0))?;
    for piece in text.as_bytes().chunks(piece) {
        if let Err(error) = importer.write_csv(Bytes::copy_from_slice(piece)).await {
            return Err((error.to_string(), importer.committed_rows()));
        }
    }
    match importer.finish().await {
        Ok(report) => Ok(report.rows),
        Err(error) => Err((error.to_string(), importer.committed_rows())),
    }
}

fn csv(rows: usize) -> String {
    let mut text = String::from("carrier,Year,delay,distance,at\n");
    for row in 0..rows {
        let carrier = ["AA", "B6", "UA"][row % 3];
        let delay = if row % 5 == 0 { "NA".to_owned() } else { format!("{}.5", row % 60) };
        let distance = if row % 7 == 0 { String::new() } else { (row * 2).to_string() };
        text.push_str(&format!("{carrier},2013,{delay},{distance},2013-01-01T{:02}:00:00Z\n", row % 24));
    }
    text
}

#[tokio::test]
async fn a_csv_text_is_loaded_however_it_is_cut() {
    let text = csv(1_000);
    for piece in [7, 1_000, text.len()] {
        let server = Server::start().await;
        let mut root = server.root();
        root.run(FLIGHTS).await;
        let options = ImportOptions { null: Some("NA".into()), batch_rows: 300, ..Default::default() };
        assert_eq!(import(&root, "flights", options, &text, piece).await, Ok(1_000));
        let rows = root
            .rows("SELECT count(*), count(delay), count(distance), sum(distance), max(at) FROM flights")
            .await;
        let distance: usize = (0..1_000).filter(|row| row % 7 != 0).map(|row| row * 2).sum();
        assert_eq!(rows, json!([[1_000, 800, 857, distance, "2013-01-01T23:00:00.000000Z"]]));
        let carriers = root.rows("SELECT carrier, count(*) FROM flights GROUP BY carrier ORDER BY 1").await;
        assert_eq!(carriers, json!([["AA", 334], ["B6", 333], ["UA", 333]]));
        let commits = root.rows("SELECT count(DISTINCT _seq) FROM flights").await;
        assert_eq!(commits, json!([[4]]), "one commit per batch");
    }
}

#[tokio::test]
async fn an_error_names_the_line_and_how_much_is_in() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(FLIGHTS).await;
    let good = "AA,2013,1,2,\n".repeat(4);
    for (bad, line, says) in [
        ("AA,2013,x,2,\n", "line 6", "delay"),
        (",2013,1,2,\n", "line 6", "carrier"),
        ("AA,2013,1,99999999999,\n", "line 6", "distance"),
        ("AA,99999,1,1,\n", "line 6", "year"),
        ("AA,2013,1\n", "line 6", "malformed"),
        ("\"A\nA\",2013,1,1,\nAA,2013,x,1,\n", "line 8", "delay"),
    ] {
        let text = format!("carrier,year,delay,distance,at\n{good}{bad}");
        let options = ImportOptions { batch_rows: 2, ..Default::default() };
        let (message, rows) = import(&root, "flights", options, &text, 64).await.unwrap_err();
        assert!(message.contains(line) && message.contains(says), "{bad:?}: {message}");
        assert_eq!(rows, 4, "{bad:?}: {message}");
    }
    for (header, code) in [
        ("carrier,nosuch\n", ErrorCode::ColumnNotFound),
        ("carrier,year,YEAR\n", ErrorCode::InvalidParameter),
        ("carrier,_seq\n", ErrorCode::InvalidParameter),
    ] {
        let mut importer =
            root.session.importer("default", "flights", ImportOptions::default()).await.unwrap();
        assert_eq!(
            importer.write_csv(Bytes::from_static(header.as_bytes())).await.unwrap_err().code,
            code,
            "{header}"
        );
        assert!(
            importer.write_csv(Bytes::from_static(b"AA,1\n")).await.is_err(),
            "nothing is taken after an error"
        );
    }
    let error = root.session.importer("default", "flihgts", ImportOptions::default()).await.unwrap_err();
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::TableNotFound, Some("did you mean default.flights?"))
    );
}

#[tokio::test]
async fn ndjson_and_record_batches_are_loaded() {
    let server = Server::start().await;
    let mut root = server.root();
    root.run(FLIGHTS).await;
    let mut importer = root.session.importer("default", "flights", ImportOptions::default()).await.unwrap();
    importer
        .write_ndjson(Bytes::from_static(b"{\"carrier\":\"AA\",\"delay\":1.5}\n\n{\"carr"))
        .await
        .unwrap();
    importer
        .write_ndjson(Bytes::from_static(b"ier\":\"B6\",\"at\":\"2013-01-01T00:00:00Z\"}"))
        .await
        .unwrap();
    assert_eq!(importer.finish().await.unwrap().rows, 2);
    let mut importer = root.session.importer("default", "flights", ImportOptions::default()).await.unwrap();
    let error = importer
        .write_ndjson(Bytes::from_static(b"{\"carrier\":\"AA\"}\n{\"carrier\": oops}\n"))
        .await
        .unwrap_err();
    assert!(error.message.contains("line 2"), "{error}");
    let source =
        root.run("SELECT 'UA' AS carrier, 7 AS distance FROM generate_series(1, 10)").await.rows.unwrap();
    let batches: Vec<_> = futures::TryStreamExt::try_collect(source.stream).await.unwrap();
    let options = ImportOptions { batch_rows: 4, ..Default::default() };
    let mut importer = root.session.importer("default", "flights", options).await.unwrap();
    for batch in batches {
        importer.write_batch(batch).await.unwrap();
    }
    assert_eq!(importer.finish().await.unwrap().rows, 10);
    let rows =
        root.rows("SELECT carrier, count(*), sum(distance) FROM flights GROUP BY carrier ORDER BY 1").await;
    assert_eq!(rows, json!([["AA", 1, null], ["B6", 1, null], ["UA", 10, 70]]));
}

#[tokio::test]
async fn rows_go_to_the_partitions_that_a_column_names() {
    let server = Server::start().await;
    let mut dba = server.session("dba", Role::Dba);
    dba.run(
        "CREATE USER TABLE mine (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), carrier TEXT, distance INT)",
    )
    .await;
    let text = "carrier,distance\n".to_owned() + &"AA,1\nB6,2\nAA,3\n".repeat(100);
    let options = ImportOptions { user_column: Some("carrier".into()), batch_rows: 50, ..Default::default() };
    assert_eq!(import(&dba, "mine", options.clone(), &text, 999).await, Ok(300));
    let rows =
        server.user("AA").rows("SELECT carrier, count(*), sum(distance) FROM mine GROUP BY carrier").await;
    assert_eq!(rows, json!([["AA", 200, 400]]));
    assert_eq!(server.user("B6").rows("SELECT count(*) FROM mine").await, json!([[100]]));
    // An owner column that the table does not have.
    let options = ImportOptions { user_column: Some("owner".into()), ..options };
    assert_eq!(import(&dba, "mine", options.clone(), "owner,distance\nzoe,1\n", 9).await, Ok(1));
    assert_eq!(server.user("zoe").rows("SELECT carrier, distance FROM mine").await, json!([[null, 1]]));
    let (message, _) =
        import(&server.user("AA"), "mine", options, "owner,distance\nzoe,1\n", 9).await.unwrap_err();
    assert!(message.contains("dba"), "{message}");
}
