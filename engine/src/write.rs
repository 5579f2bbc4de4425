//! What a statement or transaction hands to [`crate::Database::commit`].

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::catalog::Table;
pub use crate::codec::record::OldRows;
use crate::ids::UserId;
use crate::view::PartitionView;

/// The changes of one commit to one partition. Batches have the columns of [`crate::TableSchema::rows`].
#[derive(Debug)]
pub struct PartitionWrite {
    /// The table, as of the statement's catalog.
    pub table: Arc<Table>,
    /// The owner, for USER tables.
    pub user: Option<UserId>,
    /// What the addresses below refer to; needed if there are any.
    pub view: Option<Arc<PartitionView>>,
    /// New rows.
    pub insert: Option<RecordBatch>,
    /// Rows that get a new version.
    pub update: Option<Changed>,
    /// Rows that are deleted.
    pub delete: Option<Removed>,
}

/// Rows that get a new version; all parts have the same length and order.
#[derive(Debug)]
pub struct Changed {
    /// Where the old versions are; no address twice.
    pub addresses: Vec<u64>,
    /// What they are.
    pub old: OldRows,
    /// What replaces them.
    pub new: RecordBatch,
}

/// Rows that are deleted; both parts have the same length and order.
#[derive(Debug)]
pub struct Removed {
    /// Where they are; no address twice.
    pub addresses: Vec<u64>,
    /// What they are.
    pub old: OldRows,
}

impl PartitionWrite {
    /// A write that changes nothing yet.
    pub fn new(table: Arc<Table>, user: Option<UserId>) -> Self {
        Self { table, user, view: None, insert: None, update: None, delete: None }
    }
}
