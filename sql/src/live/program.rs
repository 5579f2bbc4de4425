//! A compiled live query: what one commit changes in its result.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{and, and_not, cast, filter, filter_record_batch, not, prep_null_mask_filter};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use kalamdb_engine::project::source;
use kalamdb_engine::{ColumnId, OldRows, PartitionChange, Seq, TableSchema, UserId};

use crate::error::{Error, Result};
use crate::json::RowEncoder;
use crate::live::event::Encoded;

/// What makes two live queries on one partition the same, so that they are evaluated once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProgramKey {
    pub(crate) schema_version: u32,
    pub(crate) output: Vec<String>,
    pub(crate) projection: Vec<Expr>,
    pub(crate) filter: Option<Expr>,
    /// Set if the result depends on who asks.
    pub(crate) user: Option<UserId>,
}

/// Where an input column of the expressions comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// A declared column: its identity, and its position in the schema version compiled for.
    Column { id: ColumnId, index: usize },
    /// `_seq`
    Seq,
    /// `_updated`
    Updated,
    /// `_deleted`
    Deleted,
}

/// A filter and a projection, ready to run over changed rows. See [`crate::live::compile`].
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) key: Arc<ProgramKey>,
    /// The schema version it was compiled for.
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) inputs: Vec<Input>,
    /// The inputs' schema.
    pub(crate) input: SchemaRef,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) projection: Vec<Arc<dyn PhysicalExpr>>,
    /// The result's schema as it is described to clients.
    pub(crate) output: SchemaRef,
    /// The same with every field nullable.
    pub(crate) projected: SchemaRef,
    pub(crate) encoder: RowEncoder,
    /// True if the text names `_deleted`: soft-deleted rows are then part of the result as far as the filter has them.
    pub(crate) sees_deleted: bool,
}

/// One version of some rows.
struct Image<'a> {
    rows: &'a RecordBatch,
    seqs: ArrayRef,
    updated: ArrayRef,
    deleted: bool,
}

/// The commit that is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) seq: Seq,
    pub(crate) time_us: i64,
    /// The schema of the change's rows.
    pub(crate) schema: &'a TableSchema,
}

impl Program {
    /// What a change does to the result: at most one `delete`, one `update`, one `insert`, in this order.
    ///
    /// # Errors
    /// What the expressions fail with on these rows.
    pub(crate) fn evaluate(&self, at: At<'_>, change: &PartitionChange) -> Result<Vec<Encoded>> {
        let mut result = Effect::default();
        if let Some(rows) = &change.inserted {
            let (rows, mask) = self.test(at, &at.image(rows, false))?;
            result.entered.push(self.project(&rows, &mask)?);
        }
        if let Some((old, new)) = &change.updated {
            self.compare(at, &Image::old(old), &at.image(new, false), &mut result)?;
        }
        if let Some(old) = &change.deleted {
            match self.sees_deleted {
                true => self.deleted(at, change, old, &mut result)?,
                false => self.leave(at, &Image::old(old), &mut result)?,
            }
        }
        if let Some(old) = change.replaced.as_ref().filter(|_| self.sees_deleted) {
            self.leave(at, &Image { deleted: true, ..Image::old(old) }, &mut result)?;
        }
        Ok(self.encode(at.seq, &result))
    }

    /// Rows that are not there any more.
    fn leave(&self, at: At<'_>, old: &Image<'_>, result: &mut Effect) -> Result<()> {
        let (rows, mask) = self.test(at, old)?;
        result.left.push(self.project(&rows, &mask)?);
        Ok(())
    }

    /// Rows that are soft-deleted. One whose key a new row of the same commit has leaves no tombstone.
    fn deleted(
        &self,
        at: At<'_>,
        change: &PartitionChange,
        old: &OldRows,
        result: &mut Effect,
    ) -> Result<()> {
        let Some(retaken) = retaken(at.schema, change, &old.rows)? else {
            return self.compare(at, &Image::old(old), &at.image(&old.rows, true), result);
        };
        let (gone, stays) = (selected(old, &retaken)?, selected(old, &not(&retaken)?)?);
        self.leave(at, &Image::old(&gone), result)?;
        self.compare(at, &Image::old(&stays), &at.image(&stays.rows, true), result)
    }

