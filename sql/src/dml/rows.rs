//! From columns to the rows of a commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType as ArrowType;
use kalamdb_engine::{PartitionWrite, Table, TableKind, UserId};

use crate::error::{Error, ErrorCode, Result};
use crate::statement::StatementContext;

/// The table's rows from its columns, in declaration order.
///
/// # Errors
/// [`ErrorCode::NotNullViolation`] naming the column.
pub(crate) fn assemble(table: &Table, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    for (column, values) in table.schema.columns().iter().zip(&columns) {
        if !column.nullable && values.logical_null_count() > 0 {
            let message =
                format!("column {} of table {} must not be NULL", column.name, table.qualified_name());
            return Err(Error::new(ErrorCode::NotNullViolation, message));
        }
    }
    Ok(RecordBatch::try_new(table.schema.rows().clone(), columns)?)
}

/// The partition that a session writes to if it does not say another.
pub(crate) fn own_partition(ctx: &StatementContext, table: &Table) -> Option<UserId> {
    (table.kind == TableKind::User).then(|| ctx.identity.user.clone())
}

/// The inserts of a commit: all rows into the session's partition, or each into that of the owner `owners` names.
///
/// # Errors
/// [`ErrorCode::NotNullViolation`] for a row without an owner; [`ErrorCode::InvalidParameter`] for an impossible one.
pub(crate) fn inserts(
    ctx: &StatementContext,
    table: &Arc<Table>,
    rows: RecordBatch,
    owners: Option<&ArrayRef>,
) -> Result<Vec<PartitionWrite>> {
    let insert = |user: Option<UserId>, rows: RecordBatch| PartitionWrite {
        insert: Some(rows),
        ..PartitionWrite::new(table.clone(), user)
    };
    let Some(owners) = owners else {
        return Ok(vec![insert(own_partition(ctx, table), rows)]);
    };
    let groups = group_by_owner(owners)?;
    let part = |(user, picked): (UserId, Vec<u32>)| -> Result<PartitionWrite> {
        Ok(insert(Some(user), take_record_batch(&rows, &UInt32Array::from(picked))?))
    };
    groups.into_iter().map(part).collect()
}

/// Row numbers by owner.
///
/// # Errors
/// As [`inserts`].
pub(crate) fn group_by_owner(owners: &ArrayRef) -> Result<BTreeMap<UserId, Vec<u32>>> {
    let owners = arrow::compute::cast(owners, &ArrowType::Utf8View)?;
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (row, owner) in owners.as_string_view().iter().enumerate() {
        let owner =
            owner.ok_or_else(|| Error::new(ErrorCode::NotNullViolation, "a row does not say whose it is"))?;
        groups.entry(owner).or_default().push(row as u32);
    }
    groups.into_iter().map(|(owner, rows)| Ok((UserId::new(owner)?, rows))).collect()
}
