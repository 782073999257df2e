//! What the other end's address gets: packets of one traffic class, from a source port
//! for each queue pair.

use super::super::flow;
use super::{PATIENCE, TARGET, at, eventually, open, settings};
use crate::config::GroupConfig;
use crate::ids::Half;
use crate::member::agent::Connections;
use std::collections::BTreeSet;
use std::mem::zeroed;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

/// RoCE v2's (IBTA, annex 17).
const UDP_PORT: u16 = 4791;

/// One control message, as `recvmsg` lays it out.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    value: [u8; 8],
}

/// A socket in place of a NIC, which is told the type of service of what comes.
fn station(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((address, UDP_PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    rustix::net::sockopt::set_ip_recvtos(&socket, true).unwrap();
    socket
}

/// Type of service and source port of the next packet from `source`.
fn next(socket: &UdpSocket, source: Ipv4Addr) -> (u8, u16) {
    // SAFETY: all bits zero is a valid value of these structs of integers and pointers.
    let (mut from, mut control, mut message): (libc::sockaddr_in, Control, libc::msghdr) =
        unsafe { (zeroed(), zeroed(), zeroed()) };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of_val(&from) as libc::socklen_t;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: both pointers are to local values with their lengths, which outlive the call;
    // there is no room for data, which is cut off.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
    assert_eq!(u32::from_be(from.sin_addr.s_addr), source.to_bits());
    let kind = (control.header.cmsg_level, control.header.cmsg_type);
    assert_eq!(kind, (libc::IPPROTO_IP, libc::IP_TOS));
    (control.value[0], u16::from_be(from.sin_port))
}

#[test]
fn the_traffic_class_and_a_source_port_for_each_queue_pair_are_on_the_wire() {
    let class = 0x68;
    let (own, theirs) = ([127, 77, 10, 1], [127, 77, 10, 2]);
    let a = GroupConfig {
        traffic_class: class,
        ..settings(0, at(own))
    };
    let a = open(&a).unwrap();
    let b = open(&settings(1, at([127, 77, 10, 3]))).unwrap();
    // What is for `b` goes to the socket, which acknowledges nothing: so it is repeated.
    let socket = station(theirs.into());
    let mut card = b.card();
    card.nics[0].port.gid = Ipv4Addr::from(theirs).to_ipv6_mapped().octets();
    a.offer(&b).unwrap();
    let offers = b.offer(&a).unwrap();
    a.links.connect(&[(card, offers)]).unwrap();

    let port = |lane| 0xc000 | flow(a.rank, b.rank, lane);
    let mut seen = BTreeSet::new();
    // `post` uses the second queue pair only.
    a.post(b.rank, 23).unwrap();
    for _ in 0..3 {
        seen.insert(next(&socket, own.into()));
    }
    assert_eq!(seen, BTreeSet::from([(class, port(1))]));
    a.links.signal(b.rank, 0, TARGET, 24).unwrap();
    a.links.ring(b.rank, Half::Even).unwrap();
    eventually("packet of the other queue pair", || {
        seen.insert(next(&socket, own.into()));
        seen.len() > 1
    });
    assert_eq!(seen, BTreeSet::from([0, 1].map(|lane| (class, port(lane)))));
}
