//! Gives DataFusion's Parquet reader the bytes of our segments: mapped, with the footer already parsed, and counted.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::Result as ParquetResult;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet};
use futures::future::BoxFuture;
use kalamdb_engine::{Segment, SegmentReader};

/// The segment behind a [`PartitionedFile`], attached to it.
#[derive(Debug, Clone)]
pub(super) struct SegmentHandle(pub(super) Arc<Segment>);

/// Opens the segments attached to files; never looks at their paths.
#[derive(Debug)]
pub(super) struct SegmentReaderFactory;

impl ParquetFileReaderFactory for SegmentReaderFactory {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let segment = file.extension::<SegmentHandle>();
        let segment = segment.ok_or_else(|| internal_datafusion_err!("a file without its segment"))?;
        let reader = segment.0.reader().map_err(|e| DataFusionError::External(Box::new(e)))?;
        let metrics = ParquetFileMetrics::new(partition, file.object_meta.location.as_ref(), metrics);
        Ok(Box::new(Counted { reader, bytes: metrics.bytes_scanned }))
    }
}

/// A segment's reader that counts the bytes asked for.
struct Counted {
    reader: SegmentReader,
    bytes: Count,
}

impl AsyncFileReader for Counted {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.bytes.add((range.end - range.start) as usize);
        self.reader.get_bytes(range)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        self.reader.get_metadata(options)
    }
}
