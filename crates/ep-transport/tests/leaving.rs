//! Who leaves has delivered what it wrote.
#![cfg(feature = "soft")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ep_transport::store::MemStore;
use ep_transport::{Error, Fabric, Group, GroupConfig, Half, Nic, Rank};
use soft_hca::{Config, Faults};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const REGION: u64 = 1 << 20;
const BLOCK: u64 = 300_000;
const SIGNAL: u64 = REGION - 8;

/// Two ranks; what the second one sends is under way for `delay`.
fn pair(delay: Duration) -> [Group; 2] {
    let store = MemStore::default();
    let open = |rank, delay| {
        let faults = Faults {
            delay,
            ..Faults::default()
        };
        let nic = Config {
            faults,
            ..Config::default()
        };
        let config = GroupConfig {
            nics: vec![
                Nic::SoftWith {
                    config: Box::new(nic),
                }
                .into(),
            ],
            ..GroupConfig::new(Rank(rank), 2)
        };
        let mut group = Group::open(&config, REGION, Arc::new(store.clone())).unwrap();
        group.announce().unwrap();
        group
    };
    [open(0, Duration::ZERO), open(1, delay)].map(|mut group| {
        group.wait_admitted(PATIENCE).unwrap();
        group
    })
}

fn write(from: &mut Group, value: u64) {
    from.region()
        .write(0, &[value as u8; BLOCK as usize])
        .unwrap();
    from.write(Rank(0), 0, 0, 0, BLOCK).unwrap();
    from.signal(Rank(0), 0, SIGNAL, value).unwrap();
}

#[test]
fn what_was_written_last_arrives() {
    for rung in [true, false] {
        let [stays, mut leaves] = pair(Duration::from_millis(30));
        write(&mut leaves, 7);
        if rung {
            leaves.ring(Rank(0), Half::Even).unwrap();
        }
        leaves.leave().unwrap();
        // It is there when `leave` returns.
        assert_eq!(stays.region().load_acquire(SIGNAL).unwrap(), 7, "{rung}");
        let mut block = vec![0; BLOCK as usize];
        stays.region().read(0, &mut block).unwrap();
        assert!(block.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn who_has_gone_is_not_waited_for() {
    let [stays, mut leaves] = pair(Duration::ZERO);
    drop(stays);
    let deadline = Instant::now() + PATIENCE;
    let counts = |group: &Group| {
        let control = group.control();
        control.is_active(Rank(0), control.next_epoch())
    };
    while counts(&leaves) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    write(&mut leaves, 8);
    let begun = Instant::now();
    leaves.leave().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn what_does_not_arrive_is_told_in_time() {
    let [stays, mut leaves] = pair(Duration::from_secs(60));
    write(&mut leaves, 9);
    let begun = Instant::now();
    let error = leaves.leave().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(matches!(error, Error::NotDelivered { .. }), "{error}");
    assert!(error.to_string().contains("rank 0"), "{error}");
    assert_eq!(stays.region().load_acquire(SIGNAL).unwrap(), 0);
}
