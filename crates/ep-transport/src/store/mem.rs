//! The store within one process.

use super::state::{State, TICK};
use super::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap, check_sizes};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    born: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, state: &mut State) {
        if state.tick(self.born.elapsed()) {
            self.changed.notify_all();
        }
    }
}

/// A store in this process; clones share it. It ends with the process.
///
/// A thread of its own ends leases that have run out. If there can be none, that is
/// done when the store is used.
#[derive(Clone, Debug)]
pub struct MemStore(Arc<Shared>);

impl Default for MemStore {
    fn default() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            born: Instant::now(),
        });
        let watched = Arc::downgrade(&shared);
        let clock = std::thread::Builder::new()
            .name("store-clock".into())
            .spawn(move || look_at_the_clock(&watched));
        if let Err(error) = clock {
            tracing::warn!(%error, "leases end only when the store is used");
        }
        Self(shared)
    }
}

/// Ends soon after the store.
fn look_at_the_clock(store: &Weak<Shared>) {
    while let Some(shared) = store.upgrade() {
        shared.tick(&mut shared.lock());
        drop(shared);
        std::thread::sleep(TICK);
    }
}

impl MemStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        self.0.tick(&mut state);
        state
    }

    /// Whether this lease has not ended.
    pub(super) fn holds(&self, lease: LeaseId) -> bool {
        self.lock().holds(lease)
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
                .wait_timeout(state, left.min(TICK))
                .unwrap_or_else(PoisonError::into_inner);
            self.0.tick(&mut state);
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(self.lock().grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // Before the clock is looked at: what the client sent in time may have waited.
        let mut state = self.0.lock();
        let kept = state.keep_alive(lease);
        self.0.tick(&mut state);
        kept
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| state.revoke(lease));
        Ok(())
    }
}
