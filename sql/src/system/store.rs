//! Changing rows of the stored system tables, which are small: a row is found by looking through them.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use kalamdb_engine::system::{self, Cell, Row};
use kalamdb_engine::{
    Changed, Database, Error as EngineError, OldRows, PartitionView, PartitionWrite, Removed, Seq, Table,
    TableId, read,
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

/// What becomes of a row.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Keep,
    Replace(Vec<Cell>),
    Remove,
}

/// Changes and removes rows and adds others, in one commit. Returns it, if there was anything to do.
///
/// # Errors
/// What the commit says.
pub(crate) async fn edit(
    database: &Database,
    id: TableId,
    edit: impl Fn(Row<'_>) -> Result<Edit>,
    insert: &[Vec<Cell>],
) -> Result<Option<Seq>> {
    for _ in 0..RETRIES {
        let table = table(database, id)?;
        let view = newest(database, &table).await?;
        let mut write = PartitionWrite::new(table.clone(), None);
        let (mut replaced, mut removed, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for part in read::live_rows(&view)? {
            for row in 0..part.addresses.len() {
                match edit(Row::new(&part.rows.rows, row))? {
                    Edit::Keep => {}
                    Edit::Replace(cells) => {
                        new.push(cells);
                        replaced.push(one(&part, row));
                    }
                    Edit::Remove => removed.push(one(&part, row)),
                }
            }
        }
        if let Some((addresses, old)) = joined(replaced)? {
            write.update = Some(Changed { addresses, old, new: system::batch(&table.schema, &new)? });
        }
        if let Some((addresses, old)) = joined(removed)? {
            write.delete = Some(Removed { addresses, old });
        }
        if !insert.is_empty() {
            write.insert = Some(system::batch(&table.schema, insert)?);
        }
        if write.insert.is_none() && write.update.is_none() && write.delete.is_none() {
            return Ok(None);
        }
        write.view = Some(view);
        match database.commit(vec![write]).await {
            Err(EngineError::Conflict) => {}
            other => return Ok(Some(other?.seq)),
        }
    }
    Err(Error::from(EngineError::Conflict))
}

/// A row with its address.
fn one(part: &read::Located, row: usize) -> (u64, OldRows) {
    let old = OldRows {
        rows: part.rows.rows.slice(row, 1),
        seqs: part.rows.seqs.slice(row, 1),
        updated: part.rows.updated.slice(row, 1),
    };
    (part.addresses[row], old)
}

fn joined(rows: Vec<(u64, OldRows)>) -> Result<Option<(Vec<u64>, OldRows)>> {
    let Some((_, first)) = rows.first() else { return Ok(None) };
    let schema = first.rows.schema();
    let seqs: Vec<&dyn Array> = rows.iter().map(|(_, old)| &old.seqs as &dyn Array).collect();
    let updated: Vec<&dyn Array> = rows.iter().map(|(_, old)| &old.updated as &dyn Array).collect();
    let old = OldRows {
        rows: concat_batches(&schema, rows.iter().map(|(_, old)| &old.rows))?,
        seqs: concat(&seqs)?.as_primitive::<Int64Type>().clone(),
        updated: concat(&updated)?.as_primitive::<TimestampMicrosecondType>().clone(),
    };
    Ok(Some((rows.iter().map(|(address, _)| *address).collect(), old)))
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
    let mut there = false;
    each(database, id, |row| {
        there |= row.text(column)? == Some(key);
        Ok(())
    })
    .await?;
    let replace = |row: Row<'_>| match row.text(column)? == Some(key) {
        true => Ok(Edit::Replace(cells.to_vec())),
        false => Ok(Edit::Keep),
    };
    let insert = [cells.to_vec()];
    edit(database, id, replace, if there { &[] } else { &insert }).await.map(drop)
}

/// Removes all rows of a kind.
///
/// # Errors
/// What the commit says.
pub(crate) async fn remove(
    database: &Database,
    id: TableId,
    unwanted: impl Fn(Row<'_>) -> Result<bool>,
) -> Result<()> {
    let remove = |row: Row<'_>| Ok(if unwanted(row)? { Edit::Remove } else { Edit::Keep });
    edit(database, id, remove, &[]).await.map(drop)
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
