//! A barrier at which nobody waits for ever for one that has failed.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::panicking;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Meeting {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: usize,
    /// How many meetings there have been.
    over: usize,
    /// Somebody does not come any more.
    failed: bool,
}

/// Somebody who is to come; whoever waits hears of it if that panics.
pub(crate) struct Participant<'a>(&'a Meeting);

impl Meeting {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// To be held by each of those who meet.
    pub(crate) fn participant(&self) -> Participant<'_> {
        Participant(self)
    }

    /// Waits until all are here.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        if state.waiting == self.size {
            state.waiting = 0;
            state.over += 1;
            self.changed.notify_all();
            return;
        }
        let meeting = state.over;
        let waits = |state: &mut State| state.over == meeting && !state.failed;
        let waited = self.changed.wait_timeout_while(state, PATIENCE, waits);
        let (state, waited) = waited.unwrap();
        let all_came = state.over != meeting;
        drop(state);
        assert!(!waited.timed_out(), "somebody has not come");
        assert!(all_came, "somebody failed");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.0.lock().failed = true;
            self.0.changed.notify_all();
        }
    }
}
