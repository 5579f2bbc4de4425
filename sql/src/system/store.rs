//! Changing single rows of the stored system tables, which are small: a row is found by looking through them.

use std::sync::Arc;

use arrow::array::{AsArray, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use kalamdb_engine::system::{self, Cell, Row};
use kalamdb_engine::{
    Changed, Database, Error as EngineError, OldRows, PartitionView, PartitionWrite, Removed, Table, TableId,
    read,
};

use crate::error::{Error, Result};

/// How often a change is tried when another one, or a flush of the table, came between.
const RETRIES: usize = 20;

/// A stored system table.
///
/// # Errors
/// None: they are always there.
pub(crate) fn table(database: &Database, id: TableId) -> Result<Arc<Table>> {
    let table = database.catalog().table_by_id(id).cloned();
    table.ok_or_else(|| Error::internal(format!("system table {id} is not in the catalog")))
}

/// Writes a row, in the place of the one whose `column` is `key` if there is one.
///
/// # Errors
/// What the commit says.
pub(crate) async fn put(
    database: &Database,
    id: TableId,
    column: &str,
    key: &str,
    cells: &[Cell],
) -> Result<()> {
    for _ in 0..RETRIES {
        let table = table(database, id)?;
        let row = system::batch(&table.schema, &[cells.to_vec()])?;
        let view = newest(database, &table).await?;
        let mut write = PartitionWrite::new(table, None);
        match picked(&view, |row| Ok(row.text(column)? == Some(key)))? {
            Some((addresses, old)) => {
                write.update = Some(Changed { addresses, old, new: row });
                write.view = Some(view);
            }
            None => write.insert = Some(row),
        }
        match database.commit(vec![write]).await {
            Err(EngineError::Conflict) => {}
            other => return other.map(drop).map_err(Error::from),
        }
    }
    Err(Error::from(EngineError::Conflict))
}

/// Removes all rows of a kind, in one commit or in several. Returns how many.
///
/// # Errors
/// What a commit says; those before it stand.
pub(crate) async fn remove(
    database: &Database,
    id: TableId,
    unwanted: impl Fn(Row<'_>) -> Result<bool>,
) -> Result<usize> {
    let (mut removed, mut lost) = (0, 0);
    loop {
        let table = table(database, id)?;
        let view = newest(database, &table).await?;
        let Some((addresses, old)) = picked(&view, &unwanted)? else { return Ok(removed) };
        let count = addresses.len();
        let mut write = PartitionWrite::new(table, None);
        write.delete = Some(Removed { addresses, old });
        write.view = Some(view);
        match database.commit(vec![write]).await {
            Ok(_) => removed += count,
            Err(EngineError::Conflict) if lost < RETRIES => lost += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads all rows.
///
/// # Errors
/// The engine's, and those of `each`.
pub(crate) async fn each(
    database: &Database,
    id: TableId,
    mut each: impl FnMut(Row<'_>) -> Result<()>,
) -> Result<()> {
    let table = table(database, id)?;
    let view = newest(database, &table).await?;
    for part in read::live_rows(&view)? {
        (0..part.addresses.len()).try_for_each(|row| each(Row::new(&part.rows.rows, row)))?;
    }
    Ok(())
}

async fn newest(database: &Database, table: &Arc<Table>) -> Result<Arc<PartitionView>> {
    Ok(Arc::new(database.view(&database.write_snapshot(), table, None).await?))
}

/// The rows of a kind in the first chunk that has any.
fn picked(
    view: &PartitionView,
    wanted: impl Fn(Row<'_>) -> Result<bool>,
) -> Result<Option<(Vec<u64>, OldRows)>> {
    for part in read::live_rows(view)? {
        let mut rows = Vec::new();
        for row in 0..part.addresses.len() {
            if wanted(Row::new(&part.rows.rows, row))? {
                rows.push(row as u32);
            }
        }
        if rows.is_empty() {
            continue;
        }
        let addresses = rows.iter().map(|row| part.addresses[*row as usize]).collect();
        let rows = UInt32Array::from(rows);
        let old = OldRows {
            rows: take_record_batch(&part.rows.rows, &rows)?,
            seqs: take(&part.rows.seqs, &rows, None)?.as_primitive::<Int64Type>().clone(),
            updated: take(&part.rows.updated, &rows, None)?
                .as_primitive::<TimestampMicrosecondType>()
                .clone(),
        };
        return Ok(Some((addresses, old)));
    }
    Ok(None)
}
