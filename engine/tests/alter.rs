//! `ALTER TABLE` over rows of older schema versions, in memory, in Parquet and in the log.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use common::gate::Gate;
use common::{config, create, create_with, delete, find, flush_beside, insert, open, rows, schema};
use kalamdb_engine::project::project;
use kalamdb_engine::read::live_rows;
use kalamdb_engine::{
    AlterTable, Column, ColumnId, DataType, Database, Ddl, Error, NewColumn, PartitionWrite, Result, Table,
    TableChange, TableKind, TableName, TableOptions, UserId,
};
use kalamdb_wal::sim::{Crash, Freeze, Operation, SimDisk};

async fn alter(database: &Arc<Database>, table: &Table, changes: Vec<TableChange>) -> Result<Arc<Table>> {
    let alter = AlterTable { id: table.id, base_version: table.schema.version(), changes };
    Ok(database.ddl(Ddl::AlterTable(Box::new(alter))).await?.table.expect("the table"))
}

fn new_column(name: &str, data_type: DataType, initial: Option<ArrayRef>) -> TableChange {
    let (name, default) = (name.into(), None);
    TableChange::AddColumn(NewColumn { name, data_type, nullable: true, default, generated: false, initial })
}

fn id(table: &Table, name: &str) -> ColumnId {
    table.schema.columns()[table.schema.index_of(name).expect("the column")].id
}

/// Everything visible as text, by key, columns by name.
async fn shown(database: &Database, table: &Arc<Table>) -> BTreeMap<i64, String> {
    let view = database.view(&database.snapshot(), table, None).await.expect("a view");
    let mut all = BTreeMap::new();
    for located in live_rows(&view).expect("rows") {
        let batch = &located.rows.rows;
        assert_eq!(batch.schema_ref(), table.schema.rows(), "in the schema of the view's table");
        let keys = batch.column(table.schema.key_indices()[0]).as_primitive::<Int64Type>();
        let options = FormatOptions::default().with_null("NULL");
        for row in 0..batch.num_rows() {
            let fields = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
                let value = ArrayFormatter::try_new(column.as_ref(), &options).expect("a formatter");
                format!("{}={}", field.name(), value.value(row))
            });
            let twice = all.insert(keys.value(row), fields.collect::<Vec<_>>().join(" "));
            assert_eq!(twice, None, "key {} is seen twice", keys.value(row));
        }
    }
    all
}

fn write(table: &Arc<Table>, columns: Vec<ArrayRef>) -> PartitionWrite {
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(RecordBatch::try_new(table.schema.rows().clone(), columns).expect("a batch"));
    write
}

fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<StringViewArray>())
}

fn ints32(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

async fn reopen(database: Arc<Database>, disk: &SimDisk) -> Arc<Database> {
    database.close().await.expect("closes");
    open(disk).await
}

#[tokio::test]
async fn rows_of_every_version_are_read_alike_from_parquet_from_memory_and_after_a_restart() {
    let disk = SimDisk::new();
    let mut db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[1, 2]), texts(&[Some("one"), None])])]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[3]), texts(&[Some("three")])])]).await.unwrap();
    // A second chunk in memory, of the second version; then what was `value` is called `text`.
    let t = alter(&db, &t, vec![new_column("n", DataType::Int, Some(ints32(&[Some(7)])))]).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[4]), texts(&[Some("four")]), ints32(&[None])])]).await.unwrap();
    let rename = TableChange::RenameColumn { id: id(&t, "value"), name: "text".into() };
    let t = alter(&db, &t, vec![rename]).await.unwrap();
    let expected = BTreeMap::from([
        (1, "id=1 text=one n=7".to_owned()),
        (2, "id=2 text=NULL n=7".to_owned()),
        (3, "id=3 text=three n=7".to_owned()),
        (4, "id=4 text=four n=NULL".to_owned()),
    ]);
    assert_eq!(shown(&db, &t).await, expected);
    db = reopen(db, &disk).await;
    let t = find(&db, "t");
    assert_eq!(t.schema.version(), 3);
    assert_eq!(shown(&db, &t).await, expected, "replayed from the log");
    db.flush(&t, None).await.unwrap();
    assert_eq!(shown(&db, &t).await, expected, "in Parquet");
    db = reopen(db, &disk).await;
    assert_eq!(shown(&db, &t).await, expected, "in Parquet, reopened");
}