    /// Rows with a version before and one after.
    fn compare(&self, at: At<'_>, old: &Image<'_>, new: &Image<'_>, result: &mut Effect) -> Result<()> {
        let (old, before) = self.test(at, old)?;
        let (new, after) = self.test(at, new)?;
        let stays = and(&before, &after)?;
        result.left.push(self.project(&old, &and_not(&before, &after)?)?);
        result.stayed.push((self.project(&old, &stays)?, self.project(&new, &stays)?));
        result.entered.push(self.project(&new, &and_not(&after, &before)?)?);
        Ok(())
    }

    /// The input columns of some rows, and which of the rows pass the filter.
    fn test(&self, at: At<'_>, image: &Image<'_>) -> Result<(RecordBatch, BooleanArray)> {
        let rows = image.rows.num_rows();
        let columns = self.inputs.iter().zip(self.input.fields());
        let columns = columns
            .map(|(input, field)| {
                let array = self.column(*input, at, image, field.data_type())?;
                if array.data_type() == field.data_type() {
                    Ok(array)
                } else {
                    Ok(cast(&array, field.data_type())?)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.input.clone(), columns, &options)?;
        let mask = match &self.filter {
            None => BooleanArray::new(BooleanBuffer::new_set(rows), None),
            Some(filter) => {
                let mask = filter.evaluate(&batch)?.into_array(rows)?;
                let mask =
                    mask.as_boolean_opt().ok_or_else(|| Error::internal("a filter that is not boolean"))?;
                // NULL is not true.
                if mask.nulls().is_some() { prep_null_mask_filter(mask) } else { mask.clone() }
            }
        };
        Ok((batch, mask))
    }

    fn column(
        &self,
        input: Input,
        at: At<'_>,
        image: &Image<'_>,
        data_type: &arrow::datatypes::DataType,
    ) -> Result<ArrayRef> {
        Ok(match input {
            Input::Seq => image.seqs.clone(),
            Input::Updated => image.updated.clone(),
            Input::Deleted => Arc::new(BooleanArray::from(vec![image.deleted; image.rows.num_rows()])),
            Input::Column { index, .. } if at.schema.version() == self.schema.version() => {
                image.rows.column(index).clone()
            }
            // As a SELECT reads rows of another version. What can be gone is a column that no live query uses.
            Input::Column { index, .. } => match source(at.schema, &self.schema, index) {
                Ok(source) => source.array(image.rows.columns(), data_type, image.rows.num_rows())?,
                Err(_) => new_null_array(data_type, image.rows.num_rows()),
            },
        })
    }

    /// The projection of the rows a mask selects; it is evaluated for no other row.
    fn project(&self, rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
        let count = mask.true_count();
        if count == 0 {
            return Ok(RecordBatch::new_empty(self.projected.clone()));
        }
        let filtered;
        let rows = if count == rows.num_rows() {
            rows
        } else if rows.num_columns() == 0 {
            // Nothing to filter but the count.
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            filtered = RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options)?;
            &filtered
        } else {
            filtered = filter_record_batch(rows, mask)?;
            &filtered
        };
        let columns = self.projection.iter().zip(self.projected.fields()).map(|(expr, field)| {
            let array = expr.evaluate(rows)?.into_array(count)?;
            if array.data_type() == field.data_type() {
                Ok(array)
            } else {
                Ok(cast(&array, field.data_type())?)
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(self.projected.clone(), columns)?)
    }

    fn encode(&self, seq: Seq, result: &Effect) -> Vec<Encoded> {
        let mut events = Vec::new();
        events.extend(self.encode_rows("delete", seq, &result.left));
        events.extend(self.encode_update(seq, &result.stayed));
        events.extend(self.encode_rows("insert", seq, &result.entered));
        events
    }

    fn encode_rows(&self, event: &'static str, seq: Seq, batches: &[RecordBatch]) -> Option<Encoded> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return None;
        }
        let mut rest = format!(",\"seq\":{seq},\"rows\":[").into_bytes();
        for (i, batch) in batches.iter().filter(|b| b.num_rows() > 0).enumerate() {
            if i > 0 {
                rest.push(b',');
            }
            self.encoder.encode_rows(batch, &mut rest);
        }
        rest.extend_from_slice(b"]}");
        Some(Encoded { event, rest, rows: rows as u32 })
    }

    /// The rows of which a selected column changed.
    fn encode_update(&self, seq: Seq, pairs: &[(RecordBatch, RecordBatch)]) -> Option<Encoded> {
        let mut rest = format!(",\"seq\":{seq},\"rows\":[").into_bytes();
        let mut old_rows = Vec::new();
        let mut rows = 0;
        for (old, new) in pairs {
            let (old, new, count) = (self.encoder.of(old), self.encoder.of(new), new.num_rows());
            for row in 0..count {
                let (old_start, new_start) = (old_rows.len(), rest.len());
                if rows > 0 {
                    old_rows.push(b',');
                    rest.push(b',');
                }
                old.write(row, &mut old_rows);
                new.write(row, &mut rest);
                if old_rows[old_start..] == rest[new_start..] {
                    old_rows.truncate(old_start);
                    rest.truncate(new_start);
                } else {
                    rows += 1;
                }
            }
        }
        if rows == 0 {
            return None;
        }
        rest.extend_from_slice(b"],\"old_rows\":[");
        rest.extend_from_slice(&old_rows);
        rest.extend_from_slice(b"]}");
        Some(Encoded { event: "update", rest, rows })
    }
}

/// Which of some deleted rows have a key that a new row of the same commit has; `None` if none does.
fn retaken(
    schema: &TableSchema,
    change: &PartitionChange,
    deleted: &RecordBatch,
) -> Result<Option<BooleanArray>> {
    let keys = |rows: &RecordBatch| {
        let columns: Vec<ArrayRef> = schema.key_indices().iter().map(|at| rows.column(*at).clone()).collect();
        schema.keys().convert_columns(&columns)
    };
    let new = change.inserted.iter().chain(change.updated.iter().map(|(_, new)| new));
    let new = new.map(keys).collect::<Result<Vec<_>, _>>()?;
    if new.is_empty() {
        return Ok(None);
    }
    let taken: HashSet<&[u8]> =
        new.iter().flat_map(|keys| (0..keys.num_rows()).map(|row| keys.row(row).data())).collect();
    let deleted = keys(deleted)?;
    let retaken: Vec<bool> = deleted.iter().map(|key| taken.contains(key.data())).collect();
    Ok(retaken.contains(&true).then(|| BooleanArray::from(retaken)))
}

fn selected(old: &OldRows, mask: &BooleanArray) -> Result<OldRows> {
    Ok(OldRows {
        rows: filter_record_batch(&old.rows, mask)?,
        seqs: filter(&old.seqs, mask)?.as_primitive::<Int64Type>().clone(),
        updated: filter(&old.updated, mask)?.as_primitive::<TimestampMicrosecondType>().clone(),
    })
}

/// The projected rows that a commit moves in, out and within a result.
#[derive(Default)]
struct Effect {
    left: Vec<RecordBatch>,
    stayed: Vec<(RecordBatch, RecordBatch)>,
    entered: Vec<RecordBatch>,
}

impl<'a> Image<'a> {
    fn old(old: &'a OldRows) -> Self {
        Self {
            rows: &old.rows,
            seqs: Arc::new(old.seqs.clone()),
            updated: Arc::new(old.updated.clone()),
            deleted: false,
        }
    }
}

impl At<'_> {
    /// Rows that this commit wrote.
    fn image<'a>(&self, rows: &'a RecordBatch, deleted: bool) -> Image<'a> {
        let count = rows.num_rows();
        let seq = i64::try_from(self.seq).unwrap_or(i64::MAX);
        let updated = TimestampMicrosecondArray::from(vec![self.time_us; count]).with_timezone("UTC");
        Image {
            rows,
            seqs: Arc::new(Int64Array::from(vec![seq; count])),
            updated: Arc::new(updated),
            deleted,
        }
    }
}
