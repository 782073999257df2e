//! The client of the TCP store.

use super::wire::{self, Request, Response};
use super::{
    Changes, Entry, LeaseId, PROTOCOL_VERSION, Rendezvous, Revision, StoreError, Swap, check_sizes,
};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a request may take, waiting for changes apart.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PERIOD: Duration = Duration::from_millis(20);

/// A connection to a [`super::TcpStoreServer`].
///
/// Requests that wait for changes have a connection of their own, so that they do
/// not hold up others. Leases live and die with the first connection.
#[derive(Debug)]
pub struct TcpStore {
    address: String,
    requests: Mutex<TcpStream>,
    waits: Mutex<TcpStream>,
}

impl TcpStore {
    /// Connects to the store at `address`, trying again for up to `patience` while
    /// nobody listens there.
    ///
    /// # Errors
    /// Nobody answers, or what answers is not a store of this version.
    pub fn connect(address: &str, patience: Duration) -> Result<Self, StoreError> {
        let deadline = Instant::now() + patience;
        let requests = loop {
            match open(address) {
                Err(StoreError::Unreachable { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PERIOD);
                }
                other => break other?,
            }
        };
        Ok(Self {
            requests: Mutex::new(requests),
            waits: Mutex::new(open(address)?),
            address: address.to_owned(),
        })
    }

    fn call(
        &self,
        connection: &Mutex<TcpStream>,
        request: &Request,
        wait: Duration,
    ) -> Result<Response, StoreError> {
        let mut stream = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(PATIENCE + wait))?;
            wire::send(stream, request)?;
            wire::receive(stream)
        };
        match exchange(&mut stream) {
            Ok(Response::LeaseEnded(lease)) => Err(StoreError::LeaseEnded { lease }),
            Ok(Response::Refused(what)) => Err(self.bad_message(what)),
            Ok(response) => Ok(response),
            Err(source) => {
                // An answer that comes later would be taken for the next request's.
                let _ = stream.shutdown(std::net::Shutdown::Both);
                Err(StoreError::Connection {
                    address: self.address.clone(),
                    source,
                })
            }
        }
    }

    fn request(&self, request: &Request) -> Result<Response, StoreError> {
        self.call(&self.requests, request, Duration::ZERO)
    }

    fn bad_message(&self, what: String) -> StoreError {
        StoreError::BadMessage {
            from: self.address.clone(),
            what,
        }
    }

    fn unexpected<T>(&self, response: &Response) -> Result<T, StoreError> {
        Err(self.bad_message(format!("an answer to another question: {response:?}")))
    }

    fn done(&self, request: &Request) -> Result<(), StoreError> {
        match self.request(request)? {
            Response::Done => Ok(()),
            other => self.unexpected(&other),
        }
    }
}

fn open(address: &str) -> Result<TcpStream, StoreError> {
    let unreachable = |source| StoreError::Unreachable {
        address: address.to_owned(),
        source,
    };
    let resolved = address
        .to_socket_addrs()
        .map_err(unreachable)?
        .next()
        .ok_or_else(|| unreachable(io::ErrorKind::AddrNotAvailable.into()))?;
    let mut stream = TcpStream::connect_timeout(&resolved, PATIENCE).map_err(unreachable)?;
    let version = |theirs| StoreError::Version {
        address: address.to_owned(),
        theirs,
        ours: PROTOCOL_VERSION,
    };
    let hello = |stream: &mut TcpStream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        wire::send_hello(stream)?;
        wire::read_hello(stream)
    };
    match hello(&mut stream) {
        Ok(Ok(PROTOCOL_VERSION)) => Ok(stream),
        Ok(Ok(theirs)) => Err(version(format!("version {theirs}"))),
        Ok(Err(said)) => Err(version(said)),
        // The time-out of a socket comes as this, which does not say much.
        Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
            let what = format!("whoever listens there said nothing for {PATIENCE:?}");
            Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, what)))
        }
        // Whoever listened there went away again.
        Err(source) => Err(unreachable(source)),
    }
}

impl Rendezvous for TcpStore {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        check_sizes(key, value)?;
        match self.request(&Request::Put(key.into(), value.into(), lease))? {
            Response::Revision(revision) => Ok(revision),
            other => self.unexpected(&other),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self.request(&Request::Get(key.into()))? {
            Response::Entry(entry) => Ok(entry),
            other => self.unexpected(&other),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.done(&Request::Delete(key.into()))
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check_sizes(key, value)?;
        match self.request(&Request::Swap(key.into(), expected, value.into()))? {
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
        match self.call(&self.waits, &request, limit)? {
            Response::Changes(changes) => Ok(changes),
            other => self.unexpected(&other),
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self.request(&Request::Grant(ttl))? {
            Response::Lease(lease) => Ok(lease),
            other => self.unexpected(&other),
        }
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.done(&Request::KeepAlive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.done(&Request::Revoke(lease))
    }
}
