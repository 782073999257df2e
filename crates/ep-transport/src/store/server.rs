//! Serves a [`MemStore`] over TCP, one thread for each connection.

use super::wire::{self, Request, Response};
use super::{LeaseId, MemStore, PROTOCOL_VERSION, Rendezvous, StoreError};
use crate::error::Chain;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait that one request may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long a client may take to say hello or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_PERIOD: Duration = Duration::from_millis(20);
const MAX_CONNECTIONS: usize = 8192;

/// A store served to other processes until it is dropped.
#[derive(Debug)]
pub struct TcpStoreServer {
    store: MemStore,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl TcpStoreServer {
    /// Listens at `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// [`StoreError::Bind`] if the address is in use or not of this machine.
    pub fn bind(address: &str) -> Result<Self, StoreError> {
        let bind = |source| StoreError::Bind {
            address: address.to_owned(),
            source,
        };
        let resolved = address
            .to_socket_addrs()
            .map_err(bind)?
            .next()
            .ok_or_else(|| bind(io::ErrorKind::AddrNotAvailable.into()))?;
        let listener = TcpListener::bind(resolved).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let store = MemStore::new();
        let stop = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::Builder::new()
            .name("store-accept".into())
            .spawn({
                let (store, stop) = (store.clone(), Arc::clone(&stop));
                move || accept(&listener, &store, &stop)
            })
            .map_err(bind)?;
        Ok(Self {
            store,
            address,
            stop,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The store itself, for the rank that serves it.
    #[must_use]
    pub fn store(&self) -> MemStore {
        self.store.clone()
    }
}

impl Drop for TcpStoreServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, store: &MemStore, stop: &Arc<AtomicBool>) {
    let mut connections: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let Ok((stream, peer)) = listener.accept() else {
            std::thread::sleep(ACCEPT_PERIOD);
            connections.retain(|(_, thread)| !thread.is_finished());
            continue;
        };
        if connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(%peer, limit = MAX_CONNECTIONS, "store refuses a connection: too many");
            continue;
        }
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let (store, stop) = (store.clone(), Arc::clone(stop));
        let serve = move || {
            let mut leases = Vec::new();
            if let Err(error) = serve(stream, &store, &mut leases, &stop) {
                tracing::debug!(%peer, error = %Chain(&error), "store connection ended");
            }
            if stop.load(Ordering::SeqCst) {
                // This side ended it, which says nothing about the client.
                return;
            }
            for lease in leases {
                // Whoever held this connection is gone; so are its leases.
                let _ = store.revoke(lease);
            }
        };
        if let Ok(thread) = std::thread::Builder::new()
            .name("store-serve".into())
            .spawn(serve)
        {
            connections.push((handle, thread));
        }
    }
    for (stream, thread) in connections {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = thread.join();
    }
}

fn serve(
    mut stream: TcpStream,
    store: &MemStore,
    leases: &mut Vec<LeaseId>,
    stop: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Both sides speak first, so that each can name the other's version.
    wire::send_hello(&mut stream)?;
    if wire::read_hello(&mut stream)? != Ok(PROTOCOL_VERSION) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    stream.set_read_timeout(None)?;
    while !stop.load(Ordering::SeqCst) {
        let request = wire::receive(&mut stream)?;
        let answer = answer(request, store, leases);
        wire::send(&mut stream, &answer)?;
    }
    Ok(())
}

fn answer(request: Request, store: &MemStore, leases: &mut Vec<LeaseId>) -> Response {
    let result = match request {
        Request::Put(key, value, lease) => store.put(&key, &value, lease).map(Response::Revision),
        Request::Get(key) => store.get(&key).map(Response::Entry),
        Request::Delete(key) => store.delete(&key).map(|()| Response::Done),
        Request::Swap(key, expected, value) => store
            .compare_and_swap(&key, expected, &value)
            .map(Response::Swap),
        Request::Changes(prefix, after, limit) => store
            .changes(&prefix, after, limit.min(MAX_WAIT))
            .map(Response::Changes),
        Request::Grant(ttl) => store.grant(ttl).map(|lease| {
            leases.push(lease);
            Response::Lease(lease)
        }),
        Request::KeepAlive(lease) => store.keep_alive(lease).map(|()| Response::Done),
        Request::Revoke(lease) => store.revoke(lease).map(|()| {
            leases.retain(|held| *held != lease);
            Response::Done
        }),
    };
    match result {
        Ok(response) => response,
        Err(StoreError::LeaseEnded { lease }) => Response::LeaseEnded(lease),
        Err(error) => Response::Refused(error.to_string()),
    }
}
