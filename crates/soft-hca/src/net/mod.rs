//! UDP sockets.

pub(crate) mod batch;
mod collect;
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
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use collect::{Collected, Way};
pub(crate) use delay::DelayLine;
pub(crate) use port::{Link, Path, Port};

use crate::wire::{Flow, UDP_PORT};

/// Bytes asked for in each direction; the system gives what it allows.
const BUFFER_BYTES: usize = 8 << 20;
/// Sending sockets kept; further source ports share the port's own socket.
const MAX_SENDERS: usize = 64;

/// A bound socket, see [`unbound`].
fn bind_new(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address.ip())?;
    bind(&socket, address)?;
    Ok(socket)
}

/// Binds a socket.
pub(crate) fn bind(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    Ok(rustix::net::bind(socket, &address)?)
}

/// A non-blocking socket with large buffers. *Do not fragment* makes
/// Linux send IPv4 identification zero, which the invariant CRC covers, and no
/// IPv6 fragment headers.
pub(crate) fn unbound(address: IpAddr) -> io::Result<UdpSocket> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = UdpSocket::from(socket_with(family, SocketType::DGRAM, flags, None)?);
    match address {
        IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
        IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
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
    batch: Collected,
}

impl<'a> Senders<'a> {
    pub(crate) fn new(address: IpAddr, own: &'a UdpSocket, batching: bool) -> Self {
        Self {
            address,
            own,
            by_port: HashMap::new(),
            batching,
            batch: Collected::default(),
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
            let socket = bind_new(SocketAddr::new(self.address, port))
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

    /// Where the next datagram is made: at the end of this, and in place.
    /// [`Senders::finish`] or [`Senders::discard`] comes next.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.batch.bytes
    }

    /// The datagram that is being made.
    pub(crate) fn open(&mut self) -> &mut [u8] {
        self.batch.open()
    }

    /// Throws away the datagram that is being made.
    pub(crate) fn discard(&mut self) {
        self.batch.discard();
    }

    /// Sends the datagram that was made for [`Senders::flow`], now or with the
    /// next [`Senders::flush`]. Returns datagrams that the system did not take.
    pub(crate) fn finish(&mut self, path: &Path) -> u64 {
        if log::wanted() {
            let flow = self.flow(path);
            log::sent(&flow, self.batch.open());
        }
        let way = Way::from(path);
        let mut lost = 0;
        if self.batch.is_full(&way) {
            lost = self.flush();
        }
        self.batch.accept(way);
        if !self.batching || !batchable(way.remote) {
            lost += self.flush();
        }
        lost
    }

    /// Sends a datagram that was made before.
    pub(crate) fn send(&mut self, path: &Path, datagram: &[u8]) -> u64 {
        self.batch.bytes.extend_from_slice(datagram);
        self.finish(path)
    }

    /// Sends what has been collected. Returns datagrams that the system did
    /// not take.
    pub(crate) fn flush(&mut self) -> u64 {
        let Some(way) = self.batch.way else {
            return 0;
        };
        let mut batch = std::mem::take(&mut self.batch);
        let (socket, _) = self.socket(way.port, way.traffic_class);
        let to = SocketAddr::new(way.remote, UDP_PORT);
        let result = batch::send(socket, to, batch.complete(), batch.segment);
        let mut lost = 0;
        if let Err(error) = result {
            if batch.count > 1 && error.raw_os_error() != Some(libc::EAGAIN) {
                tracing::debug!(%error, "datagrams are sent one by one from now on");
                self.batching = false;
                let (socket, _) = self.socket(way.port, way.traffic_class);
                for datagram in batch.complete().chunks(batch.segment) {
                    lost += u64::from(socket.send_to(datagram, to).is_err());
                }
            } else {
                tracing::trace!(%to, %error, "not sent");
                lost = batch.count;
            }
        }
        batch.sent();
        self.batch = batch;
        lost
    }
}