#[tokio::test]
async fn a_column_of_a_used_name_is_another_column() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[1]), texts(&[Some("old")])])]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[2]), texts(&[Some("old")])])]).await.unwrap();
    let changes = vec![TableChange::DropColumn(id(&t, "value")), new_column("value", DataType::Text, None)];
    let t = alter(&db, &t, changes).await.unwrap();
    assert_eq!(t.schema.version(), 2, "one version for both");
    db.commit(vec![write(&t, vec![ints(&[3]), texts(&[Some("new")])])]).await.unwrap();
    let expected = ["id=1 value=NULL", "id=2 value=NULL", "id=3 value=new"];
    assert_eq!(shown(&db, &t).await.into_values().collect::<Vec<_>>(), expected);
    db.flush(&t, None).await.unwrap();
    assert_eq!(shown(&db, &t).await.into_values().collect::<Vec<_>>(), expected);
    let words = |version| db.catalog().schema_at(t.id, version).unwrap().columns()[1].id;
    assert_ne!(words(1), words(2));
}

#[tokio::test]
async fn a_widened_column_shows_the_same_wherever_its_rows_were_rewritten() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let mut def = schema();
    def.columns.push(Column::new(ColumnId(3), "n", DataType::SmallInt));
    def.next_column_id = 4;
    let mut t = create_with(&db, "t", TableKind::Shared, def).await.unwrap();
    let row = |t: &Arc<Table>, key| {
        let n = arrow::compute::cast(&ints32(&[Some(-5)]), t.schema.rows().field(2).data_type()).unwrap();
        write(t, vec![ints(&[key]), texts(&[None]), n])
    };
    db.commit(vec![row(&t, 1)]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    db.commit(vec![row(&t, 2)]).await.unwrap();
    let decimal = |precision, scale| DataType::Decimal { precision, scale };
    for (step, (data_type, text)) in [
        (DataType::Int, "-5"),
        (decimal(12, 2), "-5.00"),
        (decimal(14, 3), "-5.000"),
        (DataType::Text, "-5.000"),
    ]
    .into_iter()
    .enumerate()
    {
        let retype = TableChange::RetypeColumn { id: id(&t, "n"), data_type };
        t = alter(&db, &t, vec![retype]).await.unwrap();
        if step == 1 {
            // These rows are written as the version of this step.
            db.flush(&t, None).await.unwrap();
        }
        for (key, shown) in shown(&db, &t).await {
            assert_eq!(shown, format!("id={key} value=NULL n={text}"));
        }
    }
    assert_eq!(shown(&db, &t).await.len(), 2);
}

