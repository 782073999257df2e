//! Ports of each kind.

use super::super::flow;
use super::{End, TARGET, at, eventually, exchange, join, open, settings, soft};
use crate::config::{GidChoice, GroupConfig, NicConfig};
use crate::error::Chain;
use crate::ids::Half;
use mlx5gda_sys::prm::Mtu;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, ipproto, recv, socket_with,
};
use soft_hca::{Config, DropReason, LinkLayer};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

fn both_ways(a: &End, b: &End) {
    join(a, b).unwrap();
    exchange(a, b, 20);
    exchange(b, a, 21);
}

fn infiniband() -> Config {
    Config {
        link_layer: LinkLayer::InfiniBand,
        ..Config::default()
    }
}

fn global(rank: u32) -> GroupConfig {
    GroupConfig {
        global_route: true,
        ..settings(rank, infiniband())
    }
}

#[test]
fn roce_over_ipv6() {
    // Loopback has one IPv6 address, so both are on one device.
    let nic = || Config {
        addresses: vec![Ipv6Addr::LOCALHOST.into()],
        ..Config::default()
    };
    let a = open(&settings(0, nic())).unwrap();
    let b = open(&settings(1, nic())).unwrap();
    assert_eq!(a.address().port.gid, Ipv6Addr::LOCALHOST.octets());
    both_ways(&a, &b);
}

#[test]
fn infiniband_with_and_without_global_route() {
    let [a, b] = [0, 1].map(|rank| open(&settings(rank, infiniband())).unwrap());
    assert_ne!(a.address().port.lid, b.address().port.lid);
    both_ways(&a, &b);
    let [c, d] = [0, 1].map(|rank| open(&global(rank)).unwrap());
    both_ways(&c, &d);
    // With the header on one side only, the other refuses what comes.
    join(&c, &b).unwrap();
    c.post(b.rank, 22).unwrap();
    c.fault(b.rank);
    let drops = b.stats().drops;
    assert!(drops.contains_key(&DropReason::WrongSource), "{drops:?}");
    assert_ne!(b.signal(), 22);
}

#[test]
fn ports_of_different_kinds_are_told_so() {
    let a = open(&settings(0, at([127, 77, 6, 1]))).unwrap();
    let b = open(&settings(1, infiniband())).unwrap();
    let error = join(&a, &b).unwrap_err().to_string();
    assert_eq!(error, "rank 1 offers no Ethernet port");
    let error = join(&b, &a).unwrap_err().to_string();
    assert_eq!(error, "rank 0 offers no InfiniBand port");
}

#[test]
fn the_smaller_mtu_of_both_ports_is_used() {
    let small = Config {
        mtu: Mtu::Bytes1024,
        ..at([127, 77, 7, 1])
    };
    let a = open(&settings(0, small)).unwrap();
    let b = open(&settings(1, at([127, 77, 7, 2]))).unwrap();
    both_ways(&a, &b);
    // 6,000 bytes in packets of 1,024 and a signal, each way.
    for end in [&a, &b] {
        assert!(end.stats().packets_out >= 7, "{:?}", end.stats());
    }
}

#[test]
fn the_address_asked_for_is_used_or_named_as_missing() {
    let with = |gid| GroupConfig {
        nics: vec![NicConfig {
            gid,
            ..soft(at([127, 77, 8, 1]))
        }],
        ..settings(0, Config::default())
    };
    let address = |text: &str| GidChoice::Address(text.parse::<IpAddr>().unwrap());
    for good in [GidChoice::Index(1), address("127.77.8.1")] {
        let port = open(&with(good)).unwrap().address().port;
        assert_eq!(Ipv6Addr::from(port.gid).to_string(), "::ffff:127.77.8.1");
    }
    let told = |gid| {
        let error = open(&with(gid)).err().unwrap();
        Chain(&error).to_string()
    };
    let text = told(address("10.0.0.1"));
    assert!(
        text.ends_with(
            "has no usable GID with address 10.0.0.1; \
             it has: 0 127.77.8.1 (RoCE v1), 1 127.77.8.1 (RoCE v2)"
        ),
        "{text}"
    );
    // The entry for RoCE v1.
    assert!(told(GidChoice::Index(0)).contains("GID with index 0"));
}

#[test]
fn the_mac_address_is_the_drivers() {
    let a = open(&settings(0, at([127, 77, 9, 1]))).unwrap();
    let domain = a.links.rdma.as_ref().unwrap().domain();
    let gid = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mac = domain.resolve_mac(gid("::ffff:127.77.9.2")).unwrap();
    // That of a single station, administered locally, as the software NIC gives them.
    assert_eq!(mac[0] & 3, 2, "{mac:?}");
    let other = domain.resolve_mac(gid("::ffff:127.77.9.3")).unwrap();
    assert_ne!(mac, other);
}

/// What UDP brings to an address, IP headers included. `None` without the privilege.
fn capture(address: Ipv4Addr) -> Option<OwnedFd> {
    let (family, flags) = (AddressFamily::INET, SocketFlags::NONBLOCK);
    let socket = match socket_with(family, SocketType::RAW, flags, Some(ipproto::UDP)) {
        Err(Errno::PERM | Errno::ACCESS) => return None,
        other => other.unwrap(),
    };
    bind(&socket, &SocketAddrV4::new(address, 0)).unwrap();
    Some(socket)
}

/// Type of service and UDP source port of what has come from `source` since.
fn seen(socket: &OwnedFd, source: Ipv4Addr) -> BTreeSet<(u8, u16)> {
    let mut seen = BTreeSet::new();
    let mut packet = vec![0; 65536];
    while let Ok((_, len)) = recv(socket, &mut packet[..], RecvFlags::empty()) {
        // The header's length is counted in words (RFC 791); ports come behind it.
        let udp = usize::from(packet[0] & 15) * 4;
        if len >= udp + 8 && packet[12..16] == source.octets() {
            let port = u16::from_be_bytes([packet[udp], packet[udp + 1]]);
            seen.insert((packet[1], port));
        }
    }
    seen
}

#[test]
fn the_traffic_class_and_a_source_port_for_each_queue_pair_are_on_the_wire() {
    let class = 0x68;
    let with = |rank, nic| GroupConfig {
        traffic_class: class,
        ..settings(rank, nic)
    };
    let places = [[127, 77, 10, 1], [127, 77, 10, 2]];
    let a = open(&with(0, at(places[0]))).unwrap();
    let b = open(&with(1, at(places[1]))).unwrap();
    join(&a, &b).unwrap();
    let [own, theirs] = places.map(Ipv4Addr::from);
    let Some(socket) = capture(theirs) else {
        eprintln!("skipped: no privilege to open a raw socket");
        return;
    };
    exchange(&a, &b, 23);
    let port = |lane| 0xc000 | flow(a.rank, b.rank, lane);
    // `exchange` uses the second queue pair only.
    assert_eq!(seen(&socket, own), BTreeSet::from([(class, port(1))]));
    a.links.signal(b.rank, 0, TARGET, 24).unwrap();
    a.links.ring(b.rank, Half::Even).unwrap();
    eventually("completion", || a.done(b.rank).unwrap());
    assert_eq!(seen(&socket, own), BTreeSet::from([(class, port(0))]));
}
