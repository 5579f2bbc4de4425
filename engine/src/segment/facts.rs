//! What is learnt of a segment while it is written, and what its file says of itself: the facts of its manifest entry,
//! and what the partition consists of with it in place, so that a lost manifest can be rebuilt from the files.

use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};

use super::find::hex;
use crate::error::{Error, Result};
use crate::ids::{ColumnId, PartitionId, Seq};
use crate::manifest::{FORMAT, SegmentMeta};
use crate::schema::TableSchema;
use crate::stats::{Bound, Gather};

/// What the names of our own facts in a file's key-value metadata begin with.
pub(crate) const FACT: &str = "kalamdb.";

/// A segment's place in its partition, known when it is finished.
#[derive(Debug)]
pub struct Finish<'a> {
    /// Its id, higher than that of any segment before; the file is `batch-<id>.parquet`.
    pub id: u64,
    /// How many compactions are between its rows and their flush, at most.
    pub level: u32,
    /// The partition's state with it: every commit up to this one, none after.
    pub flushed_seq: Seq,
    /// The segments beside it in that state, with their delete vectors.
    pub beside: &'a [SegmentMeta],
    /// Its own delete vector and how many rows that names.
    pub deletes: (Option<String>, u64),
    /// Time of writing, microseconds since the epoch.
    pub now: i64,
}

impl Finish<'_> {
    /// The file's name.
    pub fn file_name(&self) -> String {
        format!("batch-{}.parquet", self.id)
    }
}

/// One segment of a partition, as the newest of its segments names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletes_path: Option<String>,
    #[serde(default)]
    pub(crate) deleted_rows: u64,
}

/// What is learnt while writing.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) rows: u64,
    pub(super) live_row_groups: u32,
    tombstones: u64,
    keys: Option<(Vec<u8>, Vec<u8>)>,
    /// Of the declared columns of live rows.
    columns: Vec<Gather>,
    /// Of the commits of all rows.
    seqs: Gather,
    /// Of the times of tombstones.
    buried: Gather,
}

impl Facts {
    pub(super) fn new(schema: &TableSchema) -> Self {
        // System columns have no lasting ids; nobody asks for these.
        let system = || Gather::new(ColumnId(0));
        Self {
            rows: 0,
            live_row_groups: 0,
            tombstones: 0,
            keys: None,
            columns: schema.columns().iter().map(|c| Gather::new(c.id)).collect(),
            seqs: system(),
            buried: system(),
        }
    }

    /// Takes in a number of rows, at least one, without their values. They come in order, so that the keys of the first
    /// and the last bound all of them; `cell` gives one value of a column by column and row.
    pub(super) fn note_rows(
        &mut self,
        schema: &TableSchema,
        rows: usize,
        tombstones: bool,
        cell: impl Fn(usize, usize) -> Result<ArrayRef>,
    ) -> Result<()> {
        self.rows += rows as u64;
        self.tombstones += if tombstones { rows as u64 } else { 0 };
        let key = |row: usize| {
            let columns = schema.key_indices().iter().map(|at| cell(*at, row)).collect::<Result<Vec<_>>>()?;
            let key =
                schema.keys().convert_columns(&columns).map_err(|e| Error::internal("encode a key", e))?;
            Ok::<_, Error>(key.row(0).as_ref().to_vec())
        };
        let (first, last) = (key(0)?, key(rows - 1)?);
        self.keys = Some(match self.keys.take() {
            Some((low, high)) => (low.min(first), high.max(last)),
            None => (first, last),
        });
        Ok(())
    }

    /// Per stored column, what takes in the values of such rows.
    pub(super) fn columns(&mut self, tombstones: bool) -> Vec<Option<&mut Gather>> {
        let declared = self.columns.iter_mut().map(|column| (!tombstones).then_some(column));
        declared.chain([Some(&mut self.seqs), tombstones.then_some(&mut self.buried), None]).collect()
    }

    fn seqs(&self) -> (Seq, Seq) {
        let stats = self.seqs.clone().finish();
        let seq = |bound: Option<Bound>| match bound {
            Some(Bound::Int(seq)) => seq as Seq,
            _ => Seq::default(),
        };
        (seq(stats.min), seq(stats.max))
    }

    fn oldest_tombstone(&self) -> Option<i64> {
        match self.buried.clone().finish().min {
            Some(Bound::Int(time)) => Some(time),
            _ => None,
        }
    }

    pub(super) fn key_values(
        &self,
        partition: &PartitionId,
        schema: &TableSchema,
        place: &Finish<'_>,
    ) -> Result<Vec<(&'static str, String)>> {
        let meta = self.meta(schema, place, 0, 0);
        let failed = |e| Error::internal("write a segment", e);
        let named = |meta: &SegmentMeta| Named {
            id: meta.id,
            deletes_path: meta.deletes_path.clone(),
            deleted_rows: meta.deleted_rows,
        };
        let segments: Vec<Named> = place.beside.iter().chain([&meta]).map(named).collect();
        let mut facts = vec![
            ("format_version", FORMAT.to_string()),
            ("table_id", partition.table.to_string()),
            ("segment_id", meta.id.to_string()),
            ("level", meta.level.to_string()),
            ("live_row_groups", meta.live_row_groups.to_string()),
            ("tombstones", meta.tombstones.to_string()),
            ("min_seq", meta.min_seq.to_string()),
            ("max_seq", meta.max_seq.to_string()),
            ("schema_version", meta.schema_version.to_string()),
            ("created_at", meta.created_at.to_string()),
            ("flushed_seq", place.flushed_seq.to_string()),
            ("segments", serde_json::to_string(&segments).map_err(failed)?),
            ("min_key", meta.min_key),
            ("max_key", meta.max_key),
            ("columns", serde_json::to_string(&meta.columns).map_err(failed)?),
        ];
        facts.extend(meta.oldest_tombstone.map(|time| ("oldest_tombstone", time.to_string())));
        facts.extend(partition.user.as_ref().map(|user| ("user_id", user.to_string())));
        Ok(facts)
    }

    pub(super) fn meta(
        &self,
        schema: &TableSchema,
        place: &Finish<'_>,
        bytes: u64,
        crc32: u32,
    ) -> SegmentMeta {
        let (min_seq, max_seq) = self.seqs();
        let (min_key, max_key) =
            self.keys.as_ref().map(|(min, max)| (hex(min), hex(max))).unwrap_or_default();
        let (deletes_path, deleted_rows) = place.deletes.clone();
        SegmentMeta {
            id: place.id,
            path: place.file_name(),
            level: place.level,
            rows: self.rows,
            live_row_groups: self.live_row_groups,
            tombstones: self.tombstones,
            oldest_tombstone: self.oldest_tombstone(),
            bytes,
            min_seq,
            max_seq,
            schema_version: schema.version(),
            created_at: place.now,
            crc32,
            min_key,
            max_key,
            columns: self.columns.iter().cloned().map(Gather::finish).collect(),
            deletes_path,
            deleted_rows,
        }
    }
}
