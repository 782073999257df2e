//! UDP sockets.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_ip_tos, set_socket_recv_buffer_size,
    set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
};

use crate::wire::{Flow, UDP_PORT};

/// Bytes asked for in each direction; the system gives what it allows.
const BUFFER_BYTES: usize = 8 << 20;
/// Sending sockets kept; further source ports share the port's own socket.
const MAX_SENDERS: usize = 64;

/// Binds a non-blocking socket with large buffers. *Do not fragment* makes
/// Linux send IPv4 identification zero, which the invariant CRC covers.
pub(crate) fn bind(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    if set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        set_socket_recv_buffer_size(&socket, BUFFER_BYTES)?;
    }
    set_socket_send_buffer_size(&socket, BUFFER_BYTES)?;
    Ok(socket)
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
    address: Ipv4Addr,
    own: &'a UdpSocket,
    by_port: HashMap<(u16, u8), Sender>,
}

impl<'a> Senders<'a> {
    pub(crate) fn new(address: Ipv4Addr, own: &'a UdpSocket) -> Self {
        Self {
            address,
            own,
            by_port: HashMap::new(),
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
            let socket = bind(SocketAddrV4::new(self.address, port))
                .inspect_err(|error| tracing::debug!(port, %error, "source port not to be had"))
                .ok();
            if let Some(socket) = &socket
                && let Err(error) = set_ip_tos(socket, traffic_class)
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

    /// What the invariant CRC of a packet to `remote` has to cover.
    pub(crate) fn flow(&mut self, remote: Ipv4Addr, port: u16, traffic_class: u8) -> Flow {
        let (_, src_port) = self.socket(port, traffic_class);
        Flow {
            src: self.address,
            dst: remote,
            src_port,
        }
    }

    /// Sends a datagram made for [`Senders::flow`].
    ///
    /// # Errors
    /// The system's; the datagram is lost then.
    pub(crate) fn send(
        &mut self,
        remote: Ipv4Addr,
        port: u16,
        traffic_class: u8,
        datagram: &[u8],
    ) -> io::Result<()> {
        let (socket, _) = self.socket(port, traffic_class);
        socket
            .send_to(datagram, SocketAddrV4::new(remote, UDP_PORT))
            .map(|_| ())
    }
}
