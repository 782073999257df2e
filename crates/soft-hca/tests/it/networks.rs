//! Ports of every kind.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::Syndrome;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::{Config, DropReason, LinkLayer};

use crate::client::{Client, Pair};
use crate::namespace::with_addresses;

fn on(address: &str) -> Client {
    Client::new(Config {
        addresses: vec![address.parse().unwrap()],
        ..Config::default()
    })
}

fn on_infiniband(routed: bool) -> Client {
    let mut client = Client::new(Config {
        link_layer: LinkLayer::InfiniBand,
        ..Config::default()
    });
    client.routed = routed;
    client
}

fn local(client: &Client, offset: u64, len: u32) -> DataPtr {
    DataPtr {
        addr: client.address() + offset,
        lkey: client.key(),
        len,
    }
}

fn remote(client: &Client) -> Remote {
    Remote {
        addr: client.address(),
        rkey: client.key(),
    }
}

/// A write of many packets, an atomic and a read, and no packet is refused.
fn exchange(pair: &mut Pair) {
    let data: Vec<u8> = (0..50_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    pair.a.store(64, &data);
    pair.b.word(0).store(5, Ordering::Release);
    let Pair {
        a, b, cq_a, qp_a, ..
    } = pair;
    let to = Remote {
        addr: b.address() + 64,
        ..remote(b)
    };
    let write = Wqe::rdma_write(a.signalled(qp_a), to, &[local(a, 64, 50_000)], None).unwrap();
    a.post(qp_a, &write);
    let add = Wqe::fetch_add(a.signalled(qp_a), remote(b), local(a, 0, 8), 3).unwrap();
    a.post(qp_a, &add);
    let read = Wqe::rdma_read(a.signalled(qp_a), to, &[local(a, 100_000, 50_000)]).unwrap();
    let last = qp_a.posted;
    a.post(qp_a, &read);
    assert_eq!(a.wait(cq_a, last), Ok(()));
    assert_eq!(b.load(64, data.len()), data);
    assert_eq!(a.load(100_000, data.len()), data);
    assert_eq!(a.word(0).load(Ordering::Acquire), 5);
    assert_eq!(b.word(0).load(Ordering::Acquire), 8);
    for client in [a, b] {
        let stats = soft_hca::stats(&client.name).unwrap();
        assert!(stats.drops.is_empty(), "{:?}", stats.drops);
        assert!(stats.packets_in > 0);
    }
}

#[test]
fn roce_over_ipv6() {
    with_addresses(&["fd00:4791::1", "fd00:4791::2"], || {
        let (a, b) = (on("fd00:4791::1"), on("fd00:4791::2"));
        let gid: IpAddr = "fd00:4791::2".parse().unwrap();
        assert_eq!(IpAddr::from(b.gid), gid);
        exchange(&mut Pair::between(a, b, Mtu::Bytes1024, 6, true));
    });
}

#[test]
fn roce_on_the_one_ipv6_address_of_loopback() {
    with_addresses(&[], || {
        // Two contexts of one device: it sends to itself.
        let (a, b) = (on("::1"), on("::1"));
        assert_eq!(a.name, b.name);
        exchange(&mut Pair::between(a, b, Mtu::Bytes4096, 6, true));
    });
}

#[test]
fn infiniband_with_and_without_a_global_route_header() {
    for routed in [false, true] {
        let [a, b] = [(); 2].map(|()| on_infiniband(routed));
        assert!(a.lid != 0 && b.lid != 0 && a.lid != b.lid);
        assert_eq!(a.gid[..8], [0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
        exchange(&mut Pair::between(a, b, Mtu::Bytes1024, 6, true));
    }
}

#[test]
fn a_global_route_header_that_is_not_expected_is_refused() {
    let [a, b] = [true, false].map(on_infiniband);
    let mut pair = Pair::between(a, b, Mtu::Bytes1024, 6, true);
    let post = pair.a.signalled(&pair.qp_a);
    let write = Wqe::rdma_write_inline(post, remote(&pair.b), &[1; 8], None).unwrap();
    pair.a.post(&mut pair.qp_a, &write);
    let error = (0, Syndrome::TransportRetryExceeded);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Err(error));
    assert_eq!(pair.b.word(0).load(Ordering::Acquire), 0);
    let stats = soft_hca::stats(&pair.b.name).unwrap();
    assert!(stats.drops.get(&DropReason::WrongSource).copied() >= Some(8));
}

#[test]
fn an_address_keeps_its_link_layer() {
    let config = |link_layer| Config {
        addresses: vec!["127.128.77.9".parse().unwrap()],
        link_layer,
        ..Config::default()
    };
    let client = Client::new(config(LinkLayer::InfiniBand));
    assert_eq!(client.lid, 77 << 8 | 9);
    let refused = soft_hca::fn_table(config(LinkLayer::Ethernet)).map(|_| ());
    assert!(matches!(refused, Err(soft_hca::Error::LinkLayer { .. })));
    let outside = Config {
        addresses: vec!["127.9.9.9".parse().unwrap()],
        ..config(LinkLayer::InfiniBand)
    };
    let refused = soft_hca::fn_table(outside).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "127.9.9.9 has no LID");
}

#[test]
fn nobody_is_waited_for_behind_an_unused_lid() {
    let mut a = on_infiniband(false);
    let cq = a.cq(4, true);
    let mut qp = a.qp(&cq, 4);
    let mut peer = a.end(&qp, 0, Mtu::Bytes1024);
    peer.lid = if a.lid == 1 { 2 } else { a.lid - 1 };
    a.connect(&qp, 0, &peer);
    let started = Instant::now();
    let write = Wqe::rdma_write_inline(a.signalled(&qp), remote(&a), &[1; 8], None).unwrap();
    a.post(&mut qp, &write);
    let error = (0, Syndrome::TransportRetryExceeded);
    assert_eq!(a.wait(&cq, 0), Err(error));
    assert!(started.elapsed() < Duration::from_secs(5));
}
