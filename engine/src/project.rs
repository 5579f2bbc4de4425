//! Rows of one schema version as rows of another: how old segments, old chunks in memory and old log records are read.
//!
//! Columns are matched by their lasting ids, so a rename changes nothing and a name that is used again means another
//! column. A column that the rows lack is filled with the value that it was added with, or with NULL; one that was dropped
//! is left out; one whose type was widened is converted through every type that it had in between.
//!
//! A statement that began before a change can meet rows written after it. It gets them as far as nothing is lost by it;
//! otherwise [`Error::Conflict`] has the statement begin again, under the new schema.

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};

use crate::error::{Error, Result};
use crate::schema::{Column, TableSchema};
use crate::types::DataType;

/// How the rows of one schema version become those of another of the same table.
#[derive(Debug)]
pub struct Projection {
    sources: Vec<Source>,
    schema: SchemaRef,
    /// The rows may be newer than the schema wanted.
    backwards: bool,
}

/// Where a column of the result comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The column at this position, as it is.
    Column(usize),
    /// The column at this position, converted to each of these types in turn.
    Widened(usize, Vec<DataType>),
    /// This value, an array of one, for every row.
    Value(ArrayRef),
    /// NULL for every row.
    Null,
}

impl Projection {
    /// Plans the projection; `None` if both are the same version.
    ///
    /// # Errors
    /// [`Error::Conflict`] if rows of `from` are newer and no longer have what `to` needs.
    pub fn new(from: &TableSchema, to: &TableSchema) -> Result<Option<Self>> {
        if from.version() == to.version() {
            return Ok(None);
        }
        let sources = (0..to.columns().len()).map(|at| source(from, to, at)).collect::<Result<_>>()?;
        let backwards = from.version() > to.version();
        Ok(Some(Self { sources, schema: to.rows().clone(), backwards }))
    }

    /// Where each column comes from, in the order of the schema wanted.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The columns of the schema wanted, from `rows` rows whose declared columns are first in `columns`.
    ///
    /// # Errors
    /// [`Error::Internal`] if a value cannot be converted.
    pub fn columns(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<ArrayRef>> {
        let types = self.schema.fields().iter().map(|field| field.data_type());
        self.sources.iter().zip(types).map(|(source, to)| source.array(columns, to, rows)).collect()
    }

    /// A batch of declared columns as one of the schema wanted.
    ///
    /// # Errors
    /// [`Error::Conflict`] if newer rows do not fit; [`Error::Internal`] if a value cannot be converted.
    pub fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns(batch.columns(), batch.num_rows())?;
        let holds_null = |(field, column): (&arrow::datatypes::FieldRef, &ArrayRef)| {
            !field.is_nullable() && column.null_count() > 0
        };
        if self.backwards && self.schema.fields().iter().zip(&columns).any(holds_null) {
            return Err(Error::Conflict);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal("read rows of another schema version", e))
    }
}

impl Source {
    /// The column, of Arrow type `data_type`, of `rows` rows whose own columns are these.
    ///
    /// # Errors
    /// [`Error::Internal`] if a value cannot be converted.
    pub fn array(&self, columns: &[ArrayRef], data_type: &ArrowType, rows: usize) -> Result<ArrayRef> {
        match self {
            Self::Column(at) => Ok(columns[*at].clone()),
            Self::Widened(at, types) => {
                types.iter().try_fold(columns[*at].clone(), |array, to| widen(&array, to))
            }
            Self::Value(value) => repeat(value, rows),
            Self::Null => Ok(new_null_array(data_type, rows)),
        }
    }
}

/// A batch of declared columns of one schema version as one of another.
///
/// # Errors
/// See [`Projection::new`] and [`Projection::apply`].
pub fn project(batch: &RecordBatch, from: &TableSchema, to: &TableSchema) -> Result<RecordBatch> {
    match Projection::new(from, to)? {
        None => Ok(batch.clone()),
        Some(projection) => projection.apply(batch),
    }
}

/// Where the column at `at` of schema `to` is in rows of schema `from`.
///
/// # Errors
/// [`Error::Conflict`] if the rows are newer and it is not in them, or not as that type.
pub fn source(from: &TableSchema, to: &TableSchema, at: usize) -> Result<Source> {
    let wanted = &to.columns()[at];
    match from.position(wanted.id) {
        Some(there) => {
            let types = steps(&from.columns()[there].data_type, wanted)?;
            Ok(if types.is_empty() { Source::Column(there) } else { Source::Widened(there, types) })
        }
        // It was dropped since.
        None if from.version() > to.version() => Err(Error::Conflict),
        None => Ok(to.initial(at).map_or(Source::Null, |value| Source::Value(value.clone()))),
    }
}

/// The types through which a value of an earlier type of a column becomes one of its type.
fn steps(from: &DataType, column: &Column) -> Result<Vec<DataType>> {
    let history: Vec<&DataType> = column.former_types.iter().chain([&column.data_type]).collect();
    // Not among them: the rows have a type that the column got later.
    let at = history.iter().position(|known| *known == from).ok_or(Error::Conflict)?;
    let mut arrow = from.arrow();
    let mut steps = Vec::new();
    for next in &history[at + 1..] {
        // JSON and UUID are text already.
        if next.arrow() != arrow {
            arrow = next.arrow();
            steps.push(DataType::clone(next));
        }
    }
    Ok(steps)
}

/// Converts values to a wider type of [`crate::alter`]'s choice.
pub(crate) fn widen(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, &to.arrow(), &options).map_err(|e| Error::internal("widen a column", e))
}

fn repeat(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    take(value, &UInt32Array::from(vec![0; rows]), None).map_err(|e| Error::internal("fill a column", e))
}
