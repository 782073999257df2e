//! Newcomers that the members cannot be connected to.
#![cfg(feature = "soft")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ep_transport::store::{MemStore, Rendezvous, Revision};
use ep_transport::{Error, Group, GroupConfig, Nic, Path, Rank};
use soft_hca::{Config, LinkLayer};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REGION: u64 = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(20);

fn config(rank: u32, link_layer: LinkLayer) -> GroupConfig {
    let config = Config {
        link_layer,
        ..Config::default()
    };
    let nic = Nic::SoftWith {
        config: Box::new(config),
    };
    GroupConfig {
        nics: vec![nic.into()],
        initial: vec![Rank(0), Rank(1)],
        ..GroupConfig::new(Rank(rank), 4)
    }
}

fn open(config: &GroupConfig, store: &MemStore) -> Group {
    let mut group = Group::open(config, REGION, Arc::new(store.clone())).unwrap();
    group.announce().unwrap();
    group
}

fn members(store: &MemStore) -> Vec<Group> {
    let mut members: Vec<Group> = [0, 1]
        .map(|rank| open(&config(rank, LinkLayer::Ethernet), store))
        .into();
    for member in &mut members {
        member.wait_admitted(PATIENCE).unwrap();
    }
    members
}

fn keys(store: &MemStore, prefix: &str) -> usize {
    let there = store.changes(prefix, Revision(0), Duration::ZERO).unwrap();
    there.changes.len()
}

/// It is tried less and less often, what was tried does not fill the store, and somebody else
/// comes in meanwhile.
#[test]
fn who_cannot_be_connected_to_is_left_out_for_longer_each_time() {
    let store = MemStore::new();
    let members = members(&store);
    let mut foreign = open(&config(2, LinkLayer::InfiniBand), &store);
    let error = foreign.wait_admitted(Duration::from_secs(4)).unwrap_err();
    assert!(matches!(error, Error::NotAdmitted { .. }), "{error}");
    // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 s, and half as long again for tried by two.
    let attempts = keys(&store, "ep/all/proposal/");
    assert!((2..=9).contains(&attempts), "{attempts} attempts");
    let mut welcome = open(&config(3, LinkLayer::Ethernet), &store);
    welcome.wait_admitted(PATIENCE).unwrap();
    drop((members, foreign));
}

#[test]
fn a_rank_with_another_path_is_told_so() {
    let store = MemStore::new();
    let _members = members(&store);
    let window = GroupConfig {
        path: Path::Window,
        ..config(2, LinkLayer::Ethernet)
    };
    let error = open(&window, &store).wait_admitted(PATIENCE).unwrap_err();
    let Error::ConfigMismatch { theirs, ours, .. } = error else {
        panic!("{error}");
    };
    assert!(theirs.contains("path=Rdma") && ours.contains("path=Window"));
}

/// The number of the newest attempt.
fn newest(store: &MemStore) -> u64 {
    let there = store.changes("ep/all/proposal/", Revision(0), Duration::ZERO);
    let keys = there.unwrap().changes.into_iter().map(|change| change.key);
    let number = |key: String| key.rsplit('/').next().unwrap().parse().unwrap();
    keys.map(number).max().unwrap_or(0)
}

/// Whoever proposes takes what was dropped long ago away, though nobody comes in at last.
#[test]
fn attempts_that_were_dropped_do_not_stay_in_the_store() {
    let store = MemStore::new();
    let _members = members(&store);
    for _ in 0..15 {
        let before = newest(&store);
        let newcomer = open(&config(2, LinkLayer::InfiniBand), &store);
        let deadline = Instant::now() + PATIENCE;
        while newest(&store) == before {
            assert!(Instant::now() < deadline, "no attempt after {before}");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(newcomer);
    }
    for kind in ["proposal", "decision"] {
        let left = keys(&store, &format!("ep/all/{kind}/"));
        assert!(left <= 12, "{left} of {kind}");
    }
}

/// A process of another configuration is in the way while it is there.
#[test]
fn a_refusal_lasts_as_long_as_its_cause() {
    let store = MemStore::new();
    let with = |rank, common: &str| GroupConfig {
        path: Path::Window,
        common: common.into(),
        ..GroupConfig::new(Rank(rank), 2)
    };
    let other = open(&with(1, "other"), &store);
    let mut first = open(&with(0, "ours"), &store);
    for _ in 0..2 {
        let error = first.wait_admitted(PATIENCE).unwrap_err();
        assert!(matches!(error, Error::ConfigMismatch { .. }), "{error}");
    }
    drop(other);
    let deadline = Instant::now() + PATIENCE;
    // Now it waits again.
    while !matches!(
        first.wait_admitted(Duration::ZERO),
        Err(Error::NotAdmitted { .. })
    ) {
        assert!(Instant::now() < deadline, "still refused");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut second = open(&with(1, "ours"), &store);
    second.wait_admitted(PATIENCE).unwrap();
    first.wait_admitted(PATIENCE).unwrap();
}

#[test]
fn a_proposal_that_nobody_can_read_is_passed_over() {
    for (garbage, next) in [
        // Of another version, cut off, and of a rank that there cannot be.
        (&b"\x05\x00\x00"[..], 2),
        (b"\x06\x00\x00\x02", 3),
        (b"\x06\x00\x00\x01\x63\x01\x00\x00", 4),
    ] {
        let store = MemStore::new();
        let _members = members(&store);
        let key = format!("ep/all/proposal/{next}");
        store.put(&key, garbage, None).unwrap();
        let mut newcomer = open(&config(2, LinkLayer::Ethernet), &store);
        newcomer.wait_admitted(PATIENCE).unwrap();
    }
}
