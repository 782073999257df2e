//! The client of the TCP store.

use super::channel::{Channel, Fault, Side, fill_random};
use super::sessions::MAX_WAIT;
use super::wire::{Call, Request, Response, StoreId, Token};
use super::{Changes, Entry, LeaseId, Rendezvous, Revision, StoreError, Swap, check_sizes};
use crate::secret::Secret;
use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may take, waiting for changes apart.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call tries to open a connection again.
const REOPEN: Duration = Duration::from_millis(500);
/// First and longest pause between two tries.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

/// A client of a [`super::TcpStoreServer`].
///
/// A connection that breaks is opened again, by the call that finds it broken or in
/// the background, whatever is first. Leases belong to the session that all
/// connections of this client share: they outlive connections, but not this value and
/// not the process.
///
/// Calls that wait for changes have a connection of their own, so that they do not
/// hold up others. A call takes 5 seconds at most, once those of other threads
/// before it are done, and half a second if nobody listens there.
#[derive(Debug)]
pub struct TcpStore {
    client: Arc<Client>,
    requests: Link,
    waits: Link,
    next_id: AtomicU64,
}

/// Where the store is and what this client is there.
#[derive(Debug)]
struct Client {
    address: String,
    secret: Option<Secret>,
    token: Token,
    store: OnceLock<StoreId>,
    stop: AtomicBool,
    /// The connection that the store tells this process's end by.
    presence: Mutex<Option<TcpStream>>,
}

/// A connection, when there is one.
#[derive(Debug, Default)]
struct Link {
    channel: Mutex<Option<Channel>>,
}

/// Pauses that grow.
struct BackOff(Duration);