#[tokio::test]
async fn an_initial_value_is_widened_with_its_column() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[1]), texts(&[None])])]).await.unwrap();
    let t = alter(&db, &t, vec![new_column("n", DataType::Int, Some(ints32(&[Some(9)])))]).await.unwrap();
    let retype = TableChange::RetypeColumn { id: id(&t, "n"), data_type: DataType::Double };
    let t = alter(&db, &t, vec![retype]).await.unwrap();
    assert_eq!(shown(&db, &t).await[&1], "id=1 value=NULL n=9.0");
    let db = reopen(db, &disk).await;
    assert_eq!(shown(&db, &find(&db, "t")).await[&1], "id=1 value=NULL n=9.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_takes_rows_that_a_reader_brings_to_a_newer_schema_meanwhile() {
    for change in ["retyped", "dropped"] {
        let disk = SimDisk::new();
        let db = open(&disk).await;
        let t = create(&db, "t", TableKind::Shared).await.unwrap();
        let t = alter(&db, &t, vec![new_column("n", DataType::Int, None)]).await.unwrap();
        db.commit(vec![write(&t, vec![ints(&[1]), texts(&[Some("a")]), ints32(&[Some(9)])])]).await.unwrap();
        let gate = Gate::before(&disk, Operation::Create, "default/t");
        let flush = flush_beside(&db, &t);
        gate.reached();
        let (change, expected) = match change {
            "retyped" => {
                let retype = TableChange::RetypeColumn { id: id(&t, "n"), data_type: DataType::Double };
                (retype, "id=1 value=a n=9.0")
            }
            _ => (TableChange::DropColumn(id(&t, "n")), "id=1 value=a"),
        };
        let t = alter(&db, &t, vec![change]).await.unwrap();
        assert_eq!(shown(&db, &t).await[&1], expected);
        gate.open();
        assert_eq!(flush.await.unwrap().unwrap().rows, 1);
        assert_eq!(shown(&db, &t).await[&1], expected);
        let db = reopen(db, &disk).await;
        assert_eq!(shown(&db, &find(&db, "t")).await[&1], expected);
    }
}

#[tokio::test]
async fn a_renamed_key_is_still_found_in_old_segments() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![insert(&t, None, &rows(0..50, "v"))]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    db.commit(vec![delete(&db, &t, None, |id| id == 7).await.unwrap().unwrap()]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    // What was the value's name is the key's now.
    let changes = vec![
        TableChange::RenameColumn { id: id(&t, "value"), name: "other".into() },
        TableChange::RenameColumn { id: id(&t, "id"), name: "value".into() },
    ];
    let t = alter(&db, &t, changes).await.unwrap();
    let again = |key: i64| write(&t, vec![ints(&[key]), texts(&[Some("again")])]);
    let error = db.commit(vec![again(8)]).await.unwrap_err();
    assert!(matches!(&error, Error::UniqueViolation { key, .. } if key == "value = 8"), "{error}");
    db.commit(vec![again(7)]).await.expect("a deleted key is free");
    assert_eq!(shown(&db, &t).await[&7], "value=7 other=again");
    let db = {
        let crashed = disk.crash(Crash::LoseUnsynced);
        Database::open(config(Arc::new(crashed))).await.unwrap()
    };
    assert_eq!(shown(&db, &find(&db, "t")).await[&7], "value=7 other=again");
    assert_eq!(shown(&db, &find(&db, "t")).await.len(), 50);
}

#[tokio::test]
async fn a_statement_that_began_before_a_change_is_told_to_begin_again_or_reads_what_it_knows() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let before = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&before, vec![ints(&[1]), texts(&[Some("a")])])]).await.unwrap();
    let added = alter(&db, &before, vec![new_column("n", DataType::Int, None)]).await.unwrap();
    db.commit(vec![write(&added, vec![ints(&[2]), texts(&[Some("b")]), ints32(&[Some(2)])])]).await.unwrap();
    assert_eq!(shown(&db, &before).await[&2], "id=2 value=b", "an added column is not missed");
    let late = write(&before, vec![ints(&[3]), texts(&[None])]);
    assert!(matches!(db.commit(vec![late]).await, Err(Error::Conflict)));
    let dropped = alter(&db, &added, vec![TableChange::DropColumn(id(&added, "value"))]).await.unwrap();
    db.commit(vec![write(&dropped, vec![ints(&[4]), ints32(&[None])])]).await.unwrap();
    let read = db.view(&db.snapshot(), &before, None).await;
    assert!(matches!(read, Err(Error::Conflict)), "its column is gone");
    db.flush(&before, None).await.expect("writes the newest version, whoever asks");
    let read = db.view(&db.snapshot(), &added, None).await;
    assert!(matches!(read, Err(Error::Conflict)), "its column is gone from Parquet too");
    assert_eq!(
        shown(&db, &dropped).await.into_values().collect::<Vec<_>>(),
        ["id=1 n=NULL", "id=2 n=2", "id=4 n=NULL"]
    );
}

