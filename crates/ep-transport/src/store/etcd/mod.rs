//! The rendezvous on etcd.

mod feed;

use super::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap, check_sizes};
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, KeyValue, KvClient, PutOptions,
    ResponseHeader, Txn, TxnOp, TxnOpResponse,
};
use feed::Feed;
use std::future::Future;
use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a call may take, waiting for changes apart.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_TIME_OUT: Duration = Duration::from_secs(2);
const RETRY_PERIOD: Duration = Duration::from_millis(50);
/// How much longer than its own limit a call may take to come back from the runtime.
const SLACK: Duration = Duration::from_secs(1);
/// Pings on a connection that is silent, and how long one may go without an answer. By its
/// defaults etcd closes connections on which they come more often than every 5 seconds.
const PING: [Duration; 2] = [Duration::from_secs(6), Duration::from_secs(3)];
/// Largest message that is taken: a page of the largest values, or the names of
/// 65,536 keys.
const MAX_MESSAGE: usize = 48 << 20;

/// `NOT_FOUND` of gRPC (`google/rpc/code.proto`).
const NOT_FOUND: i32 = 5;

/// A store on an etcd cluster, which outlives any rank.
///
/// Revisions are etcd's own. Leases last whole seconds, at least as many as etcd
/// grants (two with its defaults); etcd does not see processes end, so a death is
/// noticed when the lease has run out. While etcd is away, calls fail within 5
/// seconds, and later ones succeed again. After an error, a call may have been carried
/// out all the same.
///
/// A thread of its own moves the messages. Neither encryption nor etcd's users are
/// supported; with a shared [`crate::Secret`] records cannot be changed unnoticed.
pub struct EtcdStore {
    endpoints: String,
    runtime: Option<Runtime>,
    client: Client,
    feed: Mutex<Option<Feed>>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// Why something could not be done, before it is known what was asked.
enum Fault {
    TimedOut,
    Etcd(Error),
    /// etcd knows less than it did.
    Replaced,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

impl Fault {
    fn at(self, endpoints: &str) -> StoreError {
        let address = endpoints.to_owned();
        let source = match self {
            Self::Replaced => return StoreError::Replaced { address },
            Self::TimedOut => io::ErrorKind::TimedOut.into(),
            Self::Etcd(error) => io::Error::other(error),
        };
        StoreError::Connection { address, source }
    }

    fn is_not_found(&self) -> bool {
        matches!(self, Self::Etcd(Error::GRpcStatus(status))
            if i32::from(status.code()) == NOT_FOUND)
    }
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

fn known(revision: i64) -> Revision {
    Revision(revision.try_into().unwrap_or(0))
}

fn asked(revision: Revision) -> i64 {
    revision.0.try_into().unwrap_or(i64::MAX)
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        value: kv.value().to_vec(),
        revision: known(kv.mod_revision()),
    }
}

/// Lets `call` take until `deadline`.
async fn by<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Fault::TimedOut),
    }
}

impl EtcdStore {
    /// Connects to a cluster by the addresses of its members (`http://10.0.0.1:2379`),
    /// trying again for up to `patience` while none answers.
    ///
    /// # Errors
    /// None answers, or an address is none.
    pub fn connect(endpoints: &[&str], patience: Duration) -> Result<Self, StoreError> {
        let deadline = crate::clock::deadline(patience);
        let all = endpoints.join(", ");
        let unreachable = |source| StoreError::Unreachable {
            address: all.clone(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-etcd")
            .enable_all()
            .build()
            .map_err(unreachable)?;
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIME_OUT)
            .with_keep_alive(PING[0], PING[1])
            .with_require_leader(true);
        let addresses: Vec<String> = endpoints.iter().map(|&e| e.to_owned()).collect();
        let connect = async move {
            let deadline = Instant::now() + PATIENCE;
            by(deadline, Client::connect(addresses, Some(options))).await
        };
        let client = run(&runtime, PATIENCE, connect).map_err(|fault| fault.at(&all))?;
        let store = Self {
            endpoints: all.clone(),
            runtime: Some(runtime),
            client,
            feed: Mutex::new(None),
        };
        // Connections are made when they are needed: any question does.
        loop {
            let mut kv = store.kv();
            match store.call(async move { kv.get("ep", None).await }) {
                Ok(_) => return Ok(store),
                Err(_) if Instant::now() < deadline => std::thread::sleep(RETRY_PERIOD),
                Err(fault) => {
                    return Err(match fault.at(&all) {
                        StoreError::Connection { source, .. } => unreachable(source),
                        other => other,
                    });
                }
            }
        }
    }

    fn kv(&self) -> KvClient {
        let kv = self.client.kv_client();
        kv.max_decoding_message_size(MAX_MESSAGE)
    }

    /// Carries out a call on the runtime; the caller's thread may belong to another one.
    fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        match &self.runtime {
            Some(runtime) => run(runtime, limit, call),
            None => Err(Fault::TimedOut),
        }
    }

