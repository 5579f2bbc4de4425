//! Reading a USER table across its users, of whom there may be very many with few rows each.
//!
//! A view per user would load every partition: a hundred thousand manifests looked for, slices found and memtables built.
//! Instead, whoever is in a pack and not loaded is read out of the pack, many users to a batch, and whoever is loaded and
//! small is read from memory, as many to a batch. Only partitions with segments of their own are left to be viewed one by
//! one.
//!
//! What is read is what each user's view at the snapshot would show. Who is loaded and which packs there are is noted at one
//! moment, under the lock that loading and evicting need. From then on:
//!
//! - a partition that was loaded is read by the version it had then, which holds its rows at every snapshot still open;
//! - one that was not loaded had its last commit at or before every open snapshot, or it could not have been evicted (see
//!   [`crate::evict`]), and had no change since its slice was written. Whatever happens to it later, the slice that was the
//!   newest then shows it as of the snapshot, and the pack's file stays while somebody reads it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, StringViewArray};
use arrow::compute::{concat, filter};

use crate::catalog::Table;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, UserId};
use crate::pack::list::{Current, schema_of};
use crate::pack::scan::{PackRows, is_among, newest_rows};
use crate::partition::Version;
use crate::schema::TableSchema;
use crate::snapshot::Snapshot;
use crate::view::{ChunkView, PartitionView, RowsChunk};

/// Rows in a batch, about.
const BATCH_ROWS: usize = 8_192;
/// Rows of packs in a part.
const PART_ROWS: usize = 131_072;
/// Loaded users in a part.
const PART_USERS: usize = 4_096;

/// All users of a USER table at a snapshot.
#[derive(Debug)]
pub struct AllUsers {
    /// Those whose partitions are to be viewed one by one, sorted.
    pub large: Vec<UserId>,
    /// All others.
    pub small: Arc<SmallUsers>,
}

/// The users of a table whose partitions have no segments.
#[derive(Debug)]
pub struct SmallUsers {
    table: Arc<Table>,
    /// Held, so that what the snapshot sees is kept.
    snapshot: Snapshot,
    loaded: Vec<(UserId, Arc<Version>)>,
    packs: Arc<Current>,
    /// Per pack, the schema of its rows.
    schemas: Vec<Arc<TableSchema>>,
    parts: Vec<Part>,
}

/// A part of the users, to be read by one reader.
#[derive(Debug, Clone)]
enum Part {
    /// Of those loaded.
    Loaded(Range<usize>),
    /// Rows of a pack.
    Pack { at: usize, rows: Vec<Range<usize>> },
}

/// Rows of several users.
#[derive(Debug, Clone)]
pub struct UsersBatch {
    /// Per row, whose it is: text.
    pub users: ArrayRef,
    /// The columns asked for.
    pub columns: Vec<ArrayRef>,
}

impl Database {
    /// All users of a USER table at a snapshot, to be read without loading those who are not.
    ///
    /// # Errors
    /// An I/O error; [`Error::Corrupt`] if a pack is damaged.
    pub async fn all_users(self: &Arc<Self>, snapshot: &Snapshot, table: &Arc<Table>) -> Result<AllUsers> {
        let (database, snapshot, table) = (self.clone(), snapshot.clone(), table.clone());
        let found = tokio::task::spawn_blocking(move || database.find_users(snapshot, table));
        found.await.unwrap_or_else(|e| Err(Error::internal("find the users of a table", e)))
    }

