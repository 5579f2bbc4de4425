//! The bytes of an import on their way to rows: decompressed, and decoded as far as the format needs it here. Text goes
//! to the importer as it comes; Arrow and Parquet become record batches first.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use kalamdb_sql::{Error, Importer};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::mpsc;

use super::error::{ApiError, ApiResult};

/// Rows of one batch read from Parquet.
const PARQUET_BATCH: usize = 8192;

/// A format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Lines of fields, the first one names them.
    Csv,
    /// A JSON object a line.
    Ndjson,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// How the body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// It is not.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Kind {
    /// The format of a media type.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` naming the valid ones.
    pub(crate) fn of(media_type: &str) -> ApiResult<Self> {
        match media_type {
            "text/csv" => Ok(Self::Csv),
            "application/x-ndjson" | "application/ndjson" => Ok(Self::Ndjson),
            "application/vnd.apache.arrow.stream" => Ok(Self::Arrow),
            "application/vnd.apache.parquet" => Ok(Self::Parquet),
            other => Err(ApiError::invalid(format!("rows of type {other:?} cannot be imported")).hint(
                "send text/csv, application/x-ndjson, application/vnd.apache.arrow.stream or \
                 application/vnd.apache.parquet",
            )),
        }
    }
}

impl Encoding {
    /// The compression that the headers name.
    ///
    /// # Errors
    /// `INVALID_PARAMETER` naming the valid ones.
    pub(crate) fn of(headers: &HeaderMap) -> ApiResult<Self> {
        let value = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default());
        match value {
            None | Some("identity") => Ok(Self::Plain),
            Some("gzip") => Ok(Self::Gzip),
            Some("zstd") => Ok(Self::Zstd),
            Some(other) => Err(ApiError::invalid(format!("a body encoded as {other:?} cannot be imported"))
                .hint("use gzip, zstd or none")),
        }
    }
}

/// Turns pieces of a body into rows.
pub(crate) struct Source {
    unpacker: Unpacker,
    reader: Reader,
}

enum Reader {
    Csv,
    Ndjson,
    Arrow(Box<StreamDecoder>),
    /// Parquet is read from its end: it is put aside until it is whole, in a file that has no name.
    Parquet(tokio::fs::File),
}

impl Source {
    /// A source for one body; what must be put aside goes under `data`.
    ///
    /// # Errors
    /// If a temporary file cannot be made.
    pub(crate) fn new(kind: Kind, encoding: Encoding, data: &Path) -> ApiResult<Self> {
        let reader = match kind {
            Kind::Csv => Reader::Csv,
            Kind::Ndjson => Reader::Ndjson,
            Kind::Arrow => Reader::Arrow(Box::default()),
            Kind::Parquet => Reader::Parquet(tokio::fs::File::from_std(spool(data).map_err(set_aside)?)),
        };
        let unpacker = Unpacker::new(encoding).map_err(Error::internal)?;
        Ok(Self { unpacker, reader })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// What is wrong with it, or what the importer says.
    pub(crate) async fn push(&mut self, piece: Bytes, importer: &mut Importer) -> ApiResult<()> {
        let piece = self.unpacker.push(piece).map_err(damaged)?;
        self.reader.read(piece, importer).await
    }

    /// Takes the end.
    ///
    /// # Errors
    /// As [`Source::push`]; also if the body is not whole.
    pub(crate) async fn end(&mut self, importer: &mut Importer) -> ApiResult<()> {
        let rest = self.unpacker.end().map_err(damaged)?;
        self.reader.read(rest, importer).await?;
        match &mut self.reader {
            Reader::Csv | Reader::Ndjson => Ok(()),
            Reader::Arrow(decoder) => decoder.finish().map_err(|error| unreadable("Arrow stream", &error)),
            Reader::Parquet(file) => read_parquet(file, importer).await,
        }
    }
}

impl Reader {
    async fn read(&mut self, piece: Bytes, importer: &mut Importer) -> ApiResult<()> {
        if piece.is_empty() {
            return Ok(());
        }
        match self {
            Self::Csv => Ok(importer.write_csv(piece).await?),
            Self::Ndjson => Ok(importer.write_ndjson(piece).await?),
            Self::Arrow(decoder) => {
                let mut buffer = Buffer::from(piece);
                while !buffer.is_empty() {
                    let decoded =
                        decoder.decode(&mut buffer).map_err(|error| unreadable("Arrow stream", &error))?;
                    if let Some(batch) = decoded {
                        importer.write_batch(batch).await?;
                    }
                }
                Ok(())
            }
            Self::Parquet(file) => {
                use tokio::io::AsyncWriteExt;
                file.write_all(&piece).await.map_err(set_aside)
            }
        }
    }
}

fn spool(data: &Path) -> io::Result<File> {
    let dir = data.join("tmp");
    std::fs::create_dir_all(&dir)?;
    tempfile::tempfile_in(dir)
}

/// Reads the file on a thread that may block, a few batches ahead of the importer.
async fn read_parquet(file: &mut tokio::fs::File, importer: &mut Importer) -> ApiResult<()> {
    use tokio::io::AsyncWriteExt;
    file.flush().await.map_err(set_aside)?;
    let file = file.try_clone().await.map_err(set_aside)?.into_std().await;
    let (sender, mut batches) = mpsc::channel(2);
    let reading = tokio::task::spawn_blocking(move || decode_parquet(file, &sender));
    while let Some(batch) = batches.recv().await {
        importer.write_batch(batch).await?;
    }
    reading.await.map_err(Error::internal)?
}

fn decode_parquet(mut file: File, batches: &mpsc::Sender<RecordBatch>) -> ApiResult<()> {
    file.rewind().map_err(set_aside)?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable("Parquet file", &error))?;
    let reader =
        builder.with_batch_size(PARQUET_BATCH).build().map_err(|error| unreadable("Parquet file", &error))?;
    for batch in reader {
        let batch = batch.map_err(|error| unreadable("Parquet file", &error))?;
        if batches.blocking_send(batch).is_err() {
            // The import has failed or its client is gone.
            break;
        }
    }
    Ok(())
}