#[tokio::test]
async fn not_null_is_refused_while_a_row_holds_null_and_then_kept() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let user = UserId::new("ann").unwrap();
    let t = create(&db, "u", TableKind::User).await.unwrap();
    let set = |t: &Table, not_null| vec![TableChange::SetNotNull { id: id(t, "value"), not_null }];
    let put = |t: &Arc<Table>, key: i64, value: Option<&str>| {
        let mut put = write(t, vec![ints(&[key]), texts(&[value])]);
        put.user = Some(user.clone());
        put
    };
    db.commit(vec![put(&t, 1, None)]).await.unwrap();
    db.commit(vec![put(&t, 2, Some("b"))]).await.unwrap();
    for flushed in [false, true] {
        let error = alter(&db, &t, set(&t, true)).await.unwrap_err();
        assert!(matches!(&error, Error::NotNullViolation { column, .. } if column == "value"), "{error}");
        assert_eq!(find(&db, "u").schema.version(), 1);
        db.commit(vec![put(&t, 10 + i64::from(flushed), None)]).await.expect("NULL is allowed still");
        db.flush(&t, Some(&user)).await.unwrap();
    }
    // A deleted row and an old version hold NULL; that is no obstacle, then or later.
    db.commit(vec![delete(&db, &t, Some(&user), |id| id != 2).await.unwrap().unwrap()]).await.unwrap();
    let t = alter(&db, &t, set(&t, true)).await.unwrap();
    assert!(!t.schema.columns()[1].nullable);
    assert!(matches!(db.commit(vec![put(&t, 4, None)]).await, Err(Error::NotNullViolation { .. })));
    db.commit(vec![put(&t, 4, Some("d"))]).await.unwrap();
    db.flush(&t, Some(&user)).await.expect("deleted rows with NULL are flushed");
    let view = db.view(&db.snapshot(), &t, Some(&user)).await.unwrap();
    let live: usize = live_rows(&view).unwrap().iter().map(|l| l.addresses.len()).sum();
    assert_eq!(live, 2);
    assert_eq!(kalamdb_engine::read::tombstone_rows(&view).unwrap().len(), 1);
    let t = alter(&db, &t, set(&t, false)).await.unwrap();
    db.commit(vec![put(&t, 5, None)]).await.expect("NULL again");
}

