//! Files that statements write for others to read: exports.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use kalamdb_engine::{Disk, DiskFile};

use crate::error::{Error, ErrorCode, Result};

/// Writes a small file as a whole, durably.
///
/// # Errors
/// I/O errors; `AlreadyExists` if the name is taken.
pub(crate) fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// The error of a statement whose file could not be written: who may write files may know the reason.
pub(crate) fn failed(path: &Path, error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        io::ErrorKind::AlreadyExists => ErrorCode::AlreadyExists,
        _ => ErrorCode::InvalidParameter,
    };
    Error::new(code, format!("{} cannot be written: {error}", path.display()))
}

/// A Parquet file that is being written.
pub(crate) struct ParquetFile {
    path: PathBuf,
    writer: ArrowWriter<Appended>,
}

impl ParquetFile {
    /// Creates the file.
    ///
    /// # Errors
    /// As [`failed`].
    pub(crate) fn create(disk: &dyn Disk, path: &Path, schema: &SchemaRef) -> Result<Self> {
        let file = disk.create(path).map_err(|error| failed(path, &error))?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let writer =
            ArrowWriter::try_new(Appended { file, len: 0 }, schema.clone(), Some(properties.build()));
        let writer = writer.map_err(Error::internal)?;
        Ok(Self { path: path.to_owned(), writer })
    }

    /// Appends rows; blocks.
    ///
    /// # Errors
    /// As [`failed`].
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|error| failed(&self.path, &io::Error::other(error)))
    }

    /// Makes the file whole and durable; blocks. Returns its length in bytes.
    ///
    /// # Errors
    /// As [`failed`].
    pub(crate) fn finish(self) -> Result<u64> {
        let Self { path, writer } = self;
        let appended = writer.into_inner().map_err(|error| failed(&path, &io::Error::other(error)))?;
        appended.file.sync_all().map_err(|error| failed(&path, &error))?;
        Ok(appended.len)
    }
}

/// A file that is written from its start to its end.
struct Appended {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
