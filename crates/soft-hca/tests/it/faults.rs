//! Faults on purpose: what was promised still holds.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::Syndrome;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::{DropReason, Faults, Outage, Stats};

use crate::client::Pair;

const LEN: usize = 60_000;

fn set(pair: &Pair, faults: Faults) {
    for (client, seed) in [(&pair.a, 11), (&pair.b, 12)] {
        soft_hca::set_faults(&client.name, Faults { seed, ..faults }).unwrap();
    }
}

fn both(pair: &Pair, count: impl Fn(&Stats) -> u64) -> u64 {
    [&pair.a, &pair.b]
        .map(|client| count(&soft_hca::stats(&client.name).unwrap()))
        .iter()
        .sum()
}

fn dropped(reason: DropReason) -> impl Fn(&Stats) -> u64 {
    move |stats| stats.drops.get(&reason).copied().unwrap_or(0)
}

/// Rounds of a long write and an atomic; the data is right and the atomics were
/// executed once each.
fn work(pair: &mut Pair, rounds: u64) {
    for round in 0..rounds {
        let data: Vec<u8> = (0..LEN as u64)
            .map(|i| (i * 31 + i / 251 + round * 7) as u8)
            .collect();
        let Pair {
            a, b, cq_a, qp_a, ..
        } = pair;
        a.store(64, &data);
        let from = DataPtr {
            addr: a.address() + 64,
            lkey: a.key(),
            len: LEN as u32,
        };
        let to = Remote {
            addr: b.address() + 64,
            rkey: b.key(),
        };
        let write = Wqe::rdma_write(a.signalled(qp_a), to, &[from], None).unwrap();
        a.post(qp_a, &write);
        let counter = Remote {
            addr: b.address(),
            ..to
        };
        let found = DataPtr {
            addr: a.address(),
            len: 8,
            ..from
        };
        let add = Wqe::fetch_add(a.signalled(qp_a), counter, found, 1).unwrap();
        let last = qp_a.posted;
        a.post(qp_a, &add);
        assert_eq!(a.wait(cq_a, last), Ok(()));
        assert_eq!(b.load(64, LEN), data, "round {round}");
        assert_eq!(a.word(0).load(Ordering::Acquire), round);
        assert_eq!(b.word(0).load(Ordering::Acquire), round + 1);
    }
}

#[test]
fn everything_at_once_is_repaired() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    set(
        &pair,
        Faults {
            loss: 0.01,
            duplicate: 0.05,
            corrupt: 0.01,
            reorder: 0.01,
            delay: Duration::from_micros(50),
            ..Faults::default()
        },
    );
    work(&mut pair, 20);
    assert!(both(&pair, dropped(DropReason::Injected)) > 0);
    assert!(both(&pair, dropped(DropReason::Icrc)) > 0);
    assert!(both(&pair, |stats| stats.duplicates) > 0);
    assert!(both(&pair, |stats| stats.out_of_order) > 0);
    assert!(both(&pair, |stats| stats.retransmits) > 0);
}

#[test]
fn a_delay_is_felt_and_changes_nothing_else() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, true);
    let delay = Duration::from_millis(15);
    set(
        &pair,
        Faults {
            delay,
            ..Faults::default()
        },
    );
    let started = Instant::now();
    work(&mut pair, 2);
    // There and back, twice.
    assert!(started.elapsed() >= 4 * delay);
    assert_eq!(both(&pair, |stats| stats.out_of_order), 0);
}

#[test]
fn duplicates_are_not_executed_twice() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    set(
        &pair,
        Faults {
            duplicate: 1.0,
            ..Faults::default()
        },
    );
    work(&mut pair, 10);
    assert!(both(&pair, |stats| stats.duplicates) > 100);
}

#[test]
fn what_is_overtaken_is_put_in_order() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    set(
        &pair,
        Faults {
            reorder: 0.02,
            ..Faults::default()
        },
    );
    work(&mut pair, 20);
    assert!(both(&pair, |stats| stats.out_of_order) > 0);
    assert_eq!(both(&pair, dropped(DropReason::Injected)), 0);
}

