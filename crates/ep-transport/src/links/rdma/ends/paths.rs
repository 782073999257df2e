//! Ports of each kind.

use super::{End, at, exchange, join, open, settings, soft};
use crate::config::{GidChoice, GroupConfig, NicConfig};
use crate::error::Chain;
use mlx5gda_sys::prm::Mtu;
use soft_hca::{Config, DropReason, LinkLayer};
use std::net::{IpAddr, Ipv6Addr};

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
