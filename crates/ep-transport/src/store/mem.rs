//! The store within one process.

use super::state::State;
use super::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap, check_sizes};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting call looks for leases that have run out.
const EXPIRY_PERIOD: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    born: Instant,
}

/// A store in this process; clones share it.
#[derive(Clone, Debug)]
pub struct MemStore(Arc<Shared>);

impl Default for MemStore {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            born: Instant::now(),
        }))
    }
}

impl MemStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.expire(self.0.born.elapsed()) {
            self.0.changed.notify_all();
        }
        state
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.lock());
        self.0.changed.notify_all();
        result
    }
}

impl Rendezvous for MemStore {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        check_sizes(key, value)?;
        self.change(|state| state.put(key, value, lease))
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.lock().get(key))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.change(|state| state.delete(key));
        Ok(())
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_sizes(key, value)?;
        Ok(self.change(|state| state.swap(key, expected, value)))
    }

    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let changes = state.changes(prefix, after);
            let left = deadline.saturating_duration_since(Instant::now());
            if !changes.changes.is_empty() || left.is_zero() {
                return Ok(changes);
            }
            (state, _) = self
                .0
                .changed
                .wait_timeout(state, left.min(EXPIRY_PERIOD))
                .unwrap_or_else(PoisonError::into_inner);
            if state.expire(self.0.born.elapsed()) {
                self.0.changed.notify_all();
            }
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let now = self.0.born.elapsed();
        Ok(self.lock().grant(ttl, now))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = self.0.born.elapsed();
        self.lock().keep_alive(lease, now)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| state.revoke(lease));
        Ok(())
    }
}