#[tokio::test]
async fn writers_beside_set_not_null_never_leave_a_null_behind() {
    for round in 0..20 {
        let disk = SimDisk::new();
        let db = open(&disk).await;
        let t = create(&db, "t", TableKind::Shared).await.unwrap();
        db.commit(vec![write(&t, vec![ints(&[-1]), texts(&[Some("a")])])]).await.unwrap();
        let writers = (0..4i64).map(|writer| {
            let (db, t) = (db.clone(), t.clone());
            tokio::spawn(async move {
                for n in 0..round {
                    let _ = db.commit(vec![write(&t, vec![ints(&[writer * 100 + n]), texts(&[None])])]).await;
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let set = vec![TableChange::SetNotNull { id: id(&t, "value"), not_null: true }];
        let altered = alter(&db, &t, set).await;
        for writer in writers {
            writer.await.unwrap();
        }
        let now = find(&db, "t");
        let nulls = shown(&db, &now).await.into_values().filter(|row| row.contains("NULL")).count();
        match altered {
            Ok(_) => assert_eq!(nulls, 0, "round {round}"),
            Err(Error::NotNullViolation { .. }) => assert!(nulls > 0, "round {round}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_that_comes_while_rows_are_looked_through_is_refused() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[1, 2]), texts(&[Some("a"), None])])]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    // The file has a NULL, so that its rows must be read to know that none of those that count is one.
    db.commit(delete(&db, &t, None, |id| id == 2).await.unwrap().into_iter().collect()).await.unwrap();
    db.close().await.unwrap();
    let db = open(&disk).await;
    let t = find(&db, "t");
    let gate = Gate::before(&disk, Operation::Read, ".parquet");
    let set = vec![TableChange::SetNotNull { id: id(&t, "value"), not_null: true }];
    let altering = tokio::spawn({
        let (db, t) = (db.clone(), t.clone());
        async move { alter(&db, &t, set).await }
    });
    gate.reached();
    // Its key is beyond the segment's, which is not read for it.
    let refused = db.commit(vec![write(&t, vec![ints(&[1_000]), texts(&[None])])]).await;
    assert!(matches!(refused, Err(Error::NotNullViolation { .. })), "{refused:?}");
    gate.open();
    altering.await.unwrap().expect("no NULL is there");
}

#[tokio::test]
async fn a_column_without_a_value_for_old_rows_is_not_null_only_in_a_table_without_rows() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    let add = || {
        let TableChange::AddColumn(column) = new_column("n", DataType::Int, None) else { unreachable!() };
        vec![TableChange::AddColumn(NewColumn { nullable: false, ..column })]
    };
    db.commit(vec![write(&t, vec![ints(&[1]), texts(&[None])])]).await.unwrap();
    assert!(!db.is_empty(&t).await.unwrap());
    let error = alter(&db, &t, add()).await.unwrap_err();
    assert!(matches!(&error, Error::NotNullViolation { column, .. } if column == "n"), "{error}");
    db.flush(&t, None).await.unwrap();
    alter(&db, &t, add()).await.expect_err("there is a row in Parquet");
    db.commit(vec![delete(&db, &t, None, |_| true).await.unwrap().unwrap()]).await.unwrap();
    assert!(db.is_empty(&t).await.unwrap(), "a deleted row is none");
    let t = alter(&db, &t, add()).await.expect("no row is left");
    db.flush(&t, None).await.expect("the deleted row is kept, without the column");
    db.commit(vec![write(&t, vec![ints(&[1]), texts(&[None]), ints32(&[Some(1)])])]).await.unwrap();
    assert_eq!(shown(&db, &t).await[&1], "id=1 value=NULL n=1");
}

#[tokio::test]
async fn what_cannot_be_done_names_the_column_and_changes_nothing() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    create(&db, "taken", TableKind::Shared).await.unwrap();
    let (key, value) = (id(&t, "id"), id(&t, "value"));
    let rename = |id, name: &str| TableChange::RenameColumn { id, name: name.into() };
    for (change, words) in [
        (TableChange::DropColumn(key), "\"id\" is part of the primary key and cannot be dropped"),
        (TableChange::RetypeColumn { id: key, data_type: DataType::Text }, "cannot change its type"),
        (TableChange::SetNotNull { id: key, not_null: false }, "cannot become nullable"),
        (TableChange::RetypeColumn { id: value, data_type: DataType::Int }, "\"value\" cannot become INT"),
        (rename(value, "id"), "\"id\" is declared twice"),
        (rename(value, "_seq"), "\"_seq\" is reserved"),
        (TableChange::DropColumn(ColumnId(9)), "no column number 9"),
        (TableChange::RenameTable(TableName::new("taken").unwrap()), "default.taken already exists"),
    ] {
        let changes = vec![new_column("other", DataType::Int, None), change];
        let error = alter(&db, &t, changes).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(find(&db, "t").schema.def(), t.schema.def());
    }
    let changed = alter(&db, &t, vec![rename(value, "v")]).await.unwrap();
    assert!(
        matches!(alter(&db, &t, vec![rename(value, "w")]).await, Err(Error::Conflict)),
        "made for version 1"
    );
    let version = db.catalog().version();
    let same = alter(&db, &changed, vec![rename(value, "v")]).await.unwrap();
    assert_eq!((same.schema.version(), db.catalog().version()), (2, version), "nothing to do");
}

#[tokio::test]
async fn a_renamed_table_keeps_its_rows_and_its_old_name_is_free() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![insert(&t, None, &rows(1..5, "v"))]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    let options = TableOptions { flush_rows: Some(5), ..TableOptions::default() };
    let changes = vec![
        TableChange::RenameTable(TableName::new("moved").unwrap()),
        TableChange::SetOptions(options.clone()),
    ];
    let moved = alter(&db, &t, changes).await.unwrap();
    assert_eq!((moved.schema.version(), &moved.options), (1, &options));
    let other = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![insert(&other, None, &rows(100..103, "v"))]).await.unwrap();
    db.flush(&other, None).await.unwrap();
    let db = reopen(db, &disk).await;
    assert_eq!(shown(&db, &find(&db, "moved")).await.into_keys().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(shown(&db, &find(&db, "t")).await.into_keys().collect::<Vec<_>>(), [100, 101, 102]);
    assert_eq!(find(&db, "moved").options, options);
}

#[tokio::test]
async fn a_transaction_does_not_outlive_a_change_of_a_table_that_it_wrote_to() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    let mut transaction = db.begin();
    transaction.write(vec![write(&t, vec![ints(&[1]), texts(&[None])])]).await.unwrap();
    let altered = alter(&db, &t, vec![new_column("n", DataType::Int, None)]).await.unwrap();
    assert!(matches!(transaction.view(&altered, None), Err(Error::Conflict)));
    let later = write(&altered, vec![ints(&[2]), texts(&[None]), ints32(&[None])]);
    assert!(matches!(transaction.write(vec![later]).await, Err(Error::Conflict)));
    assert!(matches!(transaction.commit().await, Err(Error::Conflict)));
    assert!(shown(&db, &altered).await.is_empty());
}

/// Rows, three changes at once, another row, a flush. Says whether the change was answered.
async fn story(disk: &SimDisk) -> (bool, Result<()>) {
    let mut answered = false;
    let result = async {
        let db = Database::open(config(Arc::new(disk.clone()))).await?;
        let t = create(&db, "t", TableKind::Shared).await?;
        db.commit(vec![write(&t, vec![ints(&[1, 2]), texts(&[Some("one"), Some("two")])])]).await?;
        db.flush(&t, None).await?;
        db.commit(vec![write(&t, vec![ints(&[3]), texts(&[Some("three")])])]).await?;
        let t = alter(&db, &t, changes(&t)).await?;
        answered = true;
        db.commit(vec![write(&t, vec![ints(&[4]), texts(&[Some("four")]), ints32(&[Some(4)])])]).await?;
        db.flush(&t, None).await.map(drop)
    };
    let result = result.await;
    (answered, result)
}

fn changes(table: &Table) -> Vec<TableChange> {
    let value = id(table, "value");
    vec![
        new_column("n", DataType::Int, Some(ints32(&[Some(7)]))),
        TableChange::RenameColumn { id: value, name: "text".into() },
        TableChange::SetNotNull { id: value, not_null: true },
    ]
}

#[tokio::test]
async fn a_power_cut_anywhere_leaves_the_change_made_as_a_whole_or_not_at_all() {
    let disk = SimDisk::new();
    story(&disk).await.1.expect("without a power cut all goes well");
    let (mut made, mut not_made) = (0, 0);
    for change in 1..=disk.counts().changes {
        let disk = SimDisk::new();
        disk.freeze_at(Freeze::Change(change));
        let (answered, _) = story(&disk).await;
        let crash = if change % 2 == 0 { Crash::LoseUnsynced } else { Crash::Torn(change) };
        let disk = disk.crash(crash);
        let db = open(&disk).await;
        let Some(t) = db.catalog().table("default", "t").cloned() else {
            assert!(!answered, "cut at {change}");
            continue;
        };
        let t = match t.schema.version() {
            1 => {
                assert!(!answered, "cut at {change}: an answered change is gone");
                not_made += 1;
                assert_eq!(t.schema.columns().len(), 2);
                alter(&db, &t, changes(&t)).await.expect("it can be made now")
            }
            _ => {
                made += 1;
                t
            }
        };
        for again in [false, true] {
            for (key, shown) in shown(&db, &t).await {
                let n = if key == 4 { 4 } else { 7 };
                let text = ["one", "two", "three", "four"][key as usize - 1];
                assert_eq!(shown, format!("id={key} text={text} n={n}"), "cut at {change}, flushed: {again}");
            }
            db.flush(&t, None).await.unwrap();
        }
    }
    assert!(made > 5 && not_made > 5, "{made} with the change, {not_made} without");
}

#[tokio::test]
async fn the_feed_tells_each_change_in_the_version_it_was_written_with() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    let start = db.visible();
    db.commit(vec![write(&t, vec![ints(&[1]), texts(&[None])])]).await.unwrap();
    let t = alter(&db, &t, vec![new_column("n", DataType::Int, None)]).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[2]), texts(&[None]), ints32(&[Some(2)])])]).await.unwrap();
    let db = reopen(db, &disk).await;
    let (mut feed, mut seen) = (db.feed(start), Vec::new());
    while let Some(commit) = feed.try_next().unwrap() {
        for change in commit.changes.iter().filter(|change| change.partition.table == t.id) {
            let schema = db.catalog().schema_at(t.id, change.schema_version).cloned().unwrap();
            let rows = change.inserted.as_ref().unwrap();
            assert_eq!(rows.schema_ref(), schema.rows());
            seen.push((change.schema_version, project(rows, &schema, &t.schema).unwrap().num_columns()));
        }
    }
    assert_eq!(seen, [(1, 3), (2, 3)]);
}

