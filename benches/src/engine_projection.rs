//! Reading a segment of an older schema version, projected to the table's columns, beside one that was written with the
//! newest version.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use kalamdb_engine::arrow::array::{ArrayRef, Int32Array, RecordBatch};
use kalamdb_engine::project::Projection;
use kalamdb_engine::{
    AlterTable, ColumnId, DataType, Ddl, NewColumn, PartitionWrite, Segment, TableChange, TableSchema,
};
use kalamdb_wal::durable;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::measure::{median, time_each};
use crate::place::Place;
use crate::report::{Budget, Comparison, Outcome, Sample};
use crate::table::{Fixture, insertion};

const ROWS: i64 = 200_000;
const PER_COMMIT: i64 = 10_000;
/// Of each of the two files, by turns.
const SCANS: usize = 9;

/// See the module.
#[derive(Debug)]
pub struct Projected;

impl Comparison for Projected {
    fn name(&self) -> &'static str {
        "engine-projection"
    }

    fn run(&self, place: &Place) -> Outcome<Vec<Sample>> {
        let dir = place.dir()?;
        let mut old = Fixture::open(place, &dir.path().join("old"))?;
        old.insert(0..ROWS, PER_COMMIT as usize)?;
        old.runtime.block_on(old.database.flush(&old.table, None))?;
        alter(&mut old)?;
        let mut new = Fixture::open(place, &dir.path().join("new"))?;
        let first = new.table.clone();
        alter(&mut new)?;
        for from in (0..ROWS).step_by(PER_COMMIT as usize) {
            let write = insertion(&first, from..from + PER_COMMIT)?;
            new.runtime.block_on(new.database.commit(vec![altered(&new, write)?]))?;
        }
        new.runtime.block_on(new.database.flush(&new.table, None))?;
        let files = [File::of(place, &old)?, File::of(place, &new)?];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..SCANS {
            ours.extend(time_each(1, || files[0].scan(&old.table.schema))?);
            theirs.extend(time_each(1, || files[1].scan(&new.table.schema))?);
        }
        old.close()?;
        new.close()?;
        Ok(vec![Sample {
            work: format!(
                "engine: reading {ROWS} rows of an older schema version, one column added and one renamed"
            ),
            beside: "the same rows written with the newest version",
            ours: median(ours) / 1e3,
            theirs: median(theirs) / 1e3,
            unit: "ms",
            budget: Budget::AtMost(1.05),
        }])
    }
}

/// Adds a column and renames another.
fn alter(fixture: &mut Fixture) -> Outcome<()> {
    let added = TableChange::AddColumn(NewColumn {
        name: "level".into(),
        data_type: DataType::Int,
        nullable: false,
        default: None,
        generated: false,
        initial: Some(Arc::new(Int32Array::from(vec![1]))),
    });
    let renamed = TableChange::RenameColumn { id: ColumnId(2), name: "title".into() };
    let alter = AlterTable {
        id: fixture.table.id,
        base_version: fixture.table.schema.version(),
        changes: vec![added, renamed],
    };
    fixture.runtime.block_on(fixture.database.ddl(Ddl::AlterTable(Box::new(alter))))?;
    let table = fixture.database.catalog().table_by_id(fixture.table.id).cloned();
    fixture.table = table.ok_or("the table is gone")?;
    Ok(())
}

/// A write of the first version's rows as one of the altered table, the new column being what it is in old rows.
fn altered(fixture: &Fixture, write: PartitionWrite) -> Outcome<PartitionWrite> {
    let rows = write.insert.ok_or("a write without rows")?;
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns.push(Arc::new(Int32Array::from(vec![1; rows.num_rows()])));
    let mut write = PartitionWrite::new(fixture.table.clone(), None);
    write.insert = Some(RecordBatch::try_new(fixture.table.schema.rows().clone(), columns)?);
    Ok(write)
}

struct File {
    segment: Arc<Segment>,
    bytes: Bytes,
}

impl File {
    /// The only segment of a table.
    fn of(place: &Place, fixture: &Fixture) -> Outcome<Self> {
        let version = fixture.database.partition_version(&fixture.table, None)?.ok_or("no partition")?;
        let segment = version.segments.first().ok_or("no segment")?.clone();
        let bytes = durable::read_file(&*place.disk(), segment.path())?.into();
        Ok(Self { segment, bytes })
    }

    /// Reads all rows as rows of a schema.
    fn scan(&self, schema: &Arc<TableSchema>) -> Outcome<()> {
        let stored = self.segment.schema();
        let projection = Projection::new(stored, schema)?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(self.bytes.clone())?.with_batch_size(8_192);
        for batch in reader.build()? {
            let columns = batch?.columns()[..stored.columns().len()].to_vec();
            let rows = RecordBatch::try_new(stored.rows().clone(), columns)?;
            black_box(match &projection {
                Some(projection) => projection.apply(&rows)?,
                None => rows,
            });
        }
        Ok(())
    }
}
