//! Serves a [`MemStore`] over TCP, one thread for each connection.

use super::channel::{Channel, Fault, Side, fill_random};
use super::sessions::Sessions;
use super::wire::{Call, Request, Response, StoreId};
use super::{MemStore, StoreError};
use crate::error::Chain;
use crate::secret::Secret;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client may take to say hello, to finish a message or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the acceptor looks whether it is to stop.
const ACCEPT_PERIOD: Duration = Duration::from_millis(20);
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: usize = 8192;

/// A store served to other processes until it is dropped. That takes a moment, whatever
/// clients wait for or leave unread.
#[derive(Debug)]
pub struct TcpStoreServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    store: MemStore,
    sessions: Sessions,
    id: StoreId,
    secret: Option<Secret>,
    stop: AtomicBool,
}

impl TcpStoreServer {
    /// Listens at `address`; port 0 takes any free one. Whoever reaches the address
    /// can read and write the store.
    ///
    /// # Errors
    /// [`StoreError::Bind`] if the address is in use or not of this machine.
    pub fn bind(address: &str) -> Result<Self, StoreError> {
        Self::bind_with_secret(address, None)
    }

    /// Listens at `address`, for clients that know the secret if there is one.
    ///
    /// # Errors
    /// [`StoreError::Bind`] if the address is in use or not of this machine.
    pub fn bind_with_secret(address: &str, secret: Option<Secret>) -> Result<Self, StoreError> {
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
        let mut id = StoreId([0; 16]);
        fill_random(&mut id.0).map_err(bind)?;
        let shared = Arc::new(Shared {
            store: MemStore::new(),
            sessions: Sessions::default(),
            id,
            secret,
            stop: AtomicBool::new(false),
        });
        let acceptor = std::thread::Builder::new()
            .name("store-accept".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || accept(&listener, &shared)
            })
            .map_err(bind)?;
        Ok(Self {
            shared,
            address,
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
        self.shared.store.clone()
    }
}

impl Drop for TcpStoreServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    let mut swept = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        if swept.elapsed() >= SWEEP_PERIOD {
            swept = Instant::now();
            connections.retain(|(_, thread)| !thread.is_finished());
            shared.sessions.sweep(&shared.store);
        }
        let Some((stream, peer)) = next(listener) else {
            continue;
        };
        if connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(%peer, limit = MAX_CONNECTIONS, "store refuses a connection: too many");
            continue;
        }
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("store-serve".into())
            .spawn(move || serve(stream, peer, &shared));
        if let Ok(thread) = thread {
            connections.push((handle, thread));
        }
    }
    // All of them first: what its thread does with one then ends at once.
    for (stream, _) in &connections {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for (_, thread) in connections {
        let _ = thread.join();
    }
}

/// The next connection, if one comes within the period.
fn next(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept() {
        Ok(accepted) => return Some(accepted),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let timeout = Timespec::try_from(ACCEPT_PERIOD).ok();
            // A client that comes back has little time: its arrival ends the wait.
            let _ = poll(
                &mut [PollFd::new(listener, PollFlags::IN)],
                timeout.as_ref(),
            );
        }
        // No descriptors, say.
        Err(_) => std::thread::sleep(ACCEPT_PERIOD),
    }
    None
}

fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) {
    let tell = |fault: Fault| {
        let error = fault.at(&peer.to_string());
        if matches!(error, StoreError::Unauthenticated { .. }) {
            tracing::warn!(%peer, error = %Chain(&error), "store refuses a client");
        } else {
            tracing::debug!(%peer, error = %Chain(&error), "store connection ended");
        }
    };
    let (mut channel, call) = match welcome(stream, shared) {
        Ok(welcomed) => welcomed,
        Err(fault) => return tell(fault),
    };
    let Request::Join(token) = call.request else {
        return tell(Fault::Bad("it does not join first".into()));
    };
    let session = shared.sessions.join(token);
    let mut answer = Response::Joined(shared.id);
    let fault = loop {
        let by = Instant::now() + PATIENCE;
        let call = match channel.send(&answer, by) {
            Ok(()) => channel.receive::<Call>(None, PATIENCE),
            Err(fault) => Err(fault),
        };
        match call {
            Ok(call) => {
                let over = || shared.stop.load(Ordering::SeqCst) || channel.is_over();
                answer = session.answer(call, &shared.store, &over);
            }
            Err(fault) => break fault,
        }
    };
    let closed = fault.closed_by_peer();
    // The client must see the end of this connection even if the session stays, and the
    // acceptor still has a handle to it.
    let _ = channel.stream().shutdown(Shutdown::Both);
    drop(channel);
    tell(fault);
    // What this side has ended says nothing about the client.
    if !shared.stop.load(Ordering::SeqCst) {
        shared.sessions.part(token, closed, &shared.store);
    }
}

fn welcome(stream: TcpStream, shared: &Shared) -> Result<(Channel, Call), Fault> {
    let deadline = Instant::now() + PATIENCE;
    stream.set_nonblocking(false)?;
    let secret = shared.secret.as_ref();
    let mut channel = Channel::establish(stream, Side::Store, secret, deadline)?;
    let call = channel.receive(Some(deadline), PATIENCE)?;
    Ok((channel, call))
}
