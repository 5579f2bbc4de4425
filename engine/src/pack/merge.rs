//! Merging packs: when several of about the same size have gathered, they become one, user by user in a stream. Of each
//! user's slices the newest stays, and none whose partition has newer files of its own. The manifest is replaced once the
//! new pack is durable; the old files go when nobody reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::list::{Packs, schema_of};
use super::manifest::PackMeta;
use super::read::{Pack, Slices};
use super::slice::Slice;
use super::write::PackWriter;
use crate::catalog::{Catalog, Table};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, Seq, TableId, UserId};
use crate::manifest::Manifest;
use crate::schema::TableSchema;

/// So many packs of one size class are merged.
const FAN_IN: usize = 4;
/// Packs of up to this size are one class; each further class is [`FAN_IN`] times as large.
const SMALLEST: u64 = 1 << 20;
/// Larger packs are left alone.
const LARGEST: u64 = 1 << 30;

/// Merges packs of a table until there is no class with too many.
pub(crate) async fn merge_if_due(database: &Arc<Database>, table: TableId) -> Result<()> {
    loop {
        let _open = database.stay_open().await?;
        let Some(packs) = database.packs_of(table)? else { return Ok(()) };
        let _one_at_a_time = packs.writing.lock().await;
        let Some(table) = database.catalog().table_by_id(table).cloned() else { return Ok(()) };
        let due = due(&packs.current().packs);
        if due.is_empty() {
            return Ok(());
        }
        let (db, packs) = (database.clone(), packs.clone());
        let merged = tokio::task::spawn_blocking(move || merge(&db, &table, &packs, &due, None));
        merged.await.unwrap_or_else(|e| Err(Error::internal("merge packs", e)))?;
    }
}

/// The packs to merge now, if any.
fn due(packs: &[Arc<Pack>]) -> Vec<Arc<Pack>> {
    let mut classes: BTreeMap<u32, Vec<Arc<Pack>>> = BTreeMap::new();
    for pack in packs.iter().filter(|pack| pack.meta.bytes < LARGEST) {
        let class = (pack.meta.bytes / SMALLEST).checked_ilog(FAN_IN as u64).map_or(0, |log| log + 1);
        classes.entry(class).or_default().push(pack.clone());
    }
    classes.into_values().find(|packs| packs.len() >= FAN_IN).unwrap_or_default()
}

/// Replaces packs by one with their slices, those of `without` left out. Under the table's `writing` lock.
///
/// # Errors
/// An I/O error, or [`Error::Corrupt`] if a pack is damaged: nothing was changed then.
pub(crate) fn merge(
    database: &Database,
    table: &Table,
    packs: &Packs,
    inputs: &[Arc<Pack>],
    without: Option<&UserId>,
) -> Result<()> {
    let catalog = database.catalog();
    let users = inputs.iter().map(|pack| pack.meta.users).sum::<u64>() as usize;
    let (disk, now) = (database.disk().as_ref(), database.clock().now_micros());
    let mut writer = PackWriter::create(disk, &packs.dir, table.id, &table.schema, packs.new_id(), users)?;
    let mut merging = Merging::new(&catalog, table, inputs)?;
    while let Some((user, slice)) = merging.next()? {
        if without != Some(&user) && !is_obsolete(database, table, &user, slice.state) {
            writer.push(&user, slice.state, &[slice.stored(&table.schema)?])?;
        }
    }
    let replaced: Vec<u64> = inputs.iter().map(|pack| pack.meta.id).collect();
    let merged: Vec<PackMeta> = match writer.size().0 {
        0 => Vec::new(),
        _ => vec![writer.finish(&replaced, now)?],
    };
    packs.replace(&replaced, merged, now)
}

/// True if the partition's own files are newer. A manifest that cannot be read says nothing.
fn is_obsolete(database: &Database, table: &Table, user: &UserId, state: Seq) -> bool {
    let id = PartitionId { table: table.id, user: Some(user.clone()) };
    if let Some(partition) = database.loaded(&id) {
        return partition.version().manifest.flushed_seq >= state;
    }
    let manifest = Manifest::load(database.disk().as_ref(), &database.partition_dir(table, &id));
    matches!(manifest, Ok(Some(manifest)) if manifest.flushed_seq >= state)
}

/// The slices of several packs in the order of their users, the newest of each, in the table's schema version.
struct Merging {
    inputs: Vec<(Slices, Option<UserId>)>,
    schema: Arc<TableSchema>,
}

impl Merging {
    fn new(catalog: &Catalog, table: &Table, packs: &[Arc<Pack>]) -> Result<Self> {
        let mut inputs = Vec::with_capacity(packs.len());
        for pack in packs {
            let schema = schema_of(catalog, table.id, &pack.meta).map_err(Error::Corrupt)?;
            let mut slices = pack.slices(schema);
            let first = slices.next_user().map_err(Error::Corrupt)?;
            inputs.push((slices, first));
        }
        Ok(Self { inputs, schema: table.schema.clone() })
    }

    fn next(&mut self) -> Result<Option<(UserId, Slice)>> {
        let Some(user) = self.inputs.iter().filter_map(|(_, user)| user.clone()).min() else {
            return Ok(None);
        };
        let mut newest: Option<Slice> = None;
        for (slices, next) in self.inputs.iter_mut().filter(|(_, next)| next.as_ref() == Some(&user)) {
            let slice = slices.slice().map_err(Error::Corrupt)?.project(slices.schema(), &self.schema)?;
            if newest.as_ref().is_none_or(|newest| newest.state < slice.state) {
                newest = Some(slice);
            }
            *next = slices.next_user().map_err(Error::Corrupt)?;
        }
        Ok(newest.map(|slice| (user, slice)))
    }
}
