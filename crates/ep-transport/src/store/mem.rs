//! The store within one process.

use super::state::{State, TICK};
use super::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap, check_sizes};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Contents {
    state: State,
    waiting: Vec<Waiter>,
}

/// Somebody who waits for a change under a prefix.
#[derive(Debug)]
struct Waiter {
    prefix: String,
    wake: Arc<Condvar>,
}

impl Contents {
    /// Changes something, and wakes those who wait for that and nobody else.
    fn change<T>(&mut self, act: impl FnOnce(&mut State) -> T) -> T {
        let before = self.state.revision();
        let result = act(&mut self.state);
        for key in self.state.changed(before) {
            let concerned = |waiter: &&Waiter| key.starts_with(&waiter.prefix);
            self.waiting
                .iter()
                .filter(concerned)
                .for_each(|waiter| waiter.wake.notify_one());
        }
        result
    }
}

#[derive(Debug)]
struct Shared {
    contents: Mutex<Contents>,
    born: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, contents: &mut Contents) {
        let now = self.born.elapsed();
        contents.change(|state| state.tick(now));
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
            contents: Mutex::default(),
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

    fn lock(&self) -> MutexGuard<'_, Contents> {
        let mut contents = self.0.lock();
        self.0.tick(&mut contents);
        contents
    }

    /// Whether this lease has not ended.
    pub(super) fn holds(&self, lease: LeaseId) -> bool {
        self.lock().state.holds(lease)
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.lock().change(act)
    }

    /// What changed, as [`Rendezvous::changes`] says. The wait ends soon after it is `over`,
    /// which is asked with the store held.
    pub(super) fn changes_unless(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
        over: &dyn Fn() -> bool,
    ) -> Changes {
        let deadline = crate::clock::deadline(limit);
        let wake = Arc::new(Condvar::new());
        let mut contents = self.lock();
        contents.waiting.push(Waiter {
            prefix: prefix.to_owned(),
            wake: Arc::clone(&wake),
        });
        let changes = loop {
            let changes = contents.state.changes(prefix, after);
            let left = deadline.saturating_duration_since(Instant::now());
            if !changes.is_empty() || left.is_zero() || over() {
                break changes;
            }
            (contents, _) = wake
                .wait_timeout(contents, left.min(TICK))
                .unwrap_or_else(PoisonError::into_inner);
            self.0.tick(&mut contents);
        };
        let others = |waiter: &Waiter| !Arc::ptr_eq(&waiter.wake, &wake);
        contents.waiting.retain(others);
        changes
    }
}

impl Rendezvous for MemStore {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        check_sizes(key, value)?;
        self.change(|state| state.put(key, value, lease))
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.lock().state.get(key))
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
        Ok(self.changes_unless(prefix, after, limit, &|| false))
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(self.lock().state.grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // Before the clock is looked at: what the client sent in time may have waited.
        let mut contents = self.0.lock();
        let kept = contents.state.keep_alive(lease);
        self.0.tick(&mut contents);
        kept
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|state| state.revoke(lease));
        Ok(())
    }
}
