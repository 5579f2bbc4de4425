//! Users as rows of `system.users`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use kalamdb_engine::system::{self, Cell, Row};
use kalamdb_engine::{
    Catalog, Changed, Database, Error as EngineError, OldRows, PartitionWrite, Removed, Table, UserId, read,
};

use super::User;
use crate::error::{Error, Result};

/// How often a change is tried when a flush of the table came between.
const RETRIES: usize = 20;

/// `system.users`.
pub(super) fn table(catalog: &Catalog) -> Result<Arc<Table>> {
    let table = catalog.table_by_id(system::USERS).cloned();
    table.ok_or_else(|| Error::internal("system.users is not in the catalog"))
}

/// The user of a row.
pub(super) fn user(batch: &RecordBatch, at: usize) -> Result<User> {
    let row = Row::new(batch, at);
    let last_login = row.int("last_login")?;
    Ok(User {
        user_id: UserId::new(row.required_text("user_id")?)?,
        username: row.required_text("username")?.to_owned(),
        role: row.required_text("role")?.parse()?,
        metadata: row.text("metadata")?.map(str::to_owned),
        created_at: row.int("created_at")?,
        updated_at: row.int("updated_at")?,
        last_login: (last_login != 0).then_some(last_login),
        password_hash: row.text("password_hash")?.map(str::to_owned),
    })
}

fn batch(table: &Table, user: &User) -> Result<RecordBatch> {
    let cells = vec![
        Cell::from(user.user_id.as_str()),
        Cell::from(user.username.as_str()),
        Cell::from(user.role.as_str()),
        Cell::from(user.metadata.clone()),
        Cell::Int(user.created_at),
        Cell::Int(user.updated_at),
        user.last_login.map_or(Cell::Null, Cell::Int),
        Cell::from(user.password_hash.clone()),
    ];
    Ok(system::batch(&table.schema, &[cells])?)
}

/// Stores a new user.
pub(super) async fn insert(database: &Database, user: &User) -> Result<u64> {
    let table = table(&database.catalog())?;
    let mut write = PartitionWrite::new(table.clone(), None);
    write.insert = Some(batch(&table, user)?);
    Ok(database.commit(vec![write]).await?.seq)
}

/// Stores a change of a user.
pub(super) async fn update(database: &Database, user: &User) -> Result<u64> {
    change(database, user.user_id.as_str(), |table, write, addresses, old| {
        write.update = Some(Changed { addresses, old, new: batch(table, user)? });
        Ok(())
    })
    .await
}

/// Removes a user.
pub(super) async fn delete(database: &Database, user: &UserId) -> Result<u64> {
    change(database, user.as_str(), |_, write, addresses, old| {
        write.delete = Some(Removed { addresses, old });
        Ok(())
    })
    .await
}

async fn change(
    database: &Database,
    user: &str,
    fill: impl Fn(&Table, &mut PartitionWrite, Vec<u64>, OldRows) -> Result<()>,
) -> Result<u64> {
    let mut tries = 0;
    loop {
        let table = table(&database.catalog())?;
        let view = Arc::new(database.view(&database.write_snapshot(), &table, None).await?);
        let (address, old) = find(&read::live_rows(&view)?, user)?.ok_or_else(|| super::not_found(user))?;
        let mut write = PartitionWrite::new(table.clone(), None);
        write.view = Some(view);
        fill(&table, &mut write, vec![address], old)?;
        match database.commit(vec![write]).await {
            Err(EngineError::Conflict) if tries < RETRIES => tries += 1,
            other => return Ok(other?.seq),
        }
    }
}

fn find(located: &[read::Located], user: &str) -> Result<Option<(u64, OldRows)>> {
    for part in located {
        for row in 0..part.addresses.len() {
            if Row::new(&part.rows.rows, row).text("user_id")? == Some(user) {
                let old = OldRows {
                    rows: part.rows.rows.slice(row, 1),
                    seqs: part.rows.seqs.slice(row, 1),
                    updated: part.rows.updated.slice(row, 1),
                };
                return Ok(Some((part.addresses[row], old)));
            }
        }
    }
    Ok(None)
}
