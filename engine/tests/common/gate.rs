//! Holding a disk operation still while the test does something else.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kalamdb_wal::sim::{Operation, SimDisk};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct State {
    armed: bool,
    reached: bool,
    open: bool,
}

/// Holds the first operation of a kind on a path until it is let go.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    /// A gate before the next such operation on a path that contains `part`.
    pub fn before(disk: &SimDisk, operation: Operation, part: &'static str) -> Self {
        let gate = Self::default();
        gate.0.0.lock().unwrap().armed = true;
        let held = gate.clone();
        disk.set_hook(move |now, path: &Path| {
            if now == operation && path.to_string_lossy().contains(part) {
                held.pass();
            }
        });
        gate
    }

    fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        if !state.armed || state.reached {
            return;
        }
        state.reached = true;
        changed.notify_all();
        let end = Instant::now() + PATIENCE;
        while !state.open && Instant::now() < end {
            state = changed.wait_timeout(state, PATIENCE).unwrap().0;
        }
    }

    /// Waits until an operation is held.
    pub fn reached(&self) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let (state, _) = changed.wait_timeout_while(state, PATIENCE, |state| !state.reached).unwrap();
        assert!(state.reached, "nothing came to the gate");
    }

    /// True while or after an operation is held.
    pub fn is_reached(&self) -> bool {
        self.0.0.lock().unwrap().reached
    }

    /// Lets it go.
    pub fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().open = true;
        changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A test that fails must not leave a thread waiting. The hook's own copy is not the last.
        if Arc::strong_count(&self.0) <= 2 {
            self.open();
        }
    }
}
