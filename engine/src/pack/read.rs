//! An open pack: its mapped file and the index of its pages, loaded and verified on first use, and slices found by a
//! binary search over the pages' users. Only the pages that can hold a user are decoded; a reader that goes through the
//! users in order gets the next pages ahead of its questions.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use kalamdb_wal::{Access, Disk};
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::bloom_filter::Sbbf;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::manifest::PackMeta;
use super::slice::Slice;
use crate::ids::{Seq, UserId};
use crate::schema::TableSchema;
use crate::unread::{Once, Unread};

/// Pages decoded at a time for a reader that goes through the users in order.
const AHEAD: usize = 16;

/// Rows per batch for readers of many users.
const SCAN_ROWS: usize = 8_192;

/// One pack file.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) meta: PackMeta,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    loaded: Once<Loaded>,
    recent: Mutex<Option<Arc<Block>>>,
    /// No manifest names it any more: the file goes when the last reader does.
    obsolete: AtomicBool,
}

#[derive(Debug)]
struct Loaded {
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    pages: Vec<Page>,
    /// Per row group.
    blooms: Vec<Option<Sbbf>>,
}

/// Some rows of the file, and the users they begin and end with.
#[derive(Debug)]
struct Page {
    group: usize,
    /// Row numbers in the file.
    rows: Range<usize>,
    min: Box<str>,
    max: Box<str>,
}

/// Decoded pages.
#[derive(Debug)]
struct Block {
    pages: Range<usize>,
    users: StringViewArray,
    rows: RecordBatch,
}

impl Pack {
    pub(crate) fn new(meta: PackMeta, dir: &std::path::Path, disk: Arc<dyn Disk>) -> Self {
        let path = dir.join(&meta.path);
        let (loaded, recent, obsolete) = (Once::default(), Mutex::default(), AtomicBool::new(false));
        Self { meta, path, disk, loaded, recent, obsolete }
    }

    /// Says that no manifest names it any more.
    pub(crate) fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The user's slice, if the pack has one. `schema` is that of the pack's version.
    ///
    /// # Errors
    /// What is wrong with the file, also on every later call; or why it cannot be read now.
    pub(crate) fn find(&self, user: &UserId, schema: &TableSchema) -> Result<Option<Slice>, Unread> {
        let loaded = self.load()?;
        let Some(pages) = loaded.pages_of(user.as_str()) else { return Ok(None) };
        if !loaded.pages[pages.clone()].iter().any(|page| loaded.passes_bloom(page.group, user)) {
            return Ok(None);
        }
        let block = self.block(loaded, pages)?;
        let (first, end) = block.range_of(user.as_str());
        if first == end {
            return Ok(None);
        }
        Ok(Some(slice(&block.rows.slice(first, end - first), schema)?))
    }

    /// True if the pack has a slice of the user.
    ///
    /// # Errors
    /// See [`Pack::find`].
    pub(crate) fn holds(&self, user: &UserId) -> Result<bool, Unread> {
        let loaded = self.load()?;
        let Some(pages) = loaded.pages_of(user.as_str()) else { return Ok(false) };
        if !loaded.pages[pages.clone()].iter().any(|page| loaded.passes_bloom(page.group, user)) {
            return Ok(false);
        }
        let (first, end) = self.block(loaded, pages)?.range_of(user.as_str());
        Ok(first < end)
    }

    /// Adds every user with a slice, in order.
    ///
    /// # Errors
    /// See [`Pack::find`].
    pub(crate) fn users(&self, into: &mut Vec<UserId>) -> Result<(), Unread> {
        let reader = self.reader(&[0], None)?;
        let mut last = String::new();
        for batch in reader {
            let batch = batch.map_err(|e| e.to_string())?;
            let users = batch.column(0).as_string_view_opt().ok_or("its users are not text")?;
            for user in users.iter().flatten() {
                if user != last {
                    into.push(UserId::new(user).map_err(|e| e.to_string())?);
                    user.clone_into(&mut last);
                }
            }
        }
        Ok(())
    }

    /// Reads the file's columns at `roots`, of all rows or of some, which rise.
    ///
    /// # Errors
    /// See [`Pack::find`].
    pub(crate) fn reader(
        &self,
        roots: &[usize],
        rows: Option<&[Range<usize>]>,
    ) -> Result<ParquetRecordBatchReader, Unread> {
        let loaded = self.load()?;
        let columns = ProjectionMask::roots(loaded.metadata.parquet_schema(), roots.iter().copied());
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(loaded.bytes.clone(), loaded.metadata.clone())
                .with_projection(columns)
                .with_batch_size(SCAN_ROWS);
        let builder = match rows {
            None => builder,
            Some(rows) => {
                let total = usize::try_from(self.meta.rows).map_err(|e| e.to_string())?;
                builder.with_row_selection(RowSelection::from_consecutive_ranges(rows.iter().cloned(), total))
            }
        };
        Ok(builder.build().map_err(|e| e.to_string())?)
    }

