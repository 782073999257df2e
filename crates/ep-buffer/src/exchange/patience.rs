//! How long to wait for one peer: a pure function of times and words seen.

use crate::signal::StallReport;
use ep_transport::Incarnation;
use std::time::{Duration, Instant};

/// Parts of the time-out between two stall reports. Several reports may be late or
/// lost before a rank that sends them is given up.
pub(super) const REPORTS_PER_TIME_OUT: u32 = 8;
/// Time-outs after which even a peer that keeps reporting is given up.
pub(super) const MOST_TIME_OUTS: u32 = 3;

/// The wait for one peer in one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    began: Instant,
    alive: Instant,
    seen: u64,
}

impl Patience {
    /// Begins a wait; `seen` is the peer's stall word now, which says nothing yet.
    pub(super) fn new(now: Instant, seen: u64) -> Self {
        Self {
            began: now,
            alive: now,
            seen,
        }
    }

    /// Takes note of the peer's stall word.
    pub(super) fn observe(&mut self, word: u64, incarnation: Incarnation, now: Instant) {
        if word != self.seen {
            self.seen = word;
            if StallReport::from_word(word).is_from(incarnation) {
                self.alive = now;
            }
        }
    }

    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Whether to give up: nothing heard for `time_out`, or [`MOST_TIME_OUTS`] passed.
    pub(super) fn is_over(&self, now: Instant, time_out: Duration) -> bool {
        now.saturating_duration_since(self.alive) >= time_out
            || self.waited(now) >= time_out * MOST_TIME_OUTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_millis(80);
    const LIFE: Incarnation = Incarnation(3);

    fn report(count: u64) -> u64 {
        StallReport::new(count, LIFE).word()
    }

    #[test]
    fn silence_ends_after_one_time_out() {
        let start = Instant::now();
        let mut patience = Patience::new(start, report(4));
        patience.observe(report(4), LIFE, start + T / 2);
        assert!(!patience.is_over(start + T - Duration::from_nanos(1), T));
        assert!(patience.is_over(start + T, T));
    }

    #[test]
    fn a_report_prolongs_it_but_not_for_ever() {
        let start = Instant::now();
        let mut patience = Patience::new(start, report(0));
        for i in 1..=30 {
            let now = start + T / 10 * i;
            patience.observe(report(i.into()), LIFE, now);
            assert_eq!(patience.is_over(now, T), i == 30);
        }
    }

    #[test]
    fn reports_of_another_life_do_not_count() {
        let start = Instant::now();
        let mut patience = Patience::new(start, 0);
        patience.observe(
            StallReport::new(9, Incarnation(2)).word(),
            LIFE,
            start + T / 2,
        );
        assert!(patience.is_over(start + T, T));
    }
}
