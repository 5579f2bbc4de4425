//! A commit as one log record: a bincode envelope, then for every partition it changed a body of rows.
//!
//! ```text
//! record   = envelope (bincode: format, time, one PartHeader per partition) + the bodies in order
//! body     = inserted rows
//!          + replaced    (the tombstones whose keys new rows take: addresses, commit seqs, times, last values)
//!          + update      (addresses, commit seqs and times of the old rows; old rows; new rows)
//!          + delete      (the same; old rows)
//! ```
//!
//! The commit's sequence is the record's own number in the log. Full before and after images are kept, because a live
//! query that reads the log again needs both. An address says where the old row was when the record was written
//! ([`Target`]); after a flush or compaction moved it, the row is found again by its key.

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use bincode::{Decode, Encode};
use bytes::Bytes;

use super::columns::{get_batch, put_batch};
use super::{Input, damaged, get_signed, put_signed, put_varint};
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, TableId, UserId};
use crate::project::Projection;
use crate::schema::TableSchema;
use crate::types::TIMEZONE;

/// The version of the record format this code writes, and the newest it reads.
pub const FORMAT: u8 = 2;
/// Records before this format name replaced tombstones only where they were in segments, and not what they held.
const WITH_TOMBSTONES: u8 = 2;

#[derive(Debug, Encode, Decode)]
struct Envelope {
    format: u8,
    time_us: i64,
    parts: Vec<PartHeader>,
}

#[derive(Debug, Encode, Decode)]
struct PartHeader {
    table: u64,
    user: Option<String>,
    schema_version: u32,
    inserted: u32,
    replaced: u32,
    updated: u32,
    deleted: u32,
    body_bytes: u64,
}

/// Where a superseded row was when its successor was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// In memory: the `index`-th live row that commit `seq` wrote to this partition.
    Live {
        /// The commit that wrote it.
        seq: Seq,
        /// Its place among that commit's live rows.
        index: u32,
    },
    /// In memory: the `index`-th tombstone of commit `seq`.
    Tombstone {
        /// The commit that wrote it.
        seq: Seq,
        /// Its place among that commit's tombstones.
        index: u32,
    },
    /// In a Parquet segment.
    Segment {
        /// The segment's id.
        id: u64,
        /// The row's number in the file.
        row: u32,
    },
}

/// Rows as they were, with what their system columns held.
#[derive(Debug, Clone)]
pub struct OldRows {
    /// The declared columns.
    pub rows: RecordBatch,
    /// Per row, the commit that wrote it.
    pub seqs: Int64Array,
    /// Per row, that commit's time.
    pub updated: TimestampMicrosecondArray,
}

/// What one commit did to one partition.
#[derive(Debug, Clone)]
pub struct PartBody {
    /// New rows under new keys.
    pub inserted: Option<RecordBatch>,
    /// Tombstones whose keys new rows take.
    pub replaced: Replaced,
    /// Rows replaced by a new version: where they were, what they were, what they are now.
    pub updated: Option<(Vec<Target>, OldRows, RecordBatch)>,
    /// Rows deleted: where they were and what they were.
    pub deleted: Option<(Vec<Target>, OldRows)>,
}

/// Tombstones whose keys new rows take.
#[derive(Debug, Clone, Default)]
pub struct Replaced {
    /// Where they were.
    pub targets: Vec<Target>,
    /// What they held. `None` if there are none, and in records of format 1.
    pub old: Option<OldRows>,
}

/// One partition's part of a record that was read, with its rows still encoded.
#[derive(Debug, Clone)]
pub struct RawPart {
    /// The partition.
    pub partition: PartitionId,
    /// The schema version its rows are encoded with.
    pub schema_version: u32,
    format: u8,
    counts: [usize; 4],
    body: Bytes,
}

/// A record that was read, with its rows still encoded.
#[derive(Debug, Clone)]
pub struct RawCommit {
    /// Commit time, microseconds since the epoch.
    pub time_us: i64,
    /// The partitions it changed.
    pub parts: Vec<RawPart>,
}

