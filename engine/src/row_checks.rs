//! Whether the rows of a table allow a change of it: that a column holds no NULL, or that there is no row at all.
//!
//! The answer must still be true when the change takes effect, and the look may take long. So writers are told first: a
//! [`Guard`] in the catalog in memory refuses them the NULLs that are looked for, or the table. Commits heed it under
//! their partition's lock; whoever passed before it was set is in memory once that lock was free, and is seen by the
//! snapshot that is looked at. The guard goes when the change is in effect or has failed. It is never durable, so a
//! crash at any point leaves the table as it was.

use std::sync::Arc;

use arrow::array::Array;

use crate::catalog::{Catalog, Guard, Table};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{ColumnId, TableId};
use crate::read::segment_holds_null;
use crate::snapshot::Snapshot;
use crate::view::{ChunkView, PartitionView};

/// What a change needs of the rows that are there.
#[derive(Debug, Default)]
pub(crate) struct RowsNeeded {
    /// None may hold NULL in these columns.
    pub(crate) not_null: Vec<ColumnId>,
    /// There may be none, for this column has no value for them.
    pub(crate) none_for: Option<String>,
}

impl RowsNeeded {
    pub(crate) fn is_nothing(&self) -> bool {
        self.not_null.is_empty() && self.none_for.is_none()
    }
}

/// Takes the guard off when it is dropped.
pub(crate) struct Guarded(Arc<Database>);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.set_guard(None);
    }
}

impl Database {
    /// True if no row of the table is visible now, in any partition.
    ///
    /// # Errors
    /// An I/O error; [`Error::PartitionDamaged`].
    pub async fn is_empty(self: &Arc<Self>, table: &Arc<Table>) -> Result<bool> {
        Ok(!self.any_partition(table, self.snapshot(), |view| Ok(view.has_live_rows())).await?)
    }

    /// Checks the rows and keeps them so until the result is dropped. The caller holds the catalog's lock.
    ///
    /// # Errors
    /// [`Error::NotNullViolation`] if they are not as needed.
    pub(crate) async fn check_rows(
        self: &Arc<Self>,
        table: &Arc<Table>,
        needed: &RowsNeeded,
    ) -> Result<Guarded> {
        let guard = match &needed.none_for {
            Some(_) => Guard::Closed,
            None => Guard::NotNull(needed.not_null.clone()),
        };
        self.set_guard(Some((table.id, guard)));
        let guarded = Guarded(self.clone());
        self.until_passed(table.id).await?;
        let violation = |column: &str| {
            let (table, column) = (table.qualified_name(), column.to_owned());
            Err(Error::NotNullViolation { table, column })
        };
        if let Some(column) = &needed.none_for
            && !self.is_empty(table).await?
        {
            return violation(column);
        }
        for id in &needed.not_null {
            let Some(at) = table.schema.position(*id) else { continue };
            if self.any_partition(table, self.snapshot(), move |view| holds_null(view, at)).await? {
                return violation(&table.schema.columns()[at].name);
            }
        }
        Ok(guarded)
    }

    fn set_guard(&self, guard: Option<(TableId, Guard)>) {
        let catalog = self.catalog();
        if catalog.guard != guard {
            self.catalog.store(Arc::new(Catalog { guard, ..Catalog::clone(&catalog) }));
        }
    }

    /// Waits until what commits did that found no guard is visible.
    async fn until_passed(&self, table: TableId) -> Result<()> {
        let partitions: Vec<_> = {
            let partitions = self.partitions.read();
            let of_table = partitions.iter().filter(|(id, _)| id.table == table);
            of_table.filter_map(|(_, slot)| slot.get()?.as_ref().ok().cloned()).collect()
        };
        let last = partitions.iter().map(|partition| partition.commit.lock().last_seq).max();
        self.until_visible(last.unwrap_or(0)).await
    }

    /// True if it is true of any partition of the table.
    async fn any_partition(
        self: &Arc<Self>,
        table: &Arc<Table>,
        snapshot: Snapshot,
        test: impl Fn(&PartitionView) -> Result<bool> + Send + 'static,
    ) -> Result<bool> {
        let mut owners = Vec::new();
        match table.kind {
            crate::TableKind::User => owners.extend(self.users_of(table).await?.into_iter().map(Some)),
            _ => owners.push(None),
        }
        let (database, table) = (self.clone(), table.clone());
        let looked = tokio::task::spawn_blocking(move || {
            for owner in owners {
                if test(&database.view_now(&snapshot, &table, owner.as_ref())?)? {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        looked.await.unwrap_or_else(|e| Err(Error::internal("look through a table", e)))
    }
}

impl Catalog {
    pub(crate) fn guard_of(&self, table: TableId) -> Option<&Guard> {
        self.guard.as_ref().filter(|(id, _)| *id == table).map(|(_, guard)| guard)
    }
}

/// True if a visible row holds NULL in the column at `at`. Segments whose statistics know of none are not opened.
fn holds_null(view: &PartitionView, at: usize) -> Result<bool> {
    for chunk in &view.chunks {
        let holds_null = match chunk {
            ChunkView::Rows(rows) if rows.tombstones => false,
            ChunkView::Rows(rows) => {
                let nulls = rows.column(at).logical_nulls();
                let hidden = rows.visible();
                let shown = |row: usize| hidden.as_ref().is_none_or(|visible| visible.value(row));
                nulls.is_some_and(|nulls| (0..nulls.len()).any(|row| nulls.is_null(row) && shown(row)))
            }
            ChunkView::Segment(chunk) => {
                let known = chunk.segment.stats(&view.table.schema, at);
                known.is_none_or(|stats| stats.null_count > 0) && segment_holds_null(view, chunk, at)?
            }
        };
        if holds_null {
            return Ok(true);
        }
    }
    Ok(false)
}
