//! Leaves out segments that cannot hold a matching row, by the statistics in the manifest, before any file is opened.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use kalamdb_engine::{Bound, SEQ, Segment, TableSchema};

use super::ColdChunk;

/// Keeps the segments whose live rows may match `predicate`, which refers to `stored`, the table's stored schema, by
/// name. What older segments hold in a column is told by its id and in terms of the type that it has now. The manifest
/// describes live rows only, so this must not be used for a scan that wants tombstones too.
pub(crate) fn prune_segments(
    chunks: Vec<ColdChunk>,
    schema: &TableSchema,
    stored: &SchemaRef,
    predicate: Arc<dyn PhysicalExpr>,
) -> Vec<ColdChunk> {
    let statistics = ManifestStatistics { chunks: &chunks, schema, stored };
    // Pruning only saves work: a predicate that it cannot use keeps every segment.
    let kept = PruningPredicateBuilder::new()
        .with_file_schema(stored.clone())
        .try_build(predicate)
        .and_then(|predicate| predicate.prune(&statistics));
    match kept {
        Ok(kept) => chunks.into_iter().zip(kept).filter_map(|(chunk, kept)| kept.then_some(chunk)).collect(),
        Err(error) => {
            tracing::debug!(%error, "the manifest's statistics cannot be used for this predicate");
            chunks
        }
    }
}

struct ManifestStatistics<'a> {
    chunks: &'a [ColdChunk],
    schema: &'a TableSchema,
    stored: &'a SchemaRef,
}

impl ManifestStatistics<'_> {
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.chunks.iter().map(|chunk| chunk.chunk.segment.as_ref())
    }

    /// One value per segment, NULL where nothing is known.
    fn bounds(
        &self,
        column: &Column,
        bound: impl Fn(&Segment, usize) -> Option<ScalarValue>,
    ) -> Option<ArrayRef> {
        let at = self.stored.index_of(&column.name).ok()?;
        let data_type = self.stored.field(at).data_type();
        let null = ScalarValue::try_from(data_type).ok()?;
        let values: Vec<ScalarValue> =
            self.segments().map(|segment| bound(segment, at).unwrap_or(null.clone())).collect();
        ScalarValue::iter_to_array(values).ok()
    }

    fn column_bound(&self, segment: &Segment, at: usize, lower: bool) -> Option<ScalarValue> {
        if self.stored.field(at).name() == SEQ {
            let meta = segment.meta();
            let seq = if lower { meta.min_seq } else { meta.max_seq };
            return Some(ScalarValue::Int64(Some(seq as i64)));
        }
        if at >= self.schema.columns().len() {
            return None;
        }
        let stats = segment.stats(self.schema, at)?;
        let bound = if lower { stats.min.as_ref() } else { stats.max.as_ref() };
        scalar(bound?, self.stored.field(at).data_type())
    }
}

impl PruningStatistics for ManifestStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |segment, at| self.column_bound(segment, at, true))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |segment, at| self.column_bound(segment, at, false))
    }

    fn num_containers(&self) -> usize {
        self.chunks.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let at = self.schema.index_of(&column.name)?;
        let count = |segment: &Segment| segment.stats(self.schema, at).map(|stats| stats.null_count);
        Some(Arc::new(self.segments().map(count).collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(
            self.segments().map(|segment| Some(segment.meta().live_rows())).collect::<UInt64Array>(),
        ))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// A bound of the manifest as a value of the column's type; `None` if it says nothing about that type.
pub(super) fn scalar(bound: &Bound, data_type: &DataType) -> Option<ScalarValue> {
    match (bound, data_type) {
        (Bound::Bool(value), DataType::Boolean) => Some(ScalarValue::Boolean(Some(*value))),
        (Bound::Int(value), DataType::Float32 | DataType::Float64) => {
            ScalarValue::Float64(Some(*value as f64)).cast_to(data_type).ok()
        }
        (Bound::Int(value), DataType::Date32) => {
            ScalarValue::Int32(Some(i32::try_from(*value).ok()?)).cast_to(data_type).ok()
        }
        (Bound::Int(value), DataType::Int16 | DataType::Int32 | DataType::Int64) => {
            ScalarValue::Int64(Some(*value)).cast_to(data_type).ok()
        }
        (Bound::Int(value), DataType::Timestamp(..) | DataType::Time64(_)) => {
            ScalarValue::Int64(Some(*value)).cast_to(data_type).ok()
        }
        (Bound::Float(value), DataType::Float64) => Some(ScalarValue::Float64(Some(*value))),
        // The manifest keeps FLOAT bounds as the exact values they have.
        (Bound::Float(value), DataType::Float32) => Some(ScalarValue::Float32(Some(*value as f32))),
        (Bound::Text(value), DataType::Utf8View) => Some(ScalarValue::Utf8View(Some(value.clone()))),
        _ => None,
    }
}
