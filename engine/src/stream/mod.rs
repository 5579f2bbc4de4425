//! STREAM tables: rows that live in memory for a while and are told to whoever listens.
//!
//! A stream table has one buffer. What is inserted goes to its end and leaves it at the front: when it is older than the
//! table's retention, when more than `max_buffer` rows came after it, or when all streams together hold more than the
//! server's budget. Nothing of it is logged or written to disk, and a restart finds it empty. An insert is not a commit:
//! it has no place in the log, and its number is its own (see [`Streams::insert`]).
//!
//! Listeners read every insert once, in order, at their own pace. What left the buffer is still held for them for a
//! moment ([`ring::HELD`]), so that a burst larger than a small buffer reaches a listener that keeps up; one that does not
//! is told that it lost something ([`Evicted`]), never skipped silently.
//!
//! | file | owns |
//! |---|---|
//! | `ring` | the rows of one table: append, evict, read |
//! | `buffer` | one table's ring behind its lock, and who listens |
//! | `registry` | all buffers, the order of inserts, the budget |
//! | `evictor` | the task that frees what nobody reads any more |

mod buffer;
pub(crate) mod evictor;
mod registry;
mod ring;

pub use buffer::{Listener, Stream, StreamStats};
pub use registry::Streams;
pub use ring::{Evicted, StreamInsert, StreamRows, StreamView};
