//! UDP sockets.

pub(crate) mod batch;
mod delay;
mod log;
mod name;
mod port;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ip_tos,
    set_ipv6_mtu_discover, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force,
    set_socket_send_buffer_size,
};

pub(crate) use delay::DelayLine;
pub(crate) use port::{Link, Path, Port};

use crate::wire::{Flow, UDP_PORT};

/// Bytes asked for in each direction; the system gives what it allows.
const BUFFER_BYTES: usize = 8 << 20;
/// Sending sockets kept; further source ports share the port's own socket.
const MAX_SENDERS: usize = 64;

/// Binds a non-blocking socket with large buffers. *Do not fragment* makes
/// Linux send IPv4 identification zero, which the invariant CRC covers, and no
/// IPv6 fragment headers.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
    }
    if set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        set_socket_recv_buffer_size(&socket, BUFFER_BYTES)?;
    }
    set_socket_send_buffer_size(&socket, BUFFER_BYTES)?;
    if let Err(error) = batch::receive_many(&socket) {
        tracing::debug!(%error, "datagrams are received one by one");
    }
    Ok(socket)
}

fn set_traffic_class(socket: &UdpSocket, address: IpAddr, class: u8) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => Ok(set_ip_tos(socket, class)?),
        IpAddr::V6(_) => batch::set_traffic_class(socket, class),
    }
}

/// Whether datagrams to this address may be handed over many at a time.
const fn batchable(remote: IpAddr) -> bool {
    match remote {
        IpAddr::V4(remote) => remote.is_loopback(),
        IpAddr::V6(_) => true,
    }
}

/// A socket for one source port and traffic class.
#[derive(Debug)]
struct Sender {
    /// `None` if the source port could not be had.
    socket: Option<UdpSocket>,
}

/// The sending sockets of one port.
#[derive(Debug)]
pub(crate) struct Senders<'a> {
    address: IpAddr,
    own: &'a UdpSocket,
    by_port: HashMap<(u16, u8), Sender>,
    /// Whether datagrams are sent many at a time where that may be.
    batching: bool,
    batch: Batch,
}

impl<'a> Senders<'a> {
    pub(crate) fn new(address: IpAddr, own: &'a UdpSocket, batching: bool) -> Self {
        Self {
            address,
            own,
            by_port: HashMap::new(),
            batching,
            batch: Batch::default(),
        }
    }

    /// The socket that sends from `port` with this traffic class, and the
    /// source port that it really has.
    fn socket(&mut self, port: u16, traffic_class: u8) -> (&UdpSocket, u16) {
        let key = (port, traffic_class);
        if port == 0 || port == UDP_PORT {
            return (self.own, UDP_PORT);
        }
        if !self.by_port.contains_key(&key) && self.by_port.len() < MAX_SENDERS {
            let socket = bind(SocketAddr::new(self.address, port))
                .inspect_err(|error| tracing::debug!(port, %error, "source port not to be had"))
                .ok();
            if let Some(socket) = &socket
                && let Err(error) = set_traffic_class(socket, self.address, traffic_class)
            {
                tracing::debug!(traffic_class, %error, "traffic class not set");
            }
            self.by_port.insert(key, Sender { socket });
        }
        match self
            .by_port
            .get(&key)
            .and_then(|entry| entry.socket.as_ref())
        {
            Some(socket) => (socket, port),
            None => (self.own, UDP_PORT),
        }
    }

    /// What the invariant CRC of a packet on this path has to cover.
    pub(crate) fn flow(&mut self, path: &Path) -> Flow {
        let (_, src_port) = self.socket(path.src_port, path.traffic_class);
        Flow {
            src: self.address,
            dst: path.remote,
            src_port,
        }
    }

    /// Sends a datagram made for [`Senders::flow`], now or with the next
    /// [`Senders::flush`]. Returns datagrams that the system did not take.
    pub(crate) fn send(&mut self, path: &Path, datagram: &[u8]) -> u64 {
        log::sent(|| self.flow(path), datagram);
        let way = Way {
            remote: path.remote,
            port: path.src_port,
            traffic_class: path.traffic_class,
        };
        let mut lost = 0;
        if self.batch.is_full(&way, datagram.len()) {
            lost = self.flush();
        }
        self.batch.push(way, datagram);
        if !self.batching || !batchable(way.remote) {
            lost += self.flush();
        }
        lost
    }

    /// Sends what has been collected. Returns datagrams that the system did
    /// not take.
    pub(crate) fn flush(&mut self) -> u64 {
        let Some(way) = self.batch.way else {
            return 0;
        };
        let batch = std::mem::take(&mut self.batch);
        let (socket, _) = self.socket(way.port, way.traffic_class);
        let to = SocketAddr::new(way.remote, UDP_PORT);
        let result = batch::send(socket, to, &batch.bytes, batch.segment);
        let mut lost = 0;
        if let Err(error) = result {
            if batch.count > 1 && error.raw_os_error() != Some(libc::EAGAIN) {
                tracing::debug!(%error, "datagrams are sent one by one from now on");
                self.batching = false;
                let (socket, _) = self.socket(way.port, way.traffic_class);
                for datagram in batch.bytes.chunks(batch.segment) {
                    lost += u64::from(socket.send_to(datagram, to).is_err());
                }
            } else {
                tracing::trace!(%to, %error, "not sent");
                lost = batch.count;
            }
        }
        // The memory is used again.
        self.batch = Batch {
            way: None,
            count: 0,
            segment: 0,
            short: false,
            bytes: batch.bytes,
        };
        self.batch.bytes.clear();
        lost
    }
}

/// From where to where.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Way {
    remote: IpAddr,
    port: u16,
    traffic_class: u8,
}

/// Datagrams of one size, the last one possibly shorter, that go the same way.
#[derive(Debug, Default)]
struct Batch {
    way: Option<Way>,
    count: u64,
    /// Bytes of each but the last.
    segment: usize,
    /// The last one is shorter: nothing can follow.
    short: bool,
    bytes: Vec<u8>,
}

impl Batch {
    /// Whether a datagram has to wait for the next batch.
    fn is_full(&self, way: &Way, len: usize) -> bool {
        /// Segments that every kernel with this feature takes.
        const MAX_SEGMENTS: u64 = 64;
        /// Bytes of the largest datagram, headers left out.
        const MAX_BYTES: usize = 65_000;
        self.way.is_some_and(|mine| mine != *way)
            || (self.count > 0
                && (self.short
                    || len > self.segment
                    || self.count == MAX_SEGMENTS
                    || self.bytes.len() + len > MAX_BYTES))
    }

    fn push(&mut self, way: Way, datagram: &[u8]) {
        if self.count == 0 {
            self.way = Some(way);
            self.segment = datagram.len();
        }
        self.short = datagram.len() < self.segment;
        self.count += 1;
        self.bytes.extend_from_slice(datagram);
    }
}
