//! The files that statements spill to when memory is short.
//!
//! They have no names: each loses its name as soon as it is created, so its space is free again when the last who reads it
//! is gone, however the statement or the process ends. A crash between the two calls leaves an empty file, and older
//! versions left full ones; both go when the next process opens the database.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::Stream;
use kalamdb_engine::{Disk, DiskFile};

/// What is written, and read, by one call of the disk.
const PIECE: usize = 256 << 10;

/// Where and how much may be spilled.
#[derive(Debug, Clone)]
pub(crate) struct SpillOptions {
    /// The disk.
    pub(crate) disk: Arc<dyn Disk>,
    /// A directory for what nobody misses after a restart.
    pub(crate) dir: PathBuf,
    /// Bytes that the files of all statements may have together.
    pub(crate) limit: u64,
}

/// Makes the files.
#[derive(Debug)]
pub(in crate::query) struct SpillFiles {
    options: SpillOptions,
    made: AtomicU64,
    used: Arc<AtomicU64>,
}

impl SpillFiles {
    /// Empties the directory. The caller holds the lock of the database that it belongs to.
    ///
    /// # Errors
    /// If it cannot be emptied or made.
    pub(in crate::query) fn new(options: SpillOptions) -> io::Result<Self> {
        let SpillOptions { disk, dir, .. } = &options;
        if disk.exists(dir)? {
            disk.remove_dir_all(dir)?;
        }
        disk.create_dir_all(dir)?;
        Ok(Self { options, made: AtomicU64::new(0), used: Arc::default() })
    }

    fn create(&self) -> io::Result<Nameless> {
        let SpillOptions { disk, dir, limit } = &self.options;
        let path = dir.join(format!("{}.spill", self.made.fetch_add(1, Ordering::Relaxed)));
        let file = disk.create(&path)?;
        disk.remove_file(&path)?;
        Ok(Nameless { file, len: AtomicU64::new(0), used: self.used.clone(), limit: *limit })
    }
}

impl TempFileFactory for SpillFiles {
    fn create_temp_file(&self, _: &str) -> Result<Arc<dyn SpillFile>> {
        Ok(Arc::new(Spilled(Arc::new(self.create()?))))
    }
}

/// A file without a name.
#[derive(Debug)]
struct Nameless {
    file: Arc<dyn DiskFile>,
    len: AtomicU64,
    used: Arc<AtomicU64>,
    limit: u64,
}

impl Nameless {
    /// Writes behind what is there. Only the one writer of a file calls it.
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let taken = |used: u64| Some(used + len).filter(|used| *used <= self.limit);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_err() {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        let at = self.len.fetch_add(len, Ordering::AcqRel);
        self.file.write_all_at(bytes, at)
    }

    fn read(&self, at: u64) -> io::Result<Bytes> {
        let mut piece = vec![0; PIECE];
        let read = self.file.read_at(&mut piece, at)?;
        piece.truncate(read);
        Ok(piece.into())
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        self.used.fetch_sub(*self.len.get_mut(), Ordering::Relaxed);
    }
}

struct Spilled(Arc<Nameless>);

impl SpillFile for Spilled {
    fn size(&self) -> Option<u64> {
        Some(self.0.len.load(Ordering::Acquire))
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        Ok(Box::pin(futures::stream::try_unfold((self.0.clone(), 0), |(file, at)| async move {
            let reader = file.clone();
            let read = tokio::task::spawn_blocking(move || reader.read(at)).await;
            let piece = read.map_err(|error| DataFusionError::External(Box::new(error)))??;
            let next = at + piece.len() as u64;
            Ok((!piece.is_empty()).then_some((piece, (file, next))))
        })))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer { file: self.0.clone(), gathered: Vec::with_capacity(PIECE) }))
    }
}

/// Gathers small writes. What it still holds when it is dropped is lost: somebody gave up.
struct Writer {
    file: Arc<Nameless>,
    gathered: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + bytes.len() > PIECE {
            self.flush()?;
        }
        match bytes.len() > PIECE {
            true => self.file.append(bytes)?,
            false => self.gathered.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.file.append(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        Ok(self.flush()?)
    }
}
