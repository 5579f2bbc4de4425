//! Work that may keep a thread busy for long is done on threads of its own, so that a heavy query holds up neither
//! other requests nor live feeds. Its answer comes over as pieces, a few ahead of what the client takes.

use std::panic;

use kalamdb_sql::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::produce::{Failure, Produce, Step};

/// What one piece gathers.
const PIECE: usize = 64 << 10;
/// How many pieces wait for the client.
const AHEAD: usize = 2;

type Piece = (Vec<u8>, Result<Step, Failure>);

/// Work that is done elsewhere. Dropping it stops the work at its next pause.
pub(crate) struct Aside {
    pieces: mpsc::Receiver<Piece>,
    task: Option<JoinHandle<()>>,
    abort: AbortHandle,
    content_type: &'static str,
    opening: &'static [u8],
    results_are_json: bool,
}

impl Aside {
    /// Begins the work on the threads of `runtime`.
    pub(crate) fn begin<P: Produce>(runtime: &Handle, work: P) -> Self {
        let (content_type, opening) = (work.content_type(), work.opening());
        let results_are_json = work.results_are_json();
        let (sender, pieces) = mpsc::channel(AHEAD);
        let task = runtime.spawn(run(work, sender));
        let abort = task.abort_handle();
        Self { pieces, task: Some(task), abort, content_type, opening, results_are_json }
    }

    /// Why no more pieces came although the end was not among them.
    async fn failure(&mut self) -> Failure {
        let reason = match self.task.take() {
            Some(task) => task.await.err(),
            None => None,
        };
        let error = match reason {
            // Let the layer that answers panics answer this one, too.
            Some(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            _ => Error::internal("a statement's task ended early"),
        };
        Failure { error, index: 0 }
    }
}

async fn run<P: Produce>(mut work: P, pieces: mpsc::Sender<Piece>) {
    let mut room = 0;
    loop {
        // Pieces are about as large as the one before, if that had no row of an unusual size.
        let mut piece = Vec::with_capacity(room.min(4 * PIECE));
        let step = loop {
            match work.step(&mut piece).await {
                Ok(Step::Inside) if piece.len() < PIECE => {}
                other => break other,
            }
        };
        room = piece.len();
        let last = matches!(step, Ok(Step::End) | Err(_));
        if pieces.send((piece, step)).await.is_err() || last {
            return;
        }
    }
}

impl Produce for Aside {
    fn content_type(&self) -> &'static str {
        self.content_type
    }

    fn opening(&self) -> &'static [u8] {
        self.opening
    }

    fn results_are_json(&self) -> bool {
        self.results_are_json
    }

    async fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Failure> {
        match self.pieces.recv().await {
            Some((piece, step)) => {
                if out.is_empty() {
                    *out = piece;
                } else {
                    out.extend_from_slice(&piece);
                }
                step
            }
            None => Err(self.failure().await),
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Notify;

    /// Gives numbers, and tells when it is dropped.
    struct Counting {
        next: u64,
        end: u64,
        dropped: Arc<Notify>,
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            self.dropped.notify_one();
        }
    }

    impl Produce for Counting {
        fn content_type(&self) -> &'static str {
            "text/plain"
        }

        fn opening(&self) -> &'static [u8] {
            b"numbers "
        }

        fn results_are_json(&self) -> bool {
            false
        }

        async fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, Failure> {
            if self.next == self.end {
                return Ok(Step::End);
            }
            out.extend_from_slice(format!("{} ", self.next).as_bytes());
            self.next += 1;
            Ok(Step::Inside)
        }
    }

    #[tokio::test]
    async fn everything_comes_over_in_order() {
        let work = Counting { next: 0, end: 100_000, dropped: Arc::default() };
        let mut aside = Aside::begin(&Handle::current(), work);
        let mut all = aside.opening().to_vec();
        while aside.step(&mut all).await.unwrap() != Step::End {}
        let expected: String = (0..100_000).map(|n| format!("{n} ")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), format!("numbers {expected}"));
    }

    #[tokio::test]
    async fn nobody_waiting_for_the_answer_ends_the_work() {
        let dropped = Arc::new(Notify::new());
        let work = Counting { next: 0, end: u64::MAX, dropped: dropped.clone() };
        let mut aside = Aside::begin(&Handle::current(), work);
        aside.step(&mut Vec::new()).await.unwrap();
        drop(aside);
        dropped.notified().await;
    }
}
