//! The rendezvous: a small key-value store in which ranks find each other and
//! decide things once.
//!
//! Nothing in the data path depends on it. What each one survives:
//!
//! | store | a client's process ends | a connection breaks | the serving process ends |
//! | --- | --- | --- | --- |
//! | [`MemStore`]: ranks of one process (tests) | - | - | everything ends |
//! | [`TcpStoreServer`] in rank 0, [`TcpStore`] in the others | noticed within about 10 ms, 60 ms if it waits for changes | opened again, leases live on | **the store is gone**: the other ranks go on with the view they have, and no rank can be admitted any more |
//! | `EtcdStore` (feature `etcd`) | noticed when its lease is over | opened again, leases live on | any rank may end; while etcd is away updates wait, and go on when it is back |
//!
//! A store that stands still for a while, with its process or its machine, gives that
//! time back to every lease.

mod channel;
mod client;
#[cfg(feature = "etcd")]
mod etcd;
mod mem;
mod server;
mod sessions;
mod state;
mod wire;

pub use client::TcpStore;
#[cfg(feature = "etcd")]
pub use etcd::EtcdStore;
pub use mem::MemStore;
pub use server::TcpStoreServer;
pub use wire::PROTOCOL_VERSION;
#[cfg(any(test, fuzzing))]
pub(crate) use wire::fuzzing;

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest key in bytes.
pub const MAX_KEY: usize = 512;
/// Largest value in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// The store counts every change; a revision names the state after one of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

/// A lease: keys put with it vanish when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub revision: Revision,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value now; `None` if it was deleted or its lease ended.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// The revision of that change.
    pub revision: Revision,
}

/// Changes of keys with a common prefix, oldest first, at most one for each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The changes.
    pub changes: Vec<Change>,
    /// The revision up to which they reach.
    pub revision: Revision,
    /// Set if deletions may be missing from the changes: a store does not remember all of
    /// them for ever. These are all keys with the prefix that are there; any other that
    /// the reader knows of is gone.
    pub there: Option<BTreeSet<String>>,
}

impl Changes {
    /// Whether there is nothing to be learned from them.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.there.is_none()
    }
}

/// The answer to a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// The key had the expected revision; it now has the value, at this revision.
    Won(Revision),
    /// It had not; this is what it holds.
    Lost(Option<Entry>),
}

/// Why the rendezvous did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nobody answers at the address.
    #[error("no store at {address}")]
    Unreachable {
        /// Where the store should be.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The server could not take the address.
    #[error("cannot serve the store at {address}")]
    Bind {
        /// The address asked for.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The connection broke or took too long.
    #[error("connection to the store at {address} failed")]
    Connection {
        /// Where the store is.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The other side speaks another version of the protocol, or something else.
    #[error("{address} speaks store protocol {theirs}, this side speaks {ours}")]
    Version {
        /// The other side.
        address: String,
        /// What it said.
        theirs: String,
        /// This side's version.
        ours: u16,
    },
    /// A message that cannot be understood, or is too large.
    #[error("bad message from {from}: {what}")]
    BadMessage {
        /// Who sent it.
        from: String,
        /// What is wrong with it.
        what: String,
    },
    /// A key or value over its limit.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// `key` or `value`.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The two sides do not know the same secret.
    #[error("{address} is not to be trusted: {why}")]
    Unauthenticated {
        /// The other side.
        address: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The store was started again and has forgotten everything, leases included.
    #[error("the store at {address} is another one than before")]
    Replaced {
        /// Where it is.
        address: String,
    },
    /// The lease has ended; keys put with it are gone.
    #[error("lease {} has ended", lease.0)]
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
    },
}

/// A store that all ranks reach. Every call is bounded in time by the store itself.
pub trait Rendezvous: Send + Sync {
    /// Sets `key`, bound to `lease` if one is given.
    ///
    /// # Errors
    /// The lease has ended, the key or value is too large, or the store is away.
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError>;

    /// What `key` holds.
    ///
    /// # Errors
    /// The store is away.
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Deletes `key`; nothing happens if there is none.
    ///
    /// # Errors
    /// The store is away.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Sets `key` if it was last written at `expected` (`None`: if it is not there).
    ///
    /// A store that repeats the call over a new connection does so without carrying it
    /// out twice. After an error the key may or may not have been set; what it holds
    /// now tells, if the value says by whom it was written.
    ///
    /// # Errors
    /// The value is too large, or the store is away. A lost swap is not an error.
    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError>;

    /// What changed under `prefix` after revision `after`; waits up to `limit` for
    /// a first change, or not quite that long: a store may answer sooner that there was
    /// none. With `after` 0 it lists what is there.
    ///
    /// Whoever has not read for long may be told what is there ([`Changes::there`]) in
    /// place of what was deleted. The names of all keys with one prefix are at most 4 MiB.
    ///
    /// # Errors
    /// The store is away.
    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError>;

    /// A new lease that ends `ttl` after its last [`Rendezvous::keep_alive`], or at
    /// once when the store sees this client's process end, as one over TCP does.
    ///
    /// # Errors
    /// The store is away.
    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`] if it has ended: the others have been told that this
    /// process is gone. Or the store is away.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now.
    ///
    /// # Errors
    /// The store is away.
    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

fn check_sizes(key: &str, value: &[u8]) -> Result<(), StoreError> {
    let over = |what, bytes, limit| StoreError::TooLarge { what, bytes, limit };
    if key.len() > MAX_KEY {
        return Err(over("key", key.len(), MAX_KEY));
    }
    if value.len() > MAX_VALUE {
        return Err(over("value", value.len(), MAX_VALUE));
    }
    Ok(())
}