    /// All slices in the order of their users. Memory for a few pages at a time.
    ///
    /// # Errors
    /// See [`Pack::find`].
    pub(crate) fn slices(self: &Arc<Self>, schema: Arc<TableSchema>) -> Slices {
        Slices { pack: self.clone(), schema, user: None, done: false }
    }

    /// The first user after another one.
    fn user_after(&self, user: Option<&str>) -> Result<Option<UserId>, Unread> {
        let loaded = self.load()?;
        let at = loaded.pages.partition_point(|page| user.is_some_and(|user| &*page.max <= user));
        if at == loaded.pages.len() {
            return Ok(None);
        }
        let block = self.block(loaded, at..at + 1)?;
        let next = UserRows(&block.users).first(|other| user.is_none_or(|user| other > user));
        Ok(Some(UserId::new(block.users.value(next)).map_err(|e| e.to_string())?))
    }

    fn load(&self) -> Result<&Loaded, Unread> {
        self.loaded.get_or_read(|| {
            let name = format!("{}/{}", super::DIR, self.meta.path);
            let mapped = self.disk.open(&self.path).and_then(|file| file.map(Access::Parts));
            let bytes = mapped.map_err(|e| Unread::io(&name, e))?;
            let loaded = verify(&bytes, &self.meta).and_then(|()| Loaded::new(bytes));
            Ok(loaded.map_err(|reason| format!("{name}: {reason}"))?)
        })
    }

    fn block(&self, loaded: &Loaded, pages: Range<usize>) -> Result<Arc<Block>, String> {
        let recent = self.recent.lock().clone();
        let mut wanted = pages.clone();
        if let Some(block) = recent {
            if block.pages.start <= pages.start && pages.end <= block.pages.end {
                return Ok(block);
            }
            if block.pages.contains(&pages.start) || block.pages.end == pages.start {
                wanted.end = wanted.end.max(pages.start + AHEAD).min(loaded.pages.len());
            }
        }
        let block = Arc::new(loaded.decode(wanted)?);
        *self.recent.lock() = Some(block.clone());
        Ok(block)
    }

    /// Bytes it takes in memory, the mapped file apart.
    pub(crate) fn memory(&self) -> usize {
        let Some(loaded) = self.loaded.get() else { return size_of::<Self>() };
        let pages: usize = loaded.pages.iter().map(|p| size_of::<Page>() + p.min.len() + p.max.len()).sum();
        let blooms: usize = loaded.blooms.iter().flatten().map(|bloom| bloom.num_blocks() * 32).sum();
        let recent = self.recent.lock().as_ref().map_or(0, |block| block.rows.get_array_memory_size());
        size_of::<Self>() + loaded.metadata.metadata().memory_size() + pages + blooms + recent
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if *self.obsolete.get_mut()
            && let Err(error) = self.disk.remove_file(&self.path)
            // A purge did not wait.
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.path.display(), %error, "cannot remove a merged pack before a restart");
        }
    }
}

/// Fails if a file is not the one that the manifest names.
pub(crate) fn verify(bytes: &[u8], meta: &PackMeta) -> Result<(), String> {
    if bytes.len() as u64 != meta.bytes {
        return Err(format!("{} bytes where the manifest says {}", bytes.len(), meta.bytes));
    }
    if crc32fast::hash(bytes) != meta.crc32 {
        return Err("the checksum does not match the manifest's".into());
    }
    Ok(())
}

impl Loaded {
    fn new(bytes: Bytes) -> Result<Self, String> {
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.try_parse(&bytes).map_err(|e| e.to_string())?;
        let parquet = Arc::new(reader.finish().map_err(|e| e.to_string())?);
        let pages = pages(&parquet).ok_or("it has no index of its users")?;
        let bloom = |group: usize| {
            Sbbf::read_from_column_chunk(parquet.row_group(group).column(0), &bytes).ok().flatten()
        };
        let blooms = (0..parquet.num_row_groups()).map(bloom).collect();
        let metadata = ArrowReaderMetadata::try_new(parquet, ArrowReaderOptions::new());
        Ok(Self { metadata: metadata.map_err(|e| e.to_string())?, bytes, pages, blooms })
    }

    /// The pages that can hold a user's rows; `None` if there are none.
    fn pages_of(&self, user: &str) -> Option<Range<usize>> {
        let first = self.pages.partition_point(|page| &*page.max < user);
        let end = self.pages.partition_point(|page| &*page.min <= user);
        (first < end).then_some(first..end)
    }

    fn passes_bloom(&self, group: usize, user: &UserId) -> bool {
        self.blooms[group].as_ref().is_none_or(|bloom| bloom.check(&ByteArray::from(user.as_str())))
    }

