//! Work requests between two devices in one process.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::prm::{Mtu, QpState};
use mlx5gda_sys::wqe::{DataPtr, Post, Remote, Wqe};
use soft_hca::{Config, DropReason, Faults};

use crate::client::{Client, DATA, Pair};

fn local(client: &Client, offset: u64, len: u32) -> DataPtr {
    DataPtr {
        addr: client.address() + offset,
        lkey: client.key(),
        len,
    }
}

fn remote(client: &Client, offset: u64) -> Remote {
    Remote {
        addr: client.address() + offset,
        rkey: client.key(),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn a_write_arrives_and_is_reported() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    let data = pattern(100_000);
    pair.a.store(0, &data);
    let wqe = Wqe::rdma_write(
        pair.a.signalled(&pair.qp_a),
        remote(&pair.b, 3),
        &[local(&pair.a, 0, 60_001), local(&pair.a, 60_001, 39_999)],
        None,
    )
    .unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Ok(()));
    assert_eq!(pair.b.load(3, data.len()), data);
    assert_eq!(pair.b.load(0, 3), [0; 3]);
    assert_eq!(pair.b.load(3 + data.len(), 8), [0; 8]);
    let stats = soft_hca::stats(&pair.a.name).unwrap();
    assert_eq!(stats.drops.get(&DropReason::Icrc), None);
    assert!(stats.packets_out >= 98);
}

#[test]
fn an_inline_flag_follows_its_payload() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, true);
    let flag = pair.b.word(DATA - 8);
    for epoch in 1..=500u64 {
        let data = vec![epoch as u8; 9000];
        pair.a.store(0, &data);
        let unsignalled = Post {
            signalled: false,
            ..pair.a.signalled(&pair.qp_a)
        };
        let write = Wqe::rdma_write(
            unsignalled,
            remote(&pair.b, 0),
            &[local(&pair.a, 0, 9000)],
            None,
        )
        .unwrap();
        pair.a.place(&mut pair.qp_a, &write);
        let signal = Wqe::rdma_write_inline(
            pair.a.signalled(&pair.qp_a),
            remote(&pair.b, DATA as u64 - 8),
            &epoch.to_ne_bytes(),
            None,
        )
        .unwrap();
        let index = pair.qp_a.posted;
        pair.a.post(&mut pair.qp_a, &signal);
        let until = Instant::now() + Duration::from_secs(10);
        while flag.load(Ordering::Acquire) != epoch {
            assert!(Instant::now() < until, "epoch {epoch} missing");
            std::thread::yield_now();
        }
        assert_eq!(pair.b.load(0, 9000), data);
        assert_eq!(pair.a.wait(&pair.cq_a, index), Ok(()));
    }
}

#[test]
fn reads_and_atomics_work() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, false);
    let data = pattern(50_000);
    pair.b.store(0, &data);
    pair.b.word(65_536).store(40, Ordering::Release);
    let read = Wqe::rdma_read(
        pair.a.signalled(&pair.qp_a),
        remote(&pair.b, 0),
        &[local(&pair.a, 1000, 50_000)],
    )
    .unwrap();
    pair.a.post(&mut pair.qp_a, &read);
    let add = Wqe::fetch_add(
        pair.a.signalled(&pair.qp_a),
        remote(&pair.b, 65_536),
        local(&pair.a, 65_536, 8),
        2,
    )
    .unwrap();
    pair.a.post(&mut pair.qp_a, &add);
    let swap = Wqe::compare_swap(
        pair.a.signalled(&pair.qp_a),
        remote(&pair.b, 65_536),
        local(&pair.a, 65_544, 8),
        42,
        7,
    )
    .unwrap();
    pair.a.post(&mut pair.qp_a, &swap);
    for (index, len) in [(0, 50_000), (1, 8), (2, 8)] {
        let cqe = pair.a.next(&mut pair.cq_a);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::Req));
        assert_eq!((cqe.wqe_counter(), cqe.byte_cnt()), (index, len));
    }
    assert_eq!(pair.a.load(1000, data.len()), data);
    assert_eq!(pair.a.word(65_536).load(Ordering::Acquire), 40);
    assert_eq!(pair.a.word(65_544).load(Ordering::Acquire), 42);
    assert_eq!(pair.b.word(65_536).load(Ordering::Acquire), 7);
}

