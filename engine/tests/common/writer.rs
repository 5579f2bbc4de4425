//! Changing a table and a map alike, and what must be there after a crash.

use std::sync::Arc;

use kalamdb_engine::{Database, Table};
use kalamdb_wal::sim::{Crash, SimDisk};

use super::{Model, commit, delete, find, insert, move_keys, now, open, rows, update};

pub const CRASHES: [Crash; 5] =
    [Crash::KillProcess, Crash::LoseUnsynced, Crash::KeepUnsynced, Crash::Torn(1), Crash::Torn(2)];

/// Does the same to the database and to a map.
pub struct Writer<'a> {
    pub database: &'a Arc<Database>,
    pub table: &'a Arc<Table>,
    pub model: Model,
}

impl Writer<'_> {
    pub async fn insert(&mut self, ids: std::ops::Range<i64>) {
        let new = rows(ids, "new");
        self.database.commit(vec![insert(self.table, None, &new)]).await.unwrap();
        self.model.extend(new);
    }

    pub async fn update(&mut self, ids: std::ops::Range<i64>, value: &str) {
        let write = update(self.database, self.table, None, |id| ids.contains(&id), value).await;
        commit(self.database, write).await.unwrap();
        ids.filter(|id| self.model.contains_key(id)).collect::<Vec<_>>().into_iter().for_each(|id| {
            self.model.insert(id, Some(format!("{value}-{id}")));
        });
    }

    pub async fn delete(&mut self, ids: std::ops::Range<i64>) {
        let write = delete(self.database, self.table, None, |id| ids.contains(&id)).await;
        commit(self.database, write).await.unwrap();
        self.model.retain(|id, _| !ids.contains(id));
    }

    pub async fn shift(&mut self, ids: std::ops::Range<i64>, by: i64) {
        let write = move_keys(self.database, self.table, None, |id| ids.contains(&id), by).await;
        commit(self.database, write).await.unwrap();
        for id in ids {
            self.model.remove(&id);
            self.model.insert(id + by, Some(format!("moved-{id}")));
        }
    }
}

/// Opens what a crash left, and flushes it, and opens that, and compacts it.
pub async fn recovers(disk: SimDisk, model: &Model, what: &str) {
    let database = open(&disk).await;
    let table = find(&database, "t");
    assert_eq!(&now(&database, &table, None).await, model, "{what}");
    database.flush(&table, None).await.unwrap();
    assert_eq!(&now(&database, &table, None).await, model, "{what}, flushed again");
    let database = open(&disk.crash(Crash::LoseUnsynced)).await;
    let table = find(&database, "t");
    assert_eq!(&now(&database, &table, None).await, model, "{what}, flushed and opened again");
    database.compact(&table, None).await.unwrap();
    assert_eq!(&now(&database, &table, None).await, model, "{what}, compacted");
}
