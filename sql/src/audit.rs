//! `system.audit_log`: who did what with rights that others do not have.

use kalamdb_engine::system::{self, Cell};
use kalamdb_engine::{PartitionWrite, UserId};
use serde_json::Value;

use crate::auth::Identity;
use crate::error::{Error, Result};
use crate::instance::Instance;

/// Writes a row before the action it is about: an action that cannot be recorded does not happen.
///
/// # Errors
/// What the commit says.
pub(crate) async fn record(
    instance: &Instance,
    actor: &Identity,
    action: &str,
    subject: Option<&UserId>,
    details: Option<Value>,
) -> Result<()> {
    let database = instance.database();
    let table = database.catalog().table_by_id(system::AUDIT_LOG).cloned();
    let table = table.ok_or_else(|| Error::internal("system.audit_log is not in the catalog"))?;
    let row = vec![
        Cell::Int(instance.clock().now_micros()),
        Cell::Int(database.snowflake()),
        Cell::from(actor.user.as_str()),
        subject.map_or(Cell::Null, |subject| Cell::from(subject.as_str())),
        Cell::from(action),
        Cell::Null,
        details.map_or(Cell::Null, |details| Cell::from(details.to_string())),
        Cell::Null,
    ];
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(system::batch(&table.schema, &[row])?);
    database.commit(vec![write]).await?;
    Ok(())
}
