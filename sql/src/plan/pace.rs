//! [`Pace`]: how long a join works on the rows it was given.
//!
//! A join is polled from above and polls for rows below. What passes between two rows that it takes may be work, or waiting for
//! whoever takes what it gives; only work tells how many rows it should get at a time. So time is taken above the join, while it is
//! polled, and read below it, when it wants more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt};

/// Work that takes longer than this is followed by a pause.
const PAUSE_AFTER: Duration = Duration::from_millis(5);

/// The time that each partition of one join has worked.
#[derive(Debug)]
pub(crate) struct Pace {
    base: Instant,
    /// Rows that it gets at first: few where each meets all rows of the other side.
    first: usize,
    partitions: Vec<Worked>,
}

/// Nanoseconds, by the clock of [`Pace`].
#[derive(Debug, Default)]
struct Worked {
    /// In polls that ended.
    ended: AtomicU64,
    /// When the poll under way began.
    began: AtomicU64,
}

impl Pace {
    /// For a join with so many partitions.
    pub(crate) fn new(first: usize, partitions: usize) -> Arc<Self> {
        let partitions = std::iter::repeat_with(Worked::default).take(partitions).collect();
        Arc::new(Self { base: Instant::now(), first, partitions })
    }

    /// Since the pace was made.
    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the join worked until now; asked while it is polled.
    fn worked(&self, partition: usize) -> u64 {
        // A partition that was not foreseen is paced by nothing.
        let Some(worked) = self.partitions.get(partition) else { return 0 };
        worked.ended.load(Ordering::Relaxed) + self.now().saturating_sub(worked.began.load(Ordering::Relaxed))
    }

    /// What a join gives, while its work is timed. Lets others run now and then, too.
    pub(super) fn timed(
        self: Arc<Self>,
        partition: usize,
        mut output: SendableRecordBatchStream,
    ) -> SendableRecordBatchStream {
        let schema = output.schema();
        let timed = futures::stream::poll_fn(move |cx| {
            let Some(worked) = self.partitions.get(partition) else { return output.poll_next_unpin(cx) };
            let began = self.now();
            worked.began.store(began, Ordering::Relaxed);
            let polled = output.poll_next_unpin(cx);
            worked.ended.fetch_add(self.now() - began, Ordering::Relaxed);
            polled
        });
        make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, timed)))
    }

    /// What a join takes, in parts that it is done with in about [`PAUSE_AFTER`] and with pauses between them.
    pub(super) fn paused(
        self: Arc<Self>,
        partition: usize,
        input: SendableRecordBatchStream,
    ) -> SendableRecordBatchStream {
        let schema = input.schema();
        let rows = self.first;
        let paused = Paused { pace: self, partition, input, rest: None, rows, given: None, tired: 0 };
        Box::pin(RecordBatchStreamAdapter::new(schema, paused))
    }
}

struct Paused {
    pace: Arc<Pace>,
    partition: usize,
    input: SendableRecordBatchStream,
    /// What is left of a batch.
    rest: Option<RecordBatch>,
    /// Rows of the next part.
    rows: usize,
    /// What the join had worked when it got the last part.
    given: Option<u64>,
    /// What it worked since the last pause, in nanoseconds.
    tired: u64,
}

impl Paused {
    /// The join is back: adapts how much it gets next, and says whether it is time to pause.
    fn is_tired(&mut self) -> bool {
        let Some(given) = self.given.take() else { return false };
        let took = self.pace.worked(self.partition).saturating_sub(given);
        let long = PAUSE_AFTER.as_nanos() as u64;
        if took > long {
            self.rows = (self.rows / 2).max(1);
        } else if took < long / 4 {
            self.rows = self.rows.saturating_mul(2);
        }
        self.tired += took;
        let tired = self.tired > long;
        if tired {
            self.tired = 0;
        }
        tired
    }

    fn part(&mut self, batch: &RecordBatch) -> RecordBatch {
        let rows = self.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        self.given = Some(self.pace.worked(self.partition));
        batch.slice(0, rows)
    }
}

impl Stream for Paused {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_tired() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match ready!(self.input.poll_next_unpin(cx)) {
                Some(Ok(batch)) => batch,
                other => return Poll::Ready(other),
            },
        };
        Poll::Ready(Some(Ok(self.part(&batch))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use futures::FutureExt;

    fn rows(rows: i64) -> SendableRecordBatchStream {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let schema = batch.schema();
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)])))
    }

    /// Takes all parts, working so long on each row and waiting so long between two polls.
    async fn take(work: Duration, wait: Duration) -> (Vec<usize>, usize) {
        let pace = Pace::new(1, 1);
        let mut input = pace.clone().paused(0, rows(256));
        let schema = input.schema();
        let mut pauses = 0;
        let join = futures::stream::poll_fn(move |cx| {
            let polled = input.poll_next_unpin(cx);
            if let Poll::Ready(Some(Ok(batch))) = &polled {
                let until = Instant::now() + work * batch.num_rows() as u32;
                while Instant::now() < until {}
            }
            polled
        });
        let mut output = pace.timed(0, Box::pin(RecordBatchStreamAdapter::new(schema, join)));
        let mut sizes = Vec::new();
        loop {
            let waited = Instant::now();
            while waited.elapsed() < wait {}
            match output.next().now_or_never() {
                Some(Some(batch)) => sizes.push(batch.unwrap().num_rows()),
                Some(None) => return (sizes, pauses),
                None => {
                    pauses += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[tokio::test]
    async fn who_works_little_gets_more_at_a_time_however_long_it_waits() {
        let (sizes, _) = take(Duration::ZERO, Duration::from_millis(8)).await;
        assert_eq!(sizes.iter().sum::<usize>(), 256);
        assert!(sizes.len() <= 12, "{sizes:?}");
    }

    #[tokio::test]
    async fn who_works_much_gets_little_and_pauses() {
        let (sizes, pauses) = take(Duration::from_millis(1), Duration::ZERO).await;
        assert_eq!(sizes.iter().sum::<usize>(), 256);
        assert!(sizes.iter().all(|rows| *rows <= 16), "{sizes:?}");
        assert!(pauses > 5, "{pauses} pauses");
    }
}
