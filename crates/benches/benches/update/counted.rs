//! A rendezvous that counts what one rank asks of it.

use ep_transport::store::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap};
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Messages between one rank and the store, leases apart: those follow the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages {
    /// Puts, gets, deletes and swaps.
    pub(crate) sent: u64,
    /// Changes by any rank that this one was told of.
    pub(crate) heard: u64,
    /// Bytes of the keys and values of those.
    pub(crate) bytes: u64,
}

impl Sub for Messages {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            heard: self.heard - before.heard,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// One rank's way to the store that all share.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    store: S,
    sent: AtomicU64,
    heard: AtomicU64,
    bytes: AtomicU64,
}

impl<S> Counted<S> {
    pub(crate) fn new(store: S) -> Self {
        Self {
            store,
            sent: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn messages(&self) -> Messages {
        Messages {
            sent: self.sent.load(Relaxed),
            heard: self.heard.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    fn counted(&self) -> &S {
        self.sent.fetch_add(1, Relaxed);
        &self.store
    }
}

impl<S: Rendezvous> Rendezvous for Counted<S> {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        self.counted().put(key, value, lease)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.counted().get(key)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.counted().delete(key)
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        self.counted().compare_and_swap(key, expected, value)
    }

    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError> {
        let changes = self.store.changes(prefix, after, limit)?;
        self.heard.fetch_add(changes.changes.len() as u64, Relaxed);
        for change in &changes.changes {
            let value = change.value.as_ref().map_or(0, Vec::len);
            self.bytes
                .fetch_add((change.key.len() + value) as u64, Relaxed);
        }
        Ok(changes)
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease)
    }
}
