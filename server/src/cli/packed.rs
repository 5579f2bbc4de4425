//! A file of rows: which format it has, and its bytes without their compression.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use clap::ValueEnum;
use flate2::bufread::MultiGzDecoder;

use super::error::{CliError, CliResult};

/// A format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated, with a line of names
    Csv,
    /// A JSON object a line
    Ndjson,
    /// Apache Parquet
    Parquet,
    /// An Arrow IPC stream
    Arrow,
}

impl Format {
    /// The media type the server knows it by.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Ndjson => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The format that a file's name tells.
    ///
    /// # Errors
    /// If it tells none.
    pub(crate) fn of(path: &Path) -> CliResult<Self> {
        let name = path.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Ok(Self::Csv),
            Some("ndjson" | "jsonl") => Ok(Self::Ndjson),
            Some("parquet") => Ok(Self::Parquet),
            Some("arrow" | "arrows") => Ok(Self::Arrow),
            _ => Err(CliError::message(format!("{} does not tell its format: add --format", path.display()))),
        }
    }
}

/// The bytes of a file and, if it is known, how many it has on disk.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn open(path: &Path) -> CliResult<(Box<dyn Read + Send>, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(io::stdin()), None));
    }
    let unreadable = |error| CliError::message(format!("{} cannot be read: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(CliError::message(format!("{} is a directory", path.display())));
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// The same bytes without the compression that the file's name tells.
///
/// # Errors
/// If the compression cannot be begun.
pub(crate) fn unpack(path: &Path, bytes: impl Read + Send + 'static) -> CliResult<Box<dyn Read + Send>> {
    let buffered = BufReader::with_capacity(1 << 18, bytes);
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(MultiGzDecoder::new(buffered)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::with_buffer(buffered)?),
        _ => Box::new(buffered),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_format_and_compression() {
        for (name, format) in [
            ("a.csv", Format::Csv),
            ("b.CSV.gz", Format::Csv),
            ("c.jsonl.zst", Format::Ndjson),
            ("d.parquet", Format::Parquet),
        ] {
            assert_eq!(Format::of(Path::new(name)).unwrap(), format, "{name}");
        }
        assert!(Format::of(Path::new("-")).is_err());
        assert!(Format::of(Path::new("a.gz")).is_err());
    }
}