    /// A call that takes [`PATIENCE`] at most.
    fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Fault> {
        self.run(PATIENCE, by(Instant::now() + PATIENCE, call))
    }

    fn fail<T>(&self, fault: Fault) -> Result<T, StoreError> {
        Err(fault.at(&self.endpoints))
    }
}

fn run<T: Send + 'static>(
    runtime: &Runtime,
    limit: Duration,
    call: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits any more: fine.
        let _ = sender.send(call.await);
    });
    receiver
        .recv_timeout(limit.saturating_add(SLACK))
        .unwrap_or(Err(Fault::TimedOut))
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        // Waits for nothing, so that a store may be dropped anywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Rendezvous for EtcdStore {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        check_sizes(key, value)?;
        let (mut kv, key, value) = (self.kv(), key.to_owned(), value.to_vec());
        let options = lease.map(|lease| PutOptions::new().with_lease(lease.0 as i64));
        let put = self.call(async move { kv.put(key, value, options).await });
        match (put, lease) {
            (Ok(response), _) => Ok(known(revision(response.header()))),
            (Err(fault), Some(lease)) if fault.is_not_found() => {
                Err(StoreError::LeaseEnded { lease })
            }
            (Err(fault), _) => self.fail(fault),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let (mut kv, key) = (self.kv(), key.to_owned());
        match self.call(async move { kv.get(key, None).await }) {
            Ok(response) => Ok(response.kvs().first().map(entry)),
            Err(fault) => self.fail(fault),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let (mut kv, key) = (self.kv(), key.to_owned());
        match self.call(async move { kv.delete(key, None).await }) {
            Ok(_) => Ok(()),
            Err(fault) => self.fail(fault),
        }
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_sizes(key, value)?;
        // A key that is not there has revision 0.
        let expected = expected.map_or(0, asked);
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, value, None)])
            .or_else([TxnOp::get(key, None::<GetOptions>)]);
        let mut kv = self.kv();
        let response = match self.call(async move { kv.txn(txn).await }) {
            Ok(response) => response,
            Err(fault) => return self.fail(fault),
        };
        if response.succeeded() {
            return Ok(Swap::Won(known(revision(response.header()))));
        }
        let held = response.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(got) => got.kvs().first().map(entry),
            _ => None,
        });
        Ok(Swap::Lost(held))
    }

    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError> {
        let slot = || self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut feed = Feed::resume(slot().take(), prefix, asked(after));
        let (kv, watch) = (self.kv(), self.client.watch_client());
        let watch = watch.max_decoding_message_size(MAX_MESSAGE);
        // A request or two, then the wait.
        let longest = limit.saturating_add(3 * PATIENCE);
        let outcome = self.run(longest, async move {
            let changes = feed.next(kv, watch, limit).await;
            Ok((feed, changes))
        });
        match outcome {
            Ok((feed, changes)) => {
                *slot() = Some(feed);
                changes.or_else(|fault| self.fail(fault))
            }
            Err(fault) => self.fail(fault),
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = ttl.as_secs();
        let seconds = seconds.saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let mut leases = self.client.lease_client();
        match self.call(async move { leases.grant(seconds, None).await }) {
            Ok(response) => Ok(LeaseId(response.id() as u64)),
            Err(fault) => self.fail(fault),
        }
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut leases = self.client.lease_client();
        let kept = self.call(async move { leases.keep_alive(lease.0 as i64).await.map(drop) });
        match kept {
            Err(Fault::Etcd(Error::LeaseKeepAliveError(what))) if what.contains("not found") => {
                Err(StoreError::LeaseEnded { lease })
            }
            Err(fault) => self.fail(fault),
            Ok(()) => Ok(()),
        }
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut leases = self.client.lease_client();
        match self.call(async move { leases.revoke(lease.0 as i64).await }) {
            Err(fault) if !fault.is_not_found() => self.fail(fault),
            _ => Ok(()),
        }
    }
}