impl BackOff {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACK_OFF[1]);
        pause
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpStore {
    /// Connects to the store at `address`, trying again for up to `patience` while
    /// nobody listens there.
    ///
    /// # Errors
    /// Nobody answers, or what answers is not a store of this version.
    pub fn connect(address: &str, patience: Duration) -> Result<Self, StoreError> {
        Self::connect_with_secret(address, patience, None)
    }

    /// As [`TcpStore::connect`], to a store that knows the same secret if there is one.
    ///
    /// # Errors
    /// Nobody answers, what answers is not a store of this version, or it does not
    /// have the same secret.
    pub fn connect_with_secret(
        address: &str,
        patience: Duration,
        secret: Option<Secret>,
    ) -> Result<Self, StoreError> {
        let mut token = Token([0; 16]);
        let no_random = |source| StoreError::Connection {
            address: address.to_owned(),
            source,
        };
        fill_random(&mut token.0).map_err(no_random)?;
        let client = Arc::new(Client {
            address: address.to_owned(),
            secret,
            token,
            store: OnceLock::new(),
            stop: AtomicBool::new(false),
            presence: Mutex::new(None),
        });
        let deadline = crate::clock::deadline(patience);
        let mut back_off = BackOff(BACK_OFF[0]);
        let presence = loop {
            match client.open(Instant::now() + PATIENCE) {
                Err(StoreError::Unreachable { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(back_off.next());
                }
                other => break other?,
            }
        };
        let link = || -> Result<Link, StoreError> {
            let channel = client.open(Instant::now() + PATIENCE)?;
            Ok(Link {
                channel: Mutex::new(Some(channel)),
            })
        };
        let (requests, waits) = (link()?, link()?);
        std::thread::Builder::new()
            .name("store-presence".into())
            .spawn({
                let client = Arc::clone(&client);
                move || client.stay(presence)
            })
            .map_err(no_random)?;
        Ok(Self {
            client,
            requests,
            waits,
            next_id: AtomicU64::new(0),
        })
    }

    /// Has the store do something, over a new connection if the last one is broken.
    /// A call whose answer was lost is repeated under its number, by which the store
    /// knows whether it has done it.
    fn call(&self, link: &Link, request: Request, wait: Duration) -> Result<Response, StoreError> {
        let mut slot = locked(&link.channel);
        let call = Call {
            // Taken in the order in which the calls are made.
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            request,
        };
        // The store answers after its longest wait at the latest.
        let deadline = Instant::now() + PATIENCE + wait.min(MAX_WAIT);
        let mut broken: Option<Instant> = None;
        let mut back_off = BackOff(BACK_OFF[0]);
        loop {
            let answer = match slot.as_mut() {
                Some(channel) => exchange(channel, &call, deadline)
                    .map_err(|fault| fault.at(&self.client.address)),
                None => self.client.open(deadline).and_then(|channel| {
                    exchange(slot.insert(channel), &call, deadline)
                        .map_err(|fault| fault.at(&self.client.address))
                }),
            };
            let error = match answer {
                Ok(response) => return self.understand(response),
                Err(error) => error,
            };
            // An answer that comes later would be taken for the next call's.
            *slot = None;
            let now = Instant::now();
            let since = *broken.get_or_insert(now);
            let pause = back_off.next();
            let hopeless = !matches!(
                error,
                StoreError::Connection { .. } | StoreError::Unreachable { .. }
            );
            if hopeless || now + pause >= deadline || now + pause >= since + REOPEN {
                return Err(error);
            }
            if since != now {
                std::thread::sleep(pause);
            }
        }
    }

    fn understand(&self, response: Response) -> Result<Response, StoreError> {
        match response {
            Response::LeaseEnded(lease) => Err(StoreError::LeaseEnded { lease }),
            Response::Refused(what) => Err(self.client.bad_message(what)),
            response => Ok(response),
        }
    }

    fn request(&self, request: Request) -> Result<Response, StoreError> {
        self.call(&self.requests, request, Duration::ZERO)
    }

    fn unexpected<T>(&self, response: &Response) -> Result<T, StoreError> {
        let what = format!("an answer to another question: {response:?}");
        Err(self.client.bad_message(what))
    }

    fn done(&self, request: Request) -> Result<(), StoreError> {
        match self.request(request)? {
            Response::Done => Ok(()),
            other => self.unexpected(&other),
        }
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        self.client.stop.store(true, Ordering::SeqCst);
        // Its thread ends soon after; it may be in the middle of opening another.
        if let Some(presence) = locked(&self.client.presence).take() {
            let _ = presence.shutdown(Shutdown::Both);
        }
    }
}

fn exchange(channel: &mut Channel, call: &Call, deadline: Instant) -> Result<Response, Fault> {
    channel.send(call, deadline)?;
    let left = deadline.saturating_duration_since(Instant::now());
    channel.receive(Some(deadline), left)
}

impl Client {
    fn bad_message(&self, what: String) -> StoreError {
        StoreError::BadMessage {
            from: self.address.clone(),
            what,
        }
    }

    /// Opens a connection that belongs to this client's session.
    fn open(&self, deadline: Instant) -> Result<Channel, StoreError> {
        let address = &self.address;
        let unreachable = |source| StoreError::Unreachable {
            address: address.clone(),
            source,
        };
        let resolved = address
            .to_socket_addrs()
            .map_err(unreachable)?
            .next()
            .ok_or_else(|| unreachable(io::ErrorKind::AddrNotAvailable.into()))?;
        // A time of zero is none at all to the system.
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(&resolved, left).map_err(unreachable)?;
        let secret = self.secret.as_ref();
        let join = Call {
            id: 0,
            request: Request::Join(self.token),
        };
        let joined = Channel::establish(stream, Side::Client, secret, deadline)
            .and_then(|mut channel| Ok((exchange(&mut channel, &join, deadline)?, channel)));
        match joined {
            Ok((Response::Joined(store), channel)) => {
                if *self.store.get_or_init(|| store) == store {
                    Ok(channel)
                } else {
                    Err(StoreError::Replaced {
                        address: address.clone(),
                    })
                }
            }
            Ok((other, _)) => Err(self.bad_message(format!("to a new client: {other:?}"))),
            Err(Fault::Io(source)) if source.kind() == io::ErrorKind::TimedOut => {
                let what = format!("whoever listens there said nothing for {PATIENCE:?}");
                Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, what)))
            }
            // Whoever listened there went away again.
            Err(Fault::Io(source)) => Err(unreachable(source)),
            Err(fault) => Err(fault.at(address)),
        }
    }

    /// Keeps one connection open, on which nothing is said: the store notices by it
    /// when this process ends, and this side notices at once when it breaks.
    fn stay(&self, mut channel: Channel) {
        loop {
            if !self.wait_for_its_end(&mut channel) {
                return;
            }
            let mut back_off = BackOff(BACK_OFF[0]);
            channel = loop {
                match self.open(Instant::now() + PATIENCE) {
                    Ok(channel) => break channel,
                    Err(StoreError::Unreachable { .. } | StoreError::Connection { .. }) => {}
                    // It will not be better later.
                    Err(error) => {
                        tracing::warn!(%error, "store lost");
                        return;
                    }
                }
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(back_off.next());
            };
        }
    }

    /// Whether another one is to be opened.
    fn wait_for_its_end(&self, channel: &mut Channel) -> bool {
        let Ok(handle) = channel.stream().try_clone() else {
            return false;
        };
        *locked(&self.presence) = Some(handle);
        // Dropped in between: there was nothing to shut down.
        if self.stop.load(Ordering::SeqCst) {
            return false;
        }
        let said = channel.receive::<Response>(None, PATIENCE);
        tracing::debug!(?said, "presence at the store ended");
        !self.stop.load(Ordering::SeqCst)
    }
}

impl Rendezvous for TcpStore {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        check_sizes(key, value)?;
        match self.request(Request::Put(key.into(), value.into(), lease))? {
            Response::Revision(revision) => Ok(revision),
            other => self.unexpected(&other),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self.request(Request::Get(key.into()))? {
            Response::Entry(entry) => Ok(entry),
            other => self.unexpected(&other),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.done(Request::Delete(key.into()))
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_sizes(key, value)?;
        match self.request(Request::Swap(key.into(), expected, value.into()))? {
            Response::Swap(swap) => Ok(swap),
            other => self.unexpected(&other),
        }
    }

    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError> {
        let request = Request::Changes(prefix.into(), after, limit);
        match self.call(&self.waits, request, limit)? {
            Response::Changes(changes) => Ok(changes),
            other => self.unexpected(&other),
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self.request(Request::Grant(ttl))? {
            Response::Lease(lease) => Ok(lease),
            other => self.unexpected(&other),
        }
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.done(Request::KeepAlive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.done(Request::Revoke(lease))
    }
}