fn damaged(error: io::Error) -> ApiError {
    ApiError::invalid(format!("the body cannot be decompressed: {error}"))
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("the body is not a readable {what}: {error}"))
}

fn set_aside(error: io::Error) -> ApiError {
    if error.kind() == io::ErrorKind::StorageFull {
        let message = "no space left on the server's disk to put the file aside";
        return ApiError::new(kalamdb_sql::ErrorCode::StorageFull, message);
    }
    Error::internal(format!("putting an import aside: {error}")).into()
}

/// Decompresses piece by piece.
enum Unpacker {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Unpacker {
    fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Plain => Self::Plain,
            Encoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Encoding::Zstd => Self::Zstd(Box::new(zstd::stream::write::Decoder::new(Vec::new())?)),
        })
    }

    fn push(&mut self, piece: Bytes) -> io::Result<Bytes> {
        Ok(match self {
            Self::Plain => piece,
            Self::Gzip(decoder) => {
                decoder.write_all(&piece)?;
                std::mem::take(decoder.get_mut()).into()
            }
            Self::Zstd(decoder) => {
                decoder.write_all(&piece)?;
                std::mem::take(decoder.get_mut()).into()
            }
        })
    }

    fn end(&mut self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Plain => Bytes::new(),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut()).into()
            }
            Self::Zstd(decoder) => {
                decoder.flush()?;
                std::mem::take(decoder.get_mut()).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(encoding: Encoding, packed: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut unpacker = Unpacker::new(encoding)?;
        let mut all = Vec::new();
        for piece in packed.chunks(piece) {
            all.extend_from_slice(&unpacker.push(Bytes::copy_from_slice(piece))?);
        }
        all.extend_from_slice(&unpacker.end()?);
        Ok(all)
    }

    #[test]
    fn bodies_are_decompressed_however_they_are_cut() {
        let text = "a,b\n1,2\n".repeat(5000).into_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(text.as_slice(), 1).unwrap();
        for piece in [1, 7, 4096, 1 << 20] {
            assert_eq!(unpack(Encoding::Gzip, &gzip, piece).unwrap(), text);
            assert_eq!(unpack(Encoding::Zstd, &zstd, piece).unwrap(), text);
            assert_eq!(unpack(Encoding::Plain, &text, piece).unwrap(), text);
        }
        assert!(unpack(Encoding::Gzip, b"not gzip at all", 100).is_err());
        assert!(unpack(Encoding::Gzip, &gzip[..gzip.len() / 2], 100).is_err(), "cut short");
        assert!(unpack(Encoding::Zstd, b"not zstd at all", 100).is_err());
    }

    #[test]
    fn unknown_types_and_encodings_are_refused_with_the_known_ones() {
        let refused = Kind::of("text/tab-separated-values").unwrap_err();
        assert!(refused.error().hint.as_ref().unwrap().contains("text/csv"));
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, "br".parse().unwrap())]);
        assert!(Encoding::of(&headers).unwrap_err().error().hint.as_ref().unwrap().contains("zstd"));
    }
}