/// Writes a record.
///
/// # Errors
/// [`Error::Internal`] for an Arrow type no column of ours has.
pub fn encode(time_us: i64, parts: &[(PartitionId, u32, &PartBody)]) -> Result<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut headers = Vec::with_capacity(parts.len());
    for (partition, schema_version, body) in parts {
        let start = bodies.len();
        put_body(&mut bodies, body)?;
        headers.push(PartHeader {
            table: partition.table.0,
            user: partition.user.as_ref().map(|u| u.as_str().to_owned()),
            schema_version: *schema_version,
            inserted: rows(body.inserted.as_ref()),
            // A body of a record of format 1 is never written again.
            replaced: rows(body.replaced.old.as_ref().map(|old| &old.rows)),
            updated: rows(body.updated.as_ref().map(|u| &u.2)),
            deleted: rows(body.deleted.as_ref().map(|d| &d.1.rows)),
            body_bytes: (bodies.len() - start) as u64,
        });
    }
    let envelope = Envelope { format: FORMAT, time_us, parts: headers };
    let mut record = bincode::encode_to_vec(&envelope, bincode::config::standard())
        .map_err(|e| Error::internal("encode a log record", e))?;
    record.append(&mut bodies);
    Ok(record)
}

fn rows(batch: Option<&RecordBatch>) -> u32 {
    batch.map_or(0, |b| b.num_rows() as u32)
}

/// Reads a record's envelope; the rows stay encoded (and shared with `record`) until [`RawPart::decode`].
///
/// # Errors
/// [`Error::Corrupt`] if the bytes are no record, [`Error::NewerFormat`] if a newer version wrote them.
pub fn decode(record: &Bytes) -> Result<RawCommit> {
    if record.first().is_some_and(|format| *format > FORMAT) {
        return Err(Error::NewerFormat(format!(
            "the log holds records of format {}; this version reads {FORMAT}",
            record[0]
        )));
    }
    let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
    let (envelope, mut at): (Envelope, usize) =
        bincode::decode_from_slice(record, config).map_err(|e| damaged(&format!("has no envelope: {e}")))?;
    let mut parts = Vec::with_capacity(envelope.parts.len());
    for header in envelope.parts {
        let length = usize::try_from(header.body_bytes).ok().filter(|n| *n <= record.len() - at);
        let length = length.ok_or_else(|| damaged("ends too early"))?;
        let user = header.user.as_deref().map(UserId::new).transpose()?;
        parts.push(RawPart {
            partition: PartitionId { table: TableId(header.table), user },
            schema_version: header.schema_version,
            format: envelope.format,
            counts: [header.inserted, header.replaced, header.updated, header.deleted].map(|n| n as usize),
            body: record.slice(at..at + length),
        });
        at += length;
    }
    Ok(RawCommit { time_us: envelope.time_us, parts })
}

impl PartBody {
    /// The same with its rows as those of another schema version.
    ///
    /// # Errors
    /// See [`crate::project`].
    pub fn project(mut self, from: &TableSchema, to: &TableSchema) -> Result<Self> {
        let Some(projection) = Projection::new(from, to)? else { return Ok(self) };
        let updated = self.updated.iter_mut().flat_map(|(_, old, new)| [&mut old.rows, new]);
        let deleted = self.deleted.iter_mut().map(|(_, old)| &mut old.rows);
        let replaced = self.replaced.old.iter_mut().map(|old| &mut old.rows);
        for rows in self.inserted.iter_mut().chain(updated).chain(deleted).chain(replaced) {
            *rows = projection.apply(rows)?;
        }
        Ok(self)
    }
}

