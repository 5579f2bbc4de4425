//! Reading the slices of many users at once, in file order: for a scan of all users, which would otherwise load each of
//! them as a partition.
//!
//! First the users of all packs are walked through together, which decodes two columns and finds the rows that count: of
//! each user the newest slice. Then the columns wanted are decoded, of these rows alone, as fast as of any Parquet file.
//! Memory for a few batches per pack.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::{filter, not};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use super::read::Pack;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::project::Projection;
use crate::schema::TableSchema;
use crate::unread::Unread;

/// `_user` and `_state`, which come before the stored columns.
const OWN_COLUMNS: usize = 2;

/// Per pack, the rows of the newest slice of every user, without those of users that are `apart`.
///
/// # Errors
/// What is wrong with a pack, or why it cannot be read now.
pub(crate) fn newest_rows(
    packs: &[Arc<Pack>],
    apart: impl Fn(&str) -> bool,
) -> Result<Vec<Vec<Range<usize>>>, Unread> {
    let mut runs = packs.iter().map(|pack| Runs::new(pack)).collect::<Result<Vec<_>, _>>()?;
    let mut counting: Vec<Vec<Range<usize>>> = vec![Vec::new(); packs.len()];
    let mut user = String::new();
    loop {
        let users = runs.iter().filter(|runs| !runs.done).map(|runs| runs.user.as_str());
        let Some(least) = users.min() else { return Ok(counting) };
        least.clone_into(&mut user);
        let with_it = runs.iter().enumerate().filter(|(_, runs)| !runs.done && runs.user == user);
        let newest = with_it.max_by_key(|(_, runs)| runs.state).map(|(at, _)| at);
        if let Some(newest) = newest.filter(|_| !apart(&user)) {
            let rows = runs[newest].rows.clone();
            match counting[newest].last_mut().filter(|last| last.end == rows.start) {
                Some(last) => last.end = rows.end,
                None => counting[newest].push(rows),
            }
        }
        for runs in runs.iter_mut().filter(|runs| !runs.done && runs.user == user) {
            runs.next()?;
        }
    }
}

/// The slices of a pack, one after the other: whose, as of which commit, and which rows.
struct Runs {
    reader: ParquetRecordBatchReader,
    users: StringViewArray,
    states: Int64Array,
    /// The first row of the batch that is not in a run yet, and the batch's first row in the file.
    at: usize,
    first: usize,
    user: String,
    state: i64,
    rows: Range<usize>,
    done: bool,
}

impl Runs {
    /// Begins at the first slice.
    fn new(pack: &Pack) -> Result<Self, Unread> {
        let mut runs = Self {
            reader: pack.reader(&[0, 1], None)?,
            users: StringViewArray::from(Vec::<&str>::new()),
            states: Int64Array::from(Vec::<i64>::new()),
            at: 0,
            first: 0,
            user: String::new(),
            state: 0,
            rows: 0..0,
            done: false,
        };
        runs.next()?;
        Ok(runs)
    }

    /// Goes to the next slice.
    fn next(&mut self) -> Result<(), Unread> {
        if self.at == self.users.len() && !self.read()? {
            self.done = true;
            return Ok(());
        }
        self.users.value(self.at).clone_into(&mut self.user);
        self.state = self.states.value(self.at);
        self.rows = self.first + self.at..self.first + self.at;
        loop {
            let same = (self.at..self.users.len()).find(|row| self.users.value(*row) != self.user);
            let end = same.unwrap_or(self.users.len());
            self.rows.end = self.first + end;
            self.at = end;
            // A slice may go on in the next batch.
            if end < self.users.len() || !self.read()? {
                return Ok(());
            }
        }
    }

    /// Reads the next batch; false at the end.
    fn read(&mut self) -> Result<bool, Unread> {
        self.first += self.users.len();
        self.at = 0;
        let batch = self.reader.next().transpose().map_err(|e| e.to_string())?;
        let Some(batch) = batch else {
            self.users = StringViewArray::from(Vec::<&str>::new());
            return Ok(false);
        };
        self.users = batch.column(0).as_string_view_opt().ok_or("its users are not text")?.clone();
        let states = batch.column(1).as_primitive_opt::<Int64Type>();
        self.states = states.ok_or("its _state is no number")?.clone();
        Ok(true)
    }
}

