//! Makes spare segments: by writing zeros, so that every block is allocated *and* marked written, and a later
//! `fdatasync` has no metadata to write. (`fallocate` alone leaves blocks marked unwritten; the first write to each
//! would cost a journal commit.)

use std::path::PathBuf;
use std::sync::Arc;

use crate::MIN_SEGMENT;
use crate::disk::Disk;
use crate::error::{Error, IoContext};
use crate::names;
use crate::spare::Spare;
use crate::sync::Mutex;

/// Zeros are written and synced in steps of this size, so that a commit's sync never has to wait for a whole segment.
const STEP: u64 = 1 << 20;
/// Size of the first segment of a log; each following one is four times as large up to the size that was asked for.
const FIRST: u64 = 1 << 20;
const GROWTH: u64 = 4;

#[derive(Debug)]
pub(crate) struct Supply {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    largest: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next_number: u64,
    next_capacity: u64,
}

impl Supply {
    /// `next_number` must be larger than the number of any spare in the directory; `largest` is the segment size asked
    /// for and `newest` the size of the log's newest segment, if it has one.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        largest: u64,
        next_number: u64,
        newest: Option<u64>,
    ) -> Self {
        let next_capacity = newest.map_or(FIRST, |n| n.max(MIN_SEGMENT) * GROWTH).min(largest);
        Self { disk, dir, largest, state: Mutex::new(State { next_number, next_capacity }) }
    }

    /// The path of a spare that does not exist yet.
    pub(crate) fn new_path(&self) -> PathBuf {
        let mut state = self.state.lock();
        state.next_number += 1;
        self.dir.join(names::spare(state.next_number))
    }

    /// Makes a spare of at least `wanted` bytes (0: nobody waits for it). When the disk is nearly full, one that is
    /// just large enough is better than none for somebody who waits.
    pub(crate) fn make(&self, wanted: u64) -> Result<Spare, Error> {
        let preferred = self.state.lock().next_capacity.max(wanted);
        let small = wanted.max(FIRST.min(self.largest));
        let made = match self.allocate(preferred) {
            Err(error) if error.is_transient() && wanted > 0 && small < preferred => self.allocate(small),
            other => other,
        };
        let mut state = self.state.lock();
        state.next_capacity = match &made {
            Ok(spare) => spare.capacity.saturating_mul(GROWTH).clamp(FIRST.min(self.largest), self.largest),
            Err(_) => FIRST.min(self.largest),
        };
        made
    }

    fn allocate(&self, capacity: u64) -> Result<Spare, Error> {
        let path = self.new_path();
        let file = self.disk.create(&path).at("create", &path)?;
        let spare = Spare { path, file, capacity };
        if let Err(error) = fill(&spare) {
            // A half-made spare would only hold on to space that others need now.
            if let Err(left) = self.disk.remove_file(&spare.path) {
                tracing::warn!(path = %spare.path.display(), error = %left, "cannot remove a half-made spare segment");
            }
            return Err(error);
        }
        Ok(spare)
    }
}

fn fill(spare: &Spare) -> Result<(), Error> {
    let zeros = vec![0; STEP.min(spare.capacity) as usize];
    let mut at = 0;
    while at < spare.capacity {
        let step = STEP.min(spare.capacity - at);
        spare.file.write_all_at(&zeros[..step as usize], at).at("allocate", &spare.path)?;
        spare.file.sync_data().at("sync", &spare.path)?;
        at += step;
    }
    spare.file.sync_all().at("sync", &spare.path)
}
