//! A barrier at which nobody waits for ever for one that has failed.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Meeting {
    size: usize,
    /// Who waits, and how many meetings there have been.
    state: Mutex<(usize, usize)>,
    over: Condvar,
}

impl Meeting {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::new((0, 0)),
            over: Condvar::new(),
        }
    }

    /// Waits until all are here.
    pub(crate) fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        if state.0 == self.size {
            *state = (0, state.1 + 1);
            self.over.notify_all();
            return;
        }
        let meeting = state.1;
        let waits = |state: &mut (usize, usize)| state.1 == meeting;
        let (_state, waited) = self
            .over
            .wait_timeout_while(state, PATIENCE, waits)
            .unwrap();
        assert!(!waited.timed_out(), "somebody has not come");
    }
}