    fn find_users(&self, snapshot: Snapshot, table: Arc<Table>) -> Result<AllUsers> {
        let packs = self.packs(&table)?;
        let (mut loaded, mut large) = (Vec::new(), Vec::new());
        let packs = {
            // Nobody is loaded or evicted meanwhile.
            let partitions = self.partitions.read();
            for (id, slot) in partitions.iter().filter(|(id, _)| id.table == table.id) {
                let Some(user) = &id.user else { continue };
                let healthy = slot.get().and_then(|slot| slot.as_ref().ok());
                let version = healthy.filter(|p| p.check_open().is_ok()).map(|partition| partition.version());
                match version.filter(|version| version.segments.is_empty()) {
                    Some(version) => loaded.push((user.clone(), version)),
                    // One that is being loaded or that is damaged: whoever views it waits, or is told.
                    None => large.push(user.clone()),
                }
            }
            packs.current()
        };
        loaded.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let is_loaded: HashSet<&UserId> = loaded.iter().map(|(user, _)| user).chain(&large).collect();
        let on_disk = self.owners_on_disk(&table)?;
        let on_disk: Vec<UserId> = on_disk.into_iter().filter(|user| !is_loaded.contains(user)).collect();
        large.extend(on_disk);
        large.sort_unstable();
        let mut apart: Vec<UserId> = loaded.iter().map(|(user, _)| user).chain(&large).cloned().collect();
        apart.sort_unstable();
        let counting = newest_rows(&packs.packs, |user| is_among(&apart, user))?;
        let catalog = self.catalog();
        let schemas = packs.packs.iter().map(|pack| schema_of(&catalog, table.id, &pack.meta));
        let schemas = schemas.collect::<Result<_, _>>().map_err(Error::Corrupt)?;
        let mut parts: Vec<Part> = pieces(loaded.len()).map(Part::Loaded).collect();
        for (at, rows) in counting.into_iter().enumerate() {
            parts.extend(cut(rows).into_iter().map(|rows| Part::Pack { at, rows }));
        }
        let small = SmallUsers { table, snapshot, loaded, packs, schemas, parts };
        Ok(AllUsers { large, small: Arc::new(small) })
    }
}

fn pieces(users: usize) -> impl Iterator<Item = Range<usize>> {
    (0..users).step_by(PART_USERS).map(move |first| first..users.min(first + PART_USERS))
}

/// Rising ranges as lists of at most so many rows each, about.
fn cut(rows: Vec<Range<usize>>) -> Vec<Vec<Range<usize>>> {
    let mut lists: Vec<Vec<Range<usize>>> = Vec::new();
    let mut room = 0;
    for mut range in rows {
        while !range.is_empty() {
            if room == 0 {
                lists.push(Vec::new());
                room = PART_ROWS;
            }
            let taken = range.len().min(room);
            if let Some(list) = lists.last_mut() {
                list.push(range.start..range.start + taken);
            }
            (range.start, room) = (range.start + taken, room - taken);
        }
    }
    lists
}

impl SmallUsers {
    /// How many parts there are to read, each by itself.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// How many users are read from memory, and how many packs for the others.
    pub fn sources(&self) -> (usize, usize) {
        (self.loaded.len(), self.packs.packs.len())
    }

    /// Reads a part, of the stored columns (declared ones, then system columns) those `wanted`. Nothing is read before the
    /// first batch is asked for.
    pub fn read(self: &Arc<Self>, part: usize, wanted: &[usize], tombstones: bool) -> SmallUsersReader {
        let of = self.clone();
        let state = match self.parts.get(part).cloned() {
            None => State::Done,
            Some(Part::Loaded(users)) => State::Loaded(users),
            Some(Part::Pack { at, rows }) => State::Unopened { at, rows },
        };
        SmallUsersReader { of, wanted: wanted.to_vec(), tombstones, state }
    }
}

/// Reads a part of a table's small users.
pub struct SmallUsersReader {
    of: Arc<SmallUsers>,
    wanted: Vec<usize>,
    tombstones: bool,
    state: State,
}

enum State {
    Loaded(Range<usize>),
    Unopened { at: usize, rows: Vec<Range<usize>> },
    Pack(Box<PackRows>),
    Done,
}

