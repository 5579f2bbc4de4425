//! Arrow IPC streams. Text and bytes are sent in the plain layouts that every Arrow reader knows, not as views.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use kalamdb_sql::Error;

/// Writes batches as messages of a stream.
pub(crate) struct ArrowWriter {
    schema: SchemaRef,
    inner: StreamWriter<Vec<u8>>,
}

impl ArrowWriter {
    /// Writes the schema.
    ///
    /// # Errors
    /// For a type that the format cannot hold.
    pub(crate) fn new(schema: &Schema, out: &mut Vec<u8>) -> Result<Self, Error> {
        let fields: Vec<FieldRef> = schema.fields().iter().map(plain).collect();
        let schema = Arc::new(Schema::new(fields));
        let mut writer = Self { inner: StreamWriter::try_new(Vec::new(), &schema)?, schema };
        writer.hand_over(out);
        Ok(writer)
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// If the batch does not fit the schema.
    pub(crate) fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns: Result<Vec<ArrayRef>, _> =
            columns.map(|(array, field)| cast(array, field.data_type())).collect();
        self.inner.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns?)?)?;
        self.hand_over(out);
        Ok(())
    }

    /// Writes the end of the stream: a reader that does not find it knows that the answer is not whole.
    ///
    /// # Errors
    /// None in memory.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.inner.finish()?;
        self.hand_over(out);
        Ok(())
    }

    fn hand_over(&mut self, out: &mut Vec<u8>) {
        out.append(self.inner.get_mut());
    }
}

fn plain(field: &FieldRef) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(plain_type(field.data_type())))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain(item)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, ListArray, StringViewArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::ipc::reader::StreamReader;

    #[test]
    fn views_are_sent_as_plain_text_also_inside_lists() {
        let text: ArrayRef =
            Arc::new(StringViewArray::from(vec![Some("a"), None, Some("longer than twelve bytes")]));
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
        let list = ListArray::new(item, offsets, Arc::clone(&text), None);
        let batch = RecordBatch::try_from_iter([("t", text), ("l", Arc::new(list) as ArrayRef)]).unwrap();
        let mut out = Vec::new();
        let mut writer = ArrowWriter::new(&batch.schema(), &mut out).unwrap();
        assert!(!out.is_empty(), "the schema is sent at once");
        writer.write(&batch, &mut out).unwrap();
        writer.write(&batch.slice(0, 0), &mut out).unwrap();
        writer.finish(&mut out).unwrap();
        let read: Vec<RecordBatch> =
            StreamReader::try_new(out.as_slice(), None).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].column(0).as_string::<i32>().value(2), "longer than twelve bytes");
        assert_eq!(read[0].column(1).as_list::<i32>().value(2).as_string::<i32>().len(), 2);
    }
}
