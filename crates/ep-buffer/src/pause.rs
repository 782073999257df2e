//! How a wait loop passes the time.

use std::time::Duration;

/// Busy at first, then polite: many ranks may share few cores, and the one that is
/// waited for needs them.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    turns: u32,
}

impl Pause {
    const SPINS: u32 = 32;
    const YIELDS: u32 = 64;
    const NAP: Duration = Duration::from_micros(30);

    pub(crate) fn wait(&mut self) {
        if self.turns < Self::SPINS {
            std::hint::spin_loop();
        } else if self.turns < Self::YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Self::NAP);
        }
        self.turns = self.turns.saturating_add(1);
    }
}
