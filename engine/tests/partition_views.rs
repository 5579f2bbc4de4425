//! What a view of a partition costs and shares.

mod common;

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use common::{create, insert, open, rows};
use kalamdb_engine::{ChunkView, PartitionView, RowsChunk, TableKind};
use kalamdb_wal::sim::SimDisk;

fn only_chunk(view: &PartitionView) -> &RowsChunk {
    match view.chunks.as_slice() {
        [ChunkView::Rows(chunk)] => chunk,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_refers_to_chunks_and_to_none_of_their_columns() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..100, "a"))]).await.unwrap();
    let first = database.view(&database.snapshot(), &table, None).await.unwrap();
    let column = only_chunk(&first).column(0);
    let before = Arc::strong_count(&column);
    let mut views = Vec::new();
    for _ in 0..10 {
        views.push(database.view(&database.snapshot(), &table, None).await.unwrap());
    }
    assert_eq!(Arc::strong_count(&column), before, "a view would cost more, the more columns there are");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_shows_the_rows_of_a_shared_chunk_that_its_snapshot_sees_and_no_others() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    database.commit(vec![insert(&table, None, &rows(0..3, "a"))]).await.unwrap();
    let early = database.snapshot();
    // Merged into one chunk with the first ones.
    for id in 3..20 {
        database.commit(vec![insert(&table, None, &rows(id..id + 1, "b"))]).await.unwrap();
    }
    let all = database.view(&database.snapshot(), &table, None).await.unwrap();
    assert_eq!(all.chunks.iter().map(rows_of).sum::<usize>(), 20);
    let view = database.view(&early, &table, None).await.unwrap();
    let chunk = only_chunk(&view);
    assert_eq!((chunk.num_rows(), chunk.num_columns()), (3, 2));
    assert_eq!(chunk.column(0).as_primitive::<Int64Type>().values(), &[0, 1, 2]);
    assert_eq!((chunk.batch().num_rows(), chunk.versions().0.len()), (3, 3));
}

fn rows_of(chunk: &ChunkView) -> usize {
    match chunk {
        ChunkView::Rows(chunk) => chunk.num_rows(),
        ChunkView::Segment(_) => 0,
    }
}
