//! Many datagrams in one system call.
//!
//! Linux can take up to 64 datagrams of one size as one buffer (`UDP_SEGMENT`,
//! since 4.18) and, over loopback, hand them to a receiver that asks for it the
//! same way (`UDP_GRO`, since 5.0). They are then cut up nowhere: a packet costs
//! a copy and no longer a system call. On a real network they would be cut up
//! with consecutive IPv4 identifications, which the invariant CRC covers, so
//! with IPv4 this is for loopback only; IPv6 has none.

use std::io;
use std::mem::{offset_of, size_of, size_of_val, zeroed};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::name::Name;

/// Room for one control message with an `int` in it, aligned for its header.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    value: [u8; 8],
}

/// Bytes of a control message's header and an `int`.
const INT_MESSAGE: usize = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
// The value follows the header without a gap.
const _: () = assert!(offset_of!(Control, value) == size_of::<libc::cmsghdr>());

/// Asks for datagrams as they were sent: many at a time.
///
/// # Errors
/// The system's; datagrams then come one at a time.
pub(crate) fn receive_many(socket: &UdpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an `int`, which `on` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the traffic class of IPv6 packets (`IPV6_TCLASS`).
///
/// # Errors
/// The system's.
pub(super) fn set_traffic_class(socket: &UdpSocket, class: u8) -> io::Result<()> {
    let class = libc::c_int::from(class);
    // SAFETY: the option takes an `int`, which `class` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_TCLASS,
            (&raw const class).cast(),
            size_of_val(&class) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends `bytes` as datagrams of `segment` bytes each, the last one shorter if
/// it does not divide.
///
/// # Errors
/// The system's; none of them was sent then.
pub(super) fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    bytes: &[u8],
    segment: usize,
) -> io::Result<()> {
    if bytes.len() <= segment {
        return socket.send_to(bytes, to).map(|_| ());
    }
    let size = u16::try_from(segment).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (mut name, name_len) = Name::new(to.ip(), to.port());
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of_val(&size),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        },
        value: [0; 8],
    };
    control.value[..2].copy_from_slice(&size.to_ne_bytes());
    let mut data = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all bits zero is a valid message header: nothing.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the header is to a local value, or to `bytes`,
    // which sending does not change; all outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receives datagrams of one sender into `bytes`. Returns how many bytes, from
/// where, and the size of each datagram but the last.
///
/// # Errors
/// The system's, `WouldBlock` if there is none.
pub(crate) fn receive(
    socket: &UdpSocket,
    bytes: &mut [u8],
) -> io::Result<(usize, (IpAddr, u16), usize)> {
    let mut name = Name::default();
    // SAFETY: all bits zero is a valid value of these structs of integers.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut data = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the header is to a local value, or to `bytes`,
    // with its length; all outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    let Ok(received) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    let header = &control.header;
    let is_size = message.msg_controllen >= INT_MESSAGE
        && header.cmsg_len >= INT_MESSAGE
        && header.cmsg_level == libc::SOL_UDP
        && header.cmsg_type == libc::UDP_GRO;
    let [a, b, c, d, ..] = control.value;
    let segment = usize::try_from(libc::c_int::from_ne_bytes([a, b, c, d]))
        .ok()
        .filter(|segment| is_size && *segment > 0)
        .unwrap_or(received.max(1));
    let from = name.get().ok_or(io::ErrorKind::InvalidData)?;
    Ok((received, from, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_as_they_were_cut() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let a = UdpSocket::bind(local).unwrap();
            let b = UdpSocket::bind(local).unwrap();
            let to = b.local_addr().unwrap();
            receive_many(&b).unwrap();
            let bytes: Vec<u8> = (0..5000).map(|i| (i / 7) as u8).collect();
            for segment in [1200, 2500, 5000] {
                send(&a, to, &bytes, segment).unwrap();
                let mut got = Vec::new();
                let mut buffer = vec![0; 1 << 16];
                while got.len() < bytes.len() {
                    let (len, (ip, port), size) = receive(&b, &mut buffer).unwrap();
                    assert_eq!(a.local_addr().unwrap(), SocketAddr::new(ip, port));
                    assert!(len <= segment || size == segment, "{len} {size}");
                    got.extend_from_slice(&buffer[..len]);
                }
                assert_eq!(got, bytes);
            }
        }
    }
}