impl SmallUsersReader {
    fn read(&mut self) -> Result<Option<UsersBatch>> {
        loop {
            match &mut self.state {
                State::Done => return Ok(None),
                State::Loaded(users) => {
                    let (of, users) = (self.of.clone(), std::mem::replace(users, 0..0));
                    let (batch, rest) = of.memory_rows(users, &self.wanted, self.tombstones)?;
                    self.state = if rest.is_empty() { State::Done } else { State::Loaded(rest) };
                    if batch.is_some() {
                        return Ok(batch);
                    }
                }
                State::Unopened { at, rows } => {
                    let (pack, written) = (&self.of.packs.packs[*at], &self.of.schemas[*at]);
                    let current = &self.of.table.schema;
                    let rows = PackRows::new(pack, rows, written, current, &self.wanted, self.tombstones)?;
                    self.state = State::Pack(Box::new(rows));
                }
                State::Pack(rows) => match rows.next()? {
                    Some((users, columns)) if !users.is_empty() => {
                        return Ok(Some(UsersBatch { users, columns }));
                    }
                    Some(_) => {}
                    None => self.state = State::Done,
                },
            }
        }
    }
}

impl Iterator for SmallUsersReader {
    type Item = Result<UsersBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.state = State::Done;
        }
        read.transpose()
    }
}

impl SmallUsers {
    /// The rows of loaded users, of so many that they fill a batch, and who is left.
    fn memory_rows(
        &self,
        users: Range<usize>,
        wanted: &[usize],
        tombstones: bool,
    ) -> Result<(Option<UsersBatch>, Range<usize>)> {
        let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); wanted.len()];
        let (mut owners, mut rows, mut at) = (Vec::new(), 0, users.start);
        while at < users.end && rows < BATCH_ROWS {
            let (user, version) = &self.loaded[at];
            let id = PartitionId { table: self.table.id, user: Some(user.clone()) };
            let view = PartitionView::new(id, self.table.clone(), self.snapshot.seq(), version)?;
            for chunk in &view.chunks {
                // There are no segments.
                let ChunkView::Rows(chunk) = chunk else { continue };
                if chunk.tombstones && !tombstones {
                    continue;
                }
                let columns = columns_of(chunk, wanted)?;
                let count = chunk.num_rows() - chunk.hidden_rows() as usize;
                owners.push((user.as_str(), count));
                rows += count;
                parts.iter_mut().zip(columns).for_each(|(parts, column)| parts.push(column));
            }
            at += 1;
        }
        if rows == 0 {
            return Ok((None, at..users.end));
        }
        let users_column: StringViewArray =
            owners.iter().flat_map(|(user, count)| std::iter::repeat_n(Some(*user), *count)).collect();
        let joined = parts.iter().map(|parts| {
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            concat(&parts).map_err(|e| Error::internal("gather rows of users", e))
        });
        let batch = UsersBatch { users: Arc::new(users_column), columns: joined.collect::<Result<_>>()? };
        Ok((Some(batch), at..users.end))
    }
}

/// The stored columns at some positions, of the rows of a chunk that the view shows.
fn columns_of(chunk: &RowsChunk, wanted: &[usize]) -> Result<Vec<ArrayRef>> {
    let visible = chunk.visible();
    let declared = chunk.num_columns();
    let mut versions = None;
    let column = |at: &usize| {
        let column: ArrayRef = match at.checked_sub(declared) {
            None => chunk.column(*at),
            Some(system) => {
                let (seqs, updated) = versions.get_or_insert_with(|| chunk.versions());
                match system {
                    0 => Arc::new(seqs.clone()),
                    1 => Arc::new(updated.clone()),
                    _ => Arc::new(BooleanArray::from(vec![chunk.tombstones; chunk.num_rows()])),
                }
            }
        };
        match &visible {
            None => Ok(column),
            Some(visible) => filter(&column, visible).map_err(|e| Error::internal("gather rows of users", e)),
        }
    };
    wanted.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_row_once_and_none_is_long() {
        let rows = vec![0..10, 20..20 + PART_ROWS, 500_000..500_000 + 3 * PART_ROWS];
        let lists = cut(rows.clone());
        assert_eq!(lists.len(), 5);
        assert!(lists.iter().all(|list| list.iter().map(Range::len).sum::<usize>() <= PART_ROWS));
        assert!(lists.iter().flatten().cloned().flatten().eq(rows.into_iter().flatten()));
    }
}
