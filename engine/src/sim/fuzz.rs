//! The fuzz targets of the engine. Each takes any bytes and panics if a promise is broken.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

pub use super::ops::engine_ops;
use crate::codec::columns::{get_batch, put_batch};
use crate::codec::record::{self, PartBody, RawCommit};
use crate::codec::{Input, record::RawPart};
use crate::delete_vector;
use crate::ids::{ColumnId, PartitionId};
use crate::manifest::Manifest;
use crate::schema::{Column, SchemaDef, TableSchema};
use crate::types::DataType;

/// The most rows that an input of [`row_codec`] may claim.
const MAX_ROWS: u16 = 5_000;

/// A table with a column of every type, and arrays of the kinds that are held differently.
pub fn schema() -> &'static Arc<TableSchema> {
    static SCHEMA: LazyLock<Arc<TableSchema>> = LazyLock::new(|| {
        let array = |of| DataType::Array(Box::new(of));
        let types = vec![
            DataType::BigInt,
            DataType::Boolean,
            DataType::SmallInt,
            DataType::Int,
            DataType::Float,
            DataType::Double,
            DataType::Decimal { precision: 38, scale: 9 },
            DataType::Text,
            DataType::Bytes,
            DataType::Json,
            DataType::Timestamp,
            DataType::Date,
            DataType::Time,
            DataType::Uuid,
            array(DataType::Int),
            array(DataType::Text),
            array(DataType::Boolean),
        ];
        let columns: Vec<Column> = (1..).zip(types).map(|(id, data_type)| column(id, data_type)).collect();
        let next_column_id = columns.len() as u32 + 1;
        let key = vec![ColumnId(1)];
        TableSchema::new(SchemaDef {
            version: 1,
            columns,
            primary_key: key,
            checks: Vec::new(),
            next_column_id,
        })
        .expect("a valid schema")
    });
    &SCHEMA
}

fn column(id: u32, data_type: DataType) -> Column {
    Column { nullable: id > 1, ..Column::new(ColumnId(id), format!("c{id}"), data_type) }
}

/// Target `row_codec`: two bytes that say how many rows there are, then any bytes as those rows.
///
/// # Panics
/// If what is read is not read again from what it is written as.
pub fn row_codec(data: &[u8]) {
    let Some((rows, bytes)) = data.split_first_chunk() else { return };
    let rows = usize::from(u16::from_le_bytes(*rows) % MAX_ROWS);
    let Ok(batch) = get_batch(&mut Input::new(bytes), schema().rows(), rows) else { return };
    let mut written = Vec::new();
    put_batch(&mut written, &batch).expect("columns of ours");
    let mut input = Input::new(&written);
    let again = get_batch(&mut input, schema().rows(), rows).expect("what was written is read");
    assert_eq!(again, batch);
    assert_eq!(input.remaining(), 0, "bytes that nobody reads");
}

/// Target `commit_record`: any bytes as a record of the log.
///
/// # Panics
/// If what is read is not written, read and written as the same bytes.
pub fn commit_record(data: &[u8]) {
    let Some((commit, bodies)) = read_commit(data) else { return };
    let written = write_commit(&commit, &bodies);
    let (commit, bodies) = read_commit(&written).expect("what was written is read");
    assert_eq!(write_commit(&commit, &bodies), written);
}

fn read_commit(data: &[u8]) -> Option<(RawCommit, Vec<PartBody>)> {
    let commit = record::decode(&Bytes::copy_from_slice(data)).ok()?;
    let bodies = commit.parts.iter().map(|part| part.decode(schema())).collect::<Result<_, _>>().ok()?;
    Some((commit, bodies))
}

fn write_commit(commit: &RawCommit, bodies: &[PartBody]) -> Vec<u8> {
    let part = |(raw, body): (&RawPart, _)| (raw.partition.clone(), raw.schema_version, body);
    let parts: Vec<(PartitionId, u32, &PartBody)> = commit.parts.iter().zip(bodies).map(part).collect();
    record::encode(commit.time_us, &parts).expect("columns of ours")
}

/// Target `manifest`: any bytes as a manifest, as they are and with the checksum that they lack.
///
/// # Panics
/// If one is accepted that does not read back, or whose numbers contradict each other.
pub fn manifest(data: &[u8]) {
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(format!("\n  \"crc32\": {}\n}}\n", crc32fast::hash(data)).as_bytes());
    for bytes in [data, &sealed] {
        let Ok(manifest) = Manifest::decode(bytes) else { continue };
        manifest.segments.iter().for_each(|segment| assert!(segment.live_rows() <= segment.rows));
        let again = Manifest::decode(&manifest.encode().expect("written")).expect("what was written is read");
        // As text: numbers that are not equal to themselves are still the same.
        assert_eq!(format!("{again:?}"), format!("{manifest:?}"));
    }
}

/// Target `delete_vector`: any bytes as a delete vector, as they are and as the bitmap of a whole one.
///
/// # Panics
/// If one is accepted that does not read back.
pub fn delete_vector(data: &[u8]) {
    let sealed = delete_vector::seal(data);
    for bytes in [data, &sealed] {
        let Ok(rows) = delete_vector::decode(bytes) else { continue };
        assert_eq!(delete_vector::decode(&delete_vector::encode(&rows)), Ok(rows));
    }
}
