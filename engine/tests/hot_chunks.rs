//! How rows in memory lie for those who read them.

mod common;

use common::{create, insert, open, rows};
use kalamdb_engine::{ChunkView, TableKind};
use kalamdb_wal::sim::SimDisk;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finds_few_chunks_however_many_commits_wrote_the_rows() {
    let database = open(&SimDisk::new()).await;
    let table = create(&database, "t", TableKind::Shared).await.unwrap();
    // Just before writers would have merged them all.
    for id in 0..250 {
        database.commit(vec![insert(&table, None, &rows([id], "x"))]).await.unwrap();
    }
    let view = database.view(&database.snapshot(), &table, None).await.unwrap();
    let length = |chunk: &ChunkView| match chunk {
        ChunkView::Rows(chunk) => chunk.num_rows(),
        ChunkView::Segment(_) => unreachable!("nothing was flushed"),
    };
    let lengths: Vec<usize> = view.chunks.iter().map(length).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 250);
    // Each at least as long as all behind it, but for the three that are not worth a merge.
    assert!(lengths.len() <= 250usize.ilog2() as usize + 4, "{lengths:?}");
}
