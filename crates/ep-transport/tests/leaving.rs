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

/// A group of so many ranks; what each sends is under way for so long. A connection fails
/// when 0.54 s have passed once more than it is retried.
fn form<const N: usize>(delays: [Duration; N], retry_count: u8) -> [Group; N] {
    let store = MemStore::default();
    let mut ranks = (0..).map(Rank);
    let open = |delay| {
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
            ack_timeout: 17,
            retry_count,
            ..GroupConfig::new(ranks.next().unwrap(), N as u32)
        };
        let mut group = Group::open(&config, REGION, Arc::new(store.clone())).unwrap();
        group.announce().unwrap();
        group
    };
    delays.map(open).map(|mut group| {
        group.wait_admitted(PATIENCE).unwrap();
        group
    })
}

/// Two ranks; what the second one sends is under way for `delay`.
fn pair(delay: Duration) -> [Group; 2] {
    form([Duration::ZERO, delay], 7)
}

fn write_to(to: u32, from: &mut Group, value: u64) {
    from.region()
        .write(0, &[value as u8; BLOCK as usize])
        .unwrap();
    from.write(Rank(to), 0, 0, 0, BLOCK).unwrap();
    from.signal(Rank(to), 0, SIGNAL, value).unwrap();
}

fn write(from: &mut Group, value: u64) {
    write_to(0, from, value);
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

/// Three ranks. The first one's acknowledgements never come, so that the last one's
/// connection to it has failed; those of the second one take their time.
fn with_a_failed_connection() -> [Group; 3] {
    let never = Duration::from_secs(60);
    let delays = [never, Duration::from_millis(600), Duration::ZERO];
    let [first, second, mut leaves] = form(delays, 2);
    write_to(0, &mut leaves, 10);
    leaves.ring(Rank(0), Half::Even).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while leaves.reusable(Rank(0), Half::Even).is_ok() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    write_to(1, &mut leaves, 11);
    [first, second, leaves]
}

#[test]
fn a_connection_that_has_failed_is_told_once_the_others_have_what_is_theirs() {
    let [_first, second, leaves] = with_a_failed_connection();
    let error = leaves.leave().unwrap_err().to_string();
    assert!(error.ends_with("to rank 0 may be lost"), "{error}");
    assert_eq!(second.region().load_acquire(SIGNAL).unwrap(), 11);
}

#[test]
fn who_goes_while_others_are_waited_for_is_not_named() {
    let [first, second, leaves] = with_a_failed_connection();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        leaves.leave().unwrap();
    });
    assert_eq!(second.region().load_acquire(SIGNAL).unwrap(), 11);
}