#[test]
fn queue_pairs_that_share_a_doorbell_lose_nothing() {
    let mut a = Client::new(Config::default());
    let mut b = Client::new(Config::default());
    let cq_a = a.cq(6, true);
    let cq_b = b.cq(6, true);
    let mut pairs = Vec::new();
    for n in 0..8 {
        let qp_a = a.qp(&cq_a, 6);
        let qp_b = b.qp(&cq_b, 6);
        a.connect(&qp_a, n, &b.end(&qp_b, n, Mtu::Bytes4096));
        b.connect(&qp_b, n, &a.end(&qp_a, n, Mtu::Bytes4096));
        pairs.push(qp_a);
    }
    for round in 1..=200u64 {
        for (n, qp) in pairs.iter_mut().enumerate() {
            let post = a.signalled(qp);
            let to = remote(&b, n as u64 * 8);
            let wqe = Wqe::rdma_write_inline(post, to, &round.to_ne_bytes(), None).unwrap();
            a.post(qp, &wqe);
        }
        let until = Instant::now() + Duration::from_secs(10);
        for n in 0..8 {
            while b.word(n * 8).load(Ordering::Acquire) != round {
                assert!(Instant::now() < until, "round {round}, queue pair {n}");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_bad_key_fails_both_ends_and_flushes_the_rest() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, false);
    let bad = Remote {
        rkey: pair.b.key() ^ 1,
        ..remote(&pair.b, 0)
    };
    let post = pair.a.signalled(&pair.qp_a);
    let wqe = Wqe::rdma_write_inline(post, bad, &[1; 8], None).unwrap();
    pair.a.place(&mut pair.qp_a, &wqe);
    for _ in 0..2 {
        let post = Post {
            signalled: false,
            ..pair.a.signalled(&pair.qp_a)
        };
        let wqe = Wqe::rdma_write_inline(post, remote(&pair.b, 0), &[1; 8], None).unwrap();
        pair.a.place(&mut pair.qp_a, &wqe);
    }
    pair.a.ring(&pair.qp_a, &wqe);
    let expected = [Syndrome::RemoteAccess, Syndrome::WrFlush, Syndrome::WrFlush];
    for (index, syndrome) in (0..).zip(expected) {
        let cqe = pair.a.next(&mut pair.cq_a);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr));
        assert_eq!((cqe.wqe_counter(), cqe.syndrome()), (index, syndrome));
    }
    assert_eq!(pair.b.word(0).load(Ordering::Acquire), 0);
    for (client, qp) in [(&pair.a, &pair.qp_a), (&pair.b, &pair.qp_b)] {
        assert_eq!(client.context_of(qp).state(), QpState::Err.code());
    }
    // What is posted to a queue pair in error is flushed too.
    let wqe = Wqe::nop(pair.a.signalled(&pair.qp_a)).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    let cqe = pair.a.next(&mut pair.cq_a);
    assert_eq!((cqe.wqe_counter(), cqe.syndrome()), (3, Syndrome::WrFlush));
}

#[test]
fn a_dead_peer_is_noticed_and_the_queue_pair_is_used_again() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, true);
    pair.b.close();
    let post = pair.a.signalled(&pair.qp_a);
    let wqe = Wqe::rdma_write_inline(post, remote(&pair.b, 0), &[1; 8], None).unwrap();
    let started = Instant::now();
    pair.a.post(&mut pair.qp_a, &wqe);
    let error = (0, Syndrome::TransportRetryExceeded);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Err(error));
    // Eight tries of 67 ms each.
    let took = started.elapsed();
    assert!(
        took > Duration::from_millis(500) && took < Duration::from_secs(5),
        "{took:?}"
    );

    let number = pair.qp_a.number;
    pair.a.reset(&mut pair.qp_a);
    pair.a.forget(&pair.cq_a);
    let state = pair.a.context_of(&pair.qp_a).state();
    assert_eq!(state, QpState::Rst.code());
    let mut successor = Client::new(Config::default());
    let cq = successor.cq(6, true);
    let qp = successor.qp(&cq, 6);
    let end = successor.end(&qp, 7, Mtu::Bytes4096);
    pair.a.connect(&pair.qp_a, 9, &end);
    let end = pair.a.end(&pair.qp_a, 9, Mtu::Bytes4096);
    successor.connect(&qp, 7, &end);
    assert_eq!(pair.qp_a.number, number);
    for index in 0..200u16 {
        let value = u64::from(index) + 1;
        let post = pair.a.signalled(&pair.qp_a);
        let to = remote(&successor, 0);
        let wqe = Wqe::rdma_write_inline(post, to, &value.to_ne_bytes(), None).unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        assert_eq!(pair.a.wait(&pair.cq_a, index), Ok(()));
        assert_eq!(successor.word(0).load(Ordering::Acquire), value);
    }
}

#[test]
fn loss_is_repaired() {
    let mut pair = Pair::new(Mtu::Bytes1024, 8, true);
    for (client, seed) in [(&pair.a, 1), (&pair.b, 2)] {
        let faults = Faults {
            loss: 0.02,
            seed,
            ..Faults::default()
        };
        soft_hca::set_faults(&client.name, faults).unwrap();
    }
    let data = pattern(200_000);
    pair.a.store(0, &data);
    for round in 0..10 {
        let wqe = Wqe::rdma_write(
            pair.a.signalled(&pair.qp_a),
            remote(&pair.b, 0),
            &[local(&pair.a, 0, 200_000)],
            None,
        )
        .unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        assert_eq!(pair.a.wait(&pair.cq_a, round), Ok(()));
        assert_eq!(pair.b.load(0, data.len()), data);
        pair.b.store(0, &vec![0; data.len()]);
    }
    let stats = soft_hca::stats(&pair.a.name).unwrap();
    assert!(stats.drops.get(&DropReason::Injected).copied() > Some(0));
    assert!(stats.retransmits > 0);
}