/// Some rows of a pack, batch by batch.
pub(crate) struct PackRows {
    reader: ParquetRecordBatchReader,
    pack: Arc<Pack>,
    /// How its rows become rows of the schema wanted, if they are not.
    projection: Option<Projection>,
    declared: usize,
    wanted: Vec<usize>,
    tombstones: bool,
}

impl PackRows {
    /// `rows` of a pack, in rising order, as the stored columns `wanted` of the schema `current`. Tombstones on demand.
    ///
    /// # Errors
    /// What is wrong with the pack, or why it cannot be read now; [`Error::Conflict`] if its rows are newer than `current`
    /// and do not fit it.
    pub(crate) fn new(
        pack: &Arc<Pack>,
        rows: &[Range<usize>],
        written: &TableSchema,
        current: &TableSchema,
        wanted: &[usize],
        tombstones: bool,
    ) -> Result<Self> {
        let projection = Projection::new(written, current)?;
        let stored = written.storage().fields().len();
        let mut roots = vec![0];
        match &projection {
            // Renamed or widened columns are made of others: all are read.
            Some(_) => roots.extend(OWN_COLUMNS..OWN_COLUMNS + stored),
            None => {
                roots.extend(wanted.iter().map(|at| OWN_COLUMNS + at));
                roots.push(OWN_COLUMNS + stored - 1);
            }
        }
        roots.sort_unstable();
        roots.dedup();
        let reader = pack.reader(&roots, Some(rows))?;
        // Where each stored column wanted is among those read.
        let place = |at: &usize| roots.binary_search(&(OWN_COLUMNS + at)).unwrap_or(0);
        let (declared, wanted) = match &projection {
            Some(_) => (current.columns().len(), wanted.to_vec()),
            None => (0, wanted.iter().map(place).collect()),
        };
        Ok(Self { reader, pack: pack.clone(), projection, declared, wanted, tombstones })
    }

    /// The next rows: whose they are, and the columns wanted.
    pub(crate) fn next(&mut self) -> Result<Option<(ArrayRef, Vec<ArrayRef>)>> {
        let damaged = |e: &dyn std::fmt::Display| Error::Corrupt(format!("{}: {e}", self.pack.meta.path));
        let Some(batch) = self.reader.next() else { return Ok(None) };
        let batch = batch.map_err(|e| damaged(&e))?;
        let deleted = batch.columns().last().and_then(|column| column.as_boolean_opt());
        let deleted = deleted.ok_or_else(|| damaged(&"its _deleted is not true or false"))?.clone();
        let users = batch.column(0).clone();
        let columns = self.columns(&batch)?;
        if self.tombstones || !deleted.has_true() {
            return Ok(Some((users, columns)));
        }
        let failed = |e| Error::internal("read a pack", e);
        let live: BooleanArray = not(&deleted).map_err(failed)?;
        let kept = columns.iter().map(|column| filter(column, &live)).collect::<Result<_, _>>();
        Ok(Some((filter(&users, &live).map_err(failed)?, kept.map_err(failed)?)))
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let Some(projection) = &self.projection else {
            return Ok(self.wanted.iter().map(|at| batch.column(*at).clone()).collect());
        };
        let read = &batch.columns()[1..];
        let declared = projection.columns(read, batch.num_rows())?;
        let system = &read[read.len() - crate::schema::system_fields().len()..];
        let column = |at: &usize| match at.checked_sub(self.declared) {
            None => declared[*at].clone(),
            Some(system_column) => system[system_column].clone(),
        };
        Ok(self.wanted.iter().map(column).collect())
    }
}

/// The users of a list, for [`newest_rows`].
pub(crate) fn is_among(users: &[UserId], user: &str) -> bool {
    users.binary_search_by(|other| other.as_str().cmp(user)).is_ok()
}