impl RawPart {
    /// Reads the rows. `schema` must be the one of [`RawPart::schema_version`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are no such rows.
    pub fn decode(&self, schema: &TableSchema) -> Result<PartBody> {
        let mut input = Input::new(&self.body);
        let [inserted, replaced, updated, deleted] = self.counts;
        let schema = schema.rows();
        let body = PartBody {
            inserted: (inserted > 0).then(|| get_batch(&mut input, schema, inserted)).transpose()?,
            replaced: match replaced {
                0 => Replaced::default(),
                n if self.format < WITH_TOMBSTONES => {
                    Replaced { targets: get_targets(&mut input, n)?, old: None }
                }
                n => {
                    let (targets, old) = get_old(&mut input, schema, n)?;
                    Replaced { targets, old: Some(old) }
                }
            },
            updated: match updated {
                0 => None,
                n => {
                    let (targets, old) = get_old(&mut input, schema, n)?;
                    Some((targets, old, get_batch(&mut input, schema, n)?))
                }
            },
            deleted: (deleted > 0).then(|| get_old(&mut input, schema, deleted)).transpose()?,
        };
        if input.remaining() > 0 {
            return Err(damaged("is longer than its rows"));
        }
        Ok(body)
    }
}

fn put_body(out: &mut Vec<u8>, body: &PartBody) -> Result<()> {
    if let Some(rows) = &body.inserted {
        put_batch(out, rows)?;
    }
    if let Some(old) = &body.replaced.old {
        put_old(out, &body.replaced.targets, old)?;
    }
    if let Some((targets, old, new)) = &body.updated {
        put_old(out, targets, old)?;
        put_batch(out, new)?;
    }
    if let Some((targets, old)) = &body.deleted {
        put_old(out, targets, old)?;
    }
    Ok(())
}

fn put_target(out: &mut Vec<u8>, target: &Target) {
    let (kind, a, b) = match *target {
        Target::Live { seq, index } => (0, seq, index),
        Target::Tombstone { seq, index } => (1, seq, index),
        Target::Segment { id, row } => (2, id, row),
    };
    out.push(kind);
    put_varint(out, a);
    put_varint(out, u64::from(b));
}

fn get_targets(input: &mut Input<'_>, count: usize) -> Result<Vec<Target>> {
    if count > input.remaining() {
        return Err(damaged("ends too early"));
    }
    (0..count)
        .map(|_| {
            let kind = input.byte()?;
            let a = input.varint()?;
            let b = input.size(u32::MAX as usize)? as u32;
            match kind {
                0 => Ok(Target::Live { seq: a, index: b }),
                1 => Ok(Target::Tombstone { seq: a, index: b }),
                2 => Ok(Target::Segment { id: a, row: b }),
                _ => Err(damaged("has an unknown kind of row address")),
            }
        })
        .collect()
}

fn put_old(out: &mut Vec<u8>, targets: &[Target], old: &OldRows) -> Result<()> {
    targets.iter().for_each(|target| put_target(out, target));
    put_deltas(out, old.seqs.values());
    put_deltas(out, old.updated.values());
    put_batch(out, &old.rows)
}

fn get_old(
    input: &mut Input<'_>,
    schema: &arrow::datatypes::SchemaRef,
    count: usize,
) -> Result<(Vec<Target>, OldRows)> {
    let targets = get_targets(input, count)?;
    let seqs = Int64Array::from(get_deltas(input, count)?);
    let updated = TimestampMicrosecondArray::from(get_deltas(input, count)?).with_timezone(TIMEZONE);
    let rows = get_batch(input, schema, count)?;
    Ok((targets, OldRows { rows, seqs, updated }))
}

/// Each value as its difference from the one before: rows of one statement were often written together.
fn put_deltas(out: &mut Vec<u8>, values: &[i64]) {
    let mut last = 0i64;
    for value in values {
        put_signed(out, value.wrapping_sub(last));
        last = *value;
    }
}

fn get_deltas(input: &mut Input<'_>, count: usize) -> Result<Vec<i64>> {
    let mut last = 0i64;
    (0..count)
        .map(|_| {
            last = last.wrapping_add(get_signed(input)?);
            Ok(last)
        })
        .collect()
}
