//! Frees the rows of streams that became too old, whether or not anybody comes by.

use std::sync::{Arc, Weak};
use std::time::Duration;

use kalamdb_wal::Clock;
use tokio::sync::Notify;

use super::registry::Streams;

/// How often, while any stream holds rows. Queries do not depend on it: what they see is decided to the microsecond.
const TICK: Duration = Duration::from_millis(250);

/// Runs until the streams are gone; rests while they are empty.
pub(crate) async fn run(streams: Weak<Streams>, work: Arc<Notify>, clock: Arc<dyn Clock>) {
    loop {
        work.notified().await;
        loop {
            let Some(streams) = streams.upgrade() else { return };
            let left = streams.evict(clock.now_micros());
            drop(streams);
            if !left {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
    }
}