#[tokio::test]
async fn a_compaction_rewrites_the_rows_of_every_version_to_the_newest() {
    let disk = SimDisk::new();
    let db = open(&disk).await;
    let t = create(&db, "t", TableKind::Shared).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[1, 5]), texts(&[Some("one"), None])])]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    let t = alter(&db, &t, vec![new_column("n", DataType::Int, Some(ints32(&[Some(7)])))]).await.unwrap();
    db.commit(vec![write(&t, vec![ints(&[4]), texts(&[Some("four")]), ints32(&[None])])]).await.unwrap();
    db.flush(&t, None).await.unwrap();
    let changes = vec![
        TableChange::RenameColumn { id: id(&t, "id"), name: "key".into() },
        TableChange::DropColumn(id(&t, "value")),
        TableChange::RetypeColumn { id: id(&t, "n"), data_type: DataType::BigInt },
    ];
    let t = alter(&db, &t, changes).await.unwrap();
    let expected = BTreeMap::from([
        (1, "key=1 n=7".to_owned()),
        (4, "key=4 n=NULL".to_owned()),
        (5, "key=5 n=7".to_owned()),
    ]);
    assert_eq!(shown(&db, &t).await, expected);
    assert_eq!(db.compact(&t, None).await.unwrap().segments_in, 2);
    assert_eq!(shown(&db, &t).await, expected, "compacted");
    let version = db.partition_version(&t, None).unwrap().unwrap();
    assert_eq!(version.manifest.segments[0].schema_version, t.schema.version());
    drop(version);
    let db = reopen(db, &disk).await;
    assert_eq!(shown(&db, &find(&db, "t")).await, expected, "compacted and reopened");
    // One of an old version is rewritten alone.
    let t = find(&db, "t");
    let t = alter(&db, &t, vec![new_column("m", DataType::Text, None)]).await.unwrap();
    assert_eq!(db.compact(&t, None).await.unwrap().segments_in, 1);
    assert_eq!(db.compact(&t, None).await.unwrap().segments_in, 0);
    assert_eq!(shown(&db, &t).await[&1], "key=1 n=7 m=NULL");
}