#[test]
fn corrupted_datagrams_are_dropped() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    set(
        &pair,
        Faults {
            corrupt: 0.03,
            ..Faults::default()
        },
    );
    work(&mut pair, 20);
    let refused = dropped(DropReason::Icrc);
    let malformed = dropped(DropReason::Malformed);
    assert!(both(&pair, |stats| refused(stats) + malformed(stats)) > 10);
}

#[test]
fn a_frozen_peer_is_given_up_in_the_time_of_the_queue_pair() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, true);
    let frozen = Faults {
        frozen: Some(Outage::FOREVER),
        ..Faults::default()
    };
    soft_hca::set_faults(&pair.b.name, frozen).unwrap();
    let to = Remote {
        addr: pair.b.address(),
        rkey: pair.b.key(),
    };
    let post = pair.a.signalled(&pair.qp_a);
    let write = Wqe::rdma_write_inline(post, to, &[1; 8], None).unwrap();
    // What a frozen device has been given, it does not send either.
    let back = Remote {
        addr: pair.a.address(),
        rkey: pair.a.key(),
    };
    let post = pair.b.signalled(&pair.qp_b);
    let answer = Wqe::rdma_write_inline(post, back, &[2; 8], None).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    pair.b.post(&mut pair.qp_b, &answer);
    let started = Instant::now();
    pair.a.post(&mut pair.qp_a, &write);
    let error = (0, Syndrome::TransportRetryExceeded);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Err(error));
    // Eight tries of 67 ms each.
    let took = started.elapsed();
    let expected = Duration::from_millis(8 * 67);
    assert!(
        took >= expected && took < expected + Duration::from_secs(4),
        "{took:?}"
    );
    assert_eq!(pair.b.word(0).load(Ordering::Acquire), 0);
    assert_eq!(pair.a.word(0).load(Ordering::Acquire), 0);
}

#[test]
fn a_device_thaws() {
    let mut pair = Pair::new(Mtu::Bytes4096, 6, true);
    let frozen = Faults {
        frozen: Some(Outage {
            from: Duration::ZERO,
            until: Duration::from_millis(150),
        }),
        ..Faults::default()
    };
    soft_hca::set_faults(&pair.b.name, frozen).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let started = Instant::now();
    work(&mut pair, 1);
    assert!(started.elapsed() > Duration::from_millis(100));
}

#[test]
fn a_link_goes_down_by_plan_and_contexts_hear_of_it() {
    let mut pair = Pair::new(Mtu::Bytes1024, 6, true);
    let plan = Faults {
        link_down: Some(Outage {
            from: Duration::ZERO,
            until: Duration::from_millis(100),
        }),
        ..Faults::default()
    };
    soft_hca::set_faults(&pair.a.name, plan).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let started = Instant::now();
    work(&mut pair, 1);
    assert!(started.elapsed() > Duration::from_millis(80));
    let expected = [ffi::IBV_EVENT_PORT_ERR, ffi::IBV_EVENT_PORT_ACTIVE];
    assert_eq!(pair.a.port_events(), expected);
}

#[test]
fn other_faults_bring_up_what_the_old_ones_took_down() {
    let pair = Pair::new(Mtu::Bytes1024, 6, true);
    let forever = Faults {
        link_down: Some(Outage::FOREVER),
        ..Faults::default()
    };
    soft_hca::set_faults(&pair.a.name, forever).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    while seen.is_empty() {
        assert!(Instant::now() < until, "the link never went down");
        seen = pair.a.port_events();
    }
    assert_eq!(seen, [ffi::IBV_EVENT_PORT_ERR]);
    soft_hca::set_faults(&pair.a.name, Faults::default()).unwrap();
    assert_eq!(pair.a.port_events(), [ffi::IBV_EVENT_PORT_ACTIVE]);
}
