//! Time-outs, probes and going back, and how much may be in flight.

use std::time::Instant;

use super::{MIN_WINDOW, Requester};
use crate::rc::Status;

impl<P> Requester<P> {
    /// When [`Requester::on_timer`] wants to be called, if at all.
    pub fn deadline(&self) -> Option<Instant> {
        [self.deadline, self.probe_at, self.rnr_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets time pass.
    pub fn on_timer(&mut self, now: Instant) {
        if self.rnr_until.is_some_and(|at| at <= now) {
            self.rnr_until = None;
            self.arm(now);
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.probe_at = None;
            self.reported_at = None;
            self.lost(now);
        } else if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_due = true;
            self.reported_at = None;
            self.probe_delay = self.probe_delay.saturating_mul(2);
            self.probe_at = now.checked_add(self.probe_delay);
        }
    }

    pub(super) fn grow(&mut self, packets: u64) {
        let max = u64::from(self.config.window).max(MIN_WINDOW);
        if self.window < self.threshold {
            self.window = (self.window + packets).min(max);
        } else {
            self.grown += packets;
            if self.grown >= self.window {
                self.grown = 0;
                self.window = (self.window + 1).min(max);
            }
        }
    }

    /// Sets the timers by whether anything is unacknowledged.
    pub(super) fn arm(&mut self, now: Instant) {
        if self.una < self.next {
            self.deadline = self
                .config
                .ack_timeout
                .and_then(|timeout| now.checked_add(timeout));
            self.probe_at = now.checked_add(self.probe_delay);
        } else {
            self.deadline = None;
            self.probe_at = None;
        }
    }

    /// An answer is known to be missing: asks again, once per loss.
    pub(super) fn lost_answer(&mut self, now: Instant) {
        if self.went_back_at != Some(self.una) {
            self.lost(now);
        }
    }

    /// The peer reports a missing request: sends it again, once per report. The
    /// peer says so again unasked only if it sees the requester go back, so that
    /// a report that comes before the next probe is taken for a copy.
    pub(super) fn lost_request(&mut self, now: Instant) {
        if self.reported_at != Some(self.una) {
            self.lost(now);
            self.reported_at = Some(self.una);
        }
    }

    /// Goes back to the oldest unacknowledged packet, or gives up.
    pub(super) fn lost(&mut self, now: Instant) {
        if self.una == self.next {
            return;
        }
        if self.retries_left == 0 {
            self.fail_first(Status::RetryExceeded);
            return;
        }
        self.retries_left -= 1;
        self.threshold = (self.window / 2).max(MIN_WINDOW);
        self.window = self.threshold;
        self.went_back_at = Some(self.una);
        self.rewind();
        self.deadline = self
            .config
            .ack_timeout
            .and_then(|timeout| now.checked_add(timeout));
        self.probe_at = now.checked_add(self.probe_delay);
    }

    pub(super) fn rewind(&mut self) {
        self.next = self.una;
        self.next_entry = 0;
        self.probe_due = false;
    }
}
