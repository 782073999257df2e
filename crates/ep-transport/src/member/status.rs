//! What the agent and the thread that owns the group have in common.

use super::connection::ConnectionState;
use crate::error::Refusal;
use crate::ids::{Epoch, Incarnation, Rank};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the agent tells the thread that owns the group.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) admitted: Option<Epoch>,
    pub(crate) superseded: Option<Incarnation>,
    /// Why this rank cannot become a member, by the key of what is in its way, as long as that
    /// is there; nothing once it is one. The empty key is its own admission's.
    pub(crate) refused: BTreeMap<String, Refusal>,
    /// Members of the view, as far as this rank knows.
    pub(crate) view: Vec<(Rank, Incarnation)>,
    /// Ranks that have said that they have finished.
    pub(crate) finished: Vec<(Rank, Incarnation)>,
    /// How far the connection to each rank is.
    pub(crate) connections: BTreeMap<Rank, ConnectionState>,
    /// Ranks whose card is there.
    pub(crate) present: Vec<(Rank, Incarnation)>,
}

/// [`Status`] and a way to wait for it to change.
#[derive(Debug, Default)]
pub(crate) struct SharedStatus {
    status: Mutex<Status>,
    changed: Condvar,
}

impl SharedStatus {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done` yields something, for at most `limit`.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut done: impl FnMut(&mut Status) -> Option<T>,
    ) -> Option<T> {
        let deadline = crate::clock::deadline(limit);
        let mut status = self.lock();
        loop {
            if let Some(result) = done(&mut status) {
                return Some(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (status, _) = self
                .changed
                .wait_timeout(status, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
