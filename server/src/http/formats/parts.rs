//! The rows of a result, a few at a time, so that a piece of an answer stays small whatever size batches have: the client
//! reads the first while the next is written, and no answer is in memory as a whole.

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::stream::BoxStream;
use kalamdb_sql::Error;

/// How many rows are a few.
const FEW: usize = 256;

/// See the module.
pub(crate) struct Parts {
    batches: BoxStream<'static, Result<RecordBatch, Error>>,
    /// What is left of the last batch.
    rest: Option<RecordBatch>,
    most: usize,
}

impl Parts {
    /// A few rows at a time.
    pub(crate) fn few(batches: BoxStream<'static, Result<RecordBatch, Error>>) -> Self {
        Self { batches, rest: None, most: FEW }
    }

    /// Batches as they come.
    pub(crate) fn whole(batches: BoxStream<'static, Result<RecordBatch, Error>>) -> Self {
        Self { batches, rest: None, most: usize::MAX }
    }

    /// The next rows, at least one; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => loop {
                match self.batches.next().await? {
                    Ok(batch) if batch.num_rows() == 0 => {}
                    Ok(batch) => break batch,
                    failed => return Some(failed),
                }
            },
        };
        if batch.num_rows() <= self.most {
            return Some(Ok(batch));
        }
        self.rest = Some(batch.slice(self.most, batch.num_rows() - self.most));
        Some(Ok(batch.slice(0, self.most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, RecordBatchOptions};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use futures::stream;
    use std::sync::Arc;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(numbers))]).unwrap()
    }

    fn batches() -> BoxStream<'static, Result<RecordBatch, Error>> {
        let failure = Error::new(kalamdb_sql::ErrorCode::Cancelled, "later");
        stream::iter([Ok(batch(0..0)), Ok(batch(0..600)), Ok(batch(600..610)), Err(failure)]).boxed()
    }

    #[tokio::test]
    async fn no_row_is_lost_or_moved_and_an_error_comes_after_the_rows_before_it() {
        for (mut parts, sizes) in
            [(Parts::few(batches()), vec![256, 256, 88, 10]), (Parts::whole(batches()), vec![600, 10])]
        {
            let (mut numbers, mut found) = (Vec::new(), Vec::new());
            while let Some(Ok(part)) = parts.next().await {
                found.push(part.num_rows());
                numbers.extend_from_slice(part.column(0).as_primitive::<Int64Type>().values());
            }
            assert_eq!(found, sizes);
            assert_eq!(numbers, (0..610).collect::<Vec<_>>());
            assert!(parts.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn rows_without_columns_are_counted() {
        let options = RecordBatchOptions::new().with_row_count(Some(300));
        let batch =
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
        let mut parts = Parts::few(stream::iter([Ok(batch)]).boxed());
        let mut rows = 0;
        while let Some(part) = parts.next().await {
            rows += part.unwrap().num_rows();
        }
        assert_eq!(rows, 300);
    }
}