    fn decode(&self, pages: Range<usize>) -> Result<Block, String> {
        let wanted = &self.pages[pages.clone()];
        let (first, last) = (&wanted[0], &wanted[wanted.len() - 1]);
        let groups: Vec<usize> = (first.group..=last.group).collect();
        let parquet = self.metadata.metadata();
        let before: usize = (0..first.group).map(|g| parquet.row_group(g).num_rows() as usize).sum();
        let total: usize = groups.iter().map(|g| parquet.row_group(*g).num_rows() as usize).sum();
        let rows = first.rows.start - before..last.rows.end - before;
        let selection = RowSelection::from_consecutive_ranges([rows.clone()].into_iter(), total);
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone())
                .with_row_groups(groups)
                .with_row_selection(selection)
                .with_batch_size(rows.len())
                .build()
                .map_err(|e| e.to_string())?;
        let schema = self.metadata.schema().clone();
        let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let rows = concat_batches(&schema, &batches).map_err(|e| e.to_string())?;
        let users = rows.column(0).as_string_view_opt().ok_or("its users are not text")?.clone();
        Ok(Block { pages, users, rows })
    }
}

impl Block {
    fn range_of(&self, user: &str) -> (usize, usize) {
        let rows = UserRows(&self.users);
        (rows.first(|other| other >= user), rows.first(|other| other > user))
    }
}

struct UserRows<'a>(&'a StringViewArray);

impl UserRows<'_> {
    /// The first row that passes a test which all later ones pass too.
    fn first(&self, passes: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.0.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if passes(self.0.value(middle)) { high = middle } else { low = middle + 1 }
        }
        low
    }
}

/// The pages of the first column, whose bounds are exact: the writer cuts none short.
fn pages(parquet: &ParquetMetaData) -> Option<Vec<Page>> {
    let (index, offsets) = (parquet.column_index()?, parquet.offset_index()?);
    let mut pages = Vec::new();
    let mut before = 0;
    for group in 0..parquet.num_row_groups() {
        let rows = usize::try_from(parquet.row_group(group).num_rows()).ok()?;
        let ColumnIndexMetaData::BYTE_ARRAY(users) = index.get(group)?.first()? else { return None };
        let locations = offsets.get(group)?.first()?.page_locations();
        for (at, location) in locations.iter().enumerate() {
            let first = usize::try_from(location.first_row_index).ok()?;
            let end = match locations.get(at + 1) {
                Some(next) => usize::try_from(next.first_row_index).ok()?,
                None => rows,
            };
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Box::from);
            let (min, max) = (text(users.min_value(at)?)?, text(users.max_value(at)?)?);
            pages.push(Page { group, rows: before + first..before + end, min, max });
        }
        before += rows;
    }
    Some(pages)
}

/// The rows of one user as a slice.
fn slice(rows: &RecordBatch, schema: &TableSchema) -> Result<Slice, String> {
    let declared = schema.columns().len();
    if rows.num_columns() != declared + 5 {
        return Err(format!("it has {} columns, not those of its schema version", rows.num_columns()));
    }
    let states = rows.column(1).as_primitive_opt::<Int64Type>().ok_or("its _state is no number")?;
    let system = |at: usize| rows.column(2 + declared + at);
    let seqs = system(0).as_primitive_opt::<Int64Type>().ok_or("its _seq is no number")?.clone();
    let updated =
        system(1).as_primitive_opt::<TimestampMicrosecondType>().ok_or("its _updated is no time")?;
    let deleted = system(2).as_boolean_opt().ok_or("its _deleted is not true or false")?.clone();
    let columns = rows.columns()[2..2 + declared].to_vec();
    let rows = RecordBatch::try_new(schema.rows().clone(), columns).map_err(|e| e.to_string())?;
    Ok(Slice { state: states.value(0) as Seq, rows, seqs, updated: updated.clone(), deleted })
}

/// See [`Pack::slices`].
pub(crate) struct Slices {
    pack: Arc<Pack>,
    schema: Arc<TableSchema>,
    user: Option<UserId>,
    done: bool,
}

impl Slices {
    /// The schema version of the slices.
    pub(crate) fn schema(&self) -> &TableSchema {
        &self.schema
    }

    /// The next user.
    pub(crate) fn next_user(&mut self) -> Result<Option<UserId>, Unread> {
        if self.done {
            return Ok(None);
        }
        self.user = self.pack.user_after(self.user.as_ref().map(UserId::as_str))?;
        self.done = self.user.is_none();
        Ok(self.user.clone())
    }

    /// The slice of the user that [`Slices::next_user`] gave last.
    pub(crate) fn slice(&self) -> Result<Slice, Unread> {
        let user = self.user.as_ref().ok_or("no user was asked for")?;
        Ok(self.pack.find(user, &self.schema)?.ok_or_else(|| format!("the slice of {user} is gone"))?)
    }
}
