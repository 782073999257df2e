//! What the others see of a rank that leaves or dies, and what it leaves in the store.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ep_transport::store::{
    Changes, Entry, LeaseId, MemStore, Rendezvous, Revision, StoreError, Swap,
};
use ep_transport::{Group, GroupConfig, LossKind, MemberEvent, Path, Rank};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const REGION: u64 = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(20);

/// A store as one rank sees it, whose reading and writing can be held up.
#[derive(Clone, Default)]
struct Held {
    store: MemStore,
    reading: Arc<(Mutex<Reading>, Condvar)>,
    /// Leases are not granted what they ask for.
    no_puts: Arc<AtomicBool>,
    /// The keys that were written.
    puts: Arc<Mutex<Vec<String>>>,
    /// Who renews a lease is told that it has ended.
    leases_end: Arc<AtomicBool>,
    /// Who waits for changes is told that the connection broke.
    no_waits: Arc<AtomicBool>,
    /// Reading is held up once something is proposed through this.
    holds_at_proposal: Arc<AtomicBool>,
    /// The times that a reader was willing to wait for changes of cards of one rank.
    waits: Arc<Mutex<Vec<Duration>>>,
}

#[derive(Default)]
struct Reading {
    held: bool,
    /// Readers who wait for changes at this moment.
    under_way: usize,
}

impl Held {
    /// Lets nobody begin to read, and waits for those who read.
    fn hold_reading(&self) {
        let (reading, changed) = &*self.reading;
        let mut reading = reading.lock().unwrap();
        reading.held = true;
        while reading.under_way > 0 {
            reading = changed.wait(reading).unwrap();
        }
    }

    fn release_reading(&self) {
        self.reading.0.lock().unwrap().held = false;
        self.reading.1.notify_all();
    }

    /// The same store as another rank sees it.
    fn for_another(&self) -> Self {
        Self {
            store: self.store.clone(),
            ..Self::default()
        }
    }

    /// Has the store forget which keys were ever deleted.
    fn forget_deletions(&self) {
        for i in 0..5000 {
            let key = format!("passing/{i}");
            self.store.put(&key, b"", None).unwrap();
            self.store.delete(&key).unwrap();
        }
    }

    fn waits(&self) -> usize {
        let calls = self.waits.lock().unwrap();
        calls.iter().filter(|limit| !limit.is_zero()).count()
    }

    fn read(&self, prefix: &str, after: Revision, limit: Duration) -> Result<Changes, StoreError> {
        let one_rank = prefix.contains("/card/");
        if one_rank {
            self.waits.lock().unwrap().push(limit);
        }
        if self.no_waits.load(Ordering::Relaxed) && !limit.is_zero() {
            return Err(StoreError::Connection {
                address: "here".into(),
                source: ErrorKind::ConnectionReset.into(),
            });
        }
        // However slow this machine is, a wait for a card to go sees it go.
        let limit = match limit {
            Duration::ZERO => limit,
            _ if one_rank => PATIENCE,
            _ => limit,
        };
        self.store.changes(prefix, after, limit)
    }
}

impl Rendezvous for Held {
    fn put(&self, key: &str, value: &[u8], lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        if self.no_puts.load(Ordering::Relaxed) {
            return Err(StoreError::TooLarge {
                what: "value",
                bytes: value.len(),
                limit: 0,
            });
        }
        self.puts.lock().unwrap().push(key.to_owned());
        self.store.put(key, value, lease)
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.store.delete(key)
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        if key.contains("/proposal/") && self.holds_at_proposal.swap(false, Ordering::Relaxed) {
            self.reading.0.lock().unwrap().held = true;
        }
        self.store.compare_and_swap(key, expected, value)
    }

    fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: Duration,
    ) -> Result<Changes, StoreError> {
        let (reading, changed) = &*self.reading;
        let mut now = reading.lock().unwrap();
        while now.held {
            now = changed.wait(now).unwrap();
        }
        now.under_way += 1;
        drop(now);
        let outcome = self.read(prefix, after, limit);
        reading.lock().unwrap().under_way -= 1;
        changed.notify_all();
        outcome
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.leases_end.load(Ordering::Relaxed) {
            return Err(StoreError::LeaseEnded { lease });
        }
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease)
    }
}

fn config(rank: u32, capacity: u32) -> GroupConfig {
    GroupConfig {
        path: Path::Window,
        initial: vec![Rank(0), Rank(1)],
        ..GroupConfig::new(Rank(rank), capacity)
    }
}

/// Ranks 0 and 1 of `capacity`.
fn form(capacity: u32, stores: [&Held; 2]) -> [Group; 2] {
    let mut rank = 0..;
    stores
        .map(|store| {
            let config = config(rank.next().unwrap(), capacity);
            let mut group = Group::open(&config, REGION, Arc::new(store.clone())).unwrap();
            group.announce().unwrap();
            group
        })
        .map(|mut group| {
            group.wait_admitted(PATIENCE).unwrap();
            group
        })
}

fn losses(group: &Group) -> Vec<(Rank, LossKind)> {
    let events = group.take_events();
    let lost = events.iter().filter_map(|event| match event {
        MemberEvent::PeerLost { rank, how, .. } => Some((*rank, *how)),
        _ => None,
    });
    lost.collect()
}

fn keys(store: &MemStore, prefix: &str) -> Vec<String> {
    let there = store.changes(prefix, Revision(0), Duration::ZERO).unwrap();
    there.changes.into_iter().map(|change| change.key).collect()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// By then the card is gone too, and a store need not say that it ever was.
#[test]
fn who_reads_late_still_learns_that_a_rank_has_left() {
    let slow = Held::default();
    let quick = slow.for_another();
    let [stays, leaves] = form(2, [&slow, &quick]);
    slow.hold_reading();
    leaves.leave().unwrap();
    assert_eq!(losses(&stays), []);
    slow.release_reading();
    stays.wait_alone(PATIENCE).unwrap();
    // Whoever waits for the others to be gone has been told of it.
    assert_eq!(losses(&stays), [(Rank(1), LossKind::Left)]);
}

/// The store has forgotten by then that there was ever such a card.
#[test]
fn who_reads_very_late_still_learns_that_a_rank_has_died() {
    let slow = Held::default();
    let quick = slow.for_another();
    let [stays, dies] = form(2, [&slow, &quick]);
    slow.hold_reading();
    drop(dies);
    slow.forget_deletions();
    assert_eq!(losses(&stays), []);
    slow.release_reading();
    stays.wait_alone(PATIENCE).unwrap();
    assert_eq!(losses(&stays), [(Rank(1), LossKind::LeaseEnded)]);
}

/// What is listed as there tells that a card is gone before the record is read in which its
/// rank says that it leaves.
#[test]
fn who_stops_reading_at_a_proposal_still_learns_that_a_rank_has_left() {
    let slow = Held::default();
    let quick = slow.for_another();
    let [_stays, leaves] = form(3, [&quick, &quick]);
    slow.holds_at_proposal.store(true, Ordering::Relaxed);
    let mut newcomer = Group::open(&config(2, 3), REGION, Arc::new(slow.clone())).unwrap();
    newcomer.announce().unwrap();
    eventually("a proposal", || slow.reading.0.lock().unwrap().held);
    leaves.leave().unwrap();
    eventually("its card's end", || {
        keys(&slow.store, "ep/all/card/1/").is_empty()
    });
    slow.forget_deletions();
    slow.release_reading();
    let mut lost = Vec::new();
    eventually("a loss", || {
        lost.extend(losses(&newcomer));
        !lost.is_empty()
    });
    assert_eq!(lost, [(Rank(1), LossKind::Left)]);
}

#[test]
fn a_rank_that_dies_inside_an_attempt_leaves_nothing_of_it_in_the_store() {
    let store = Held::default();
    let members = form(3, [&store, &store]);
    for _ in 0..10 {
        let config = config(2, 3);
        let mut newcomer = Group::open(&config, REGION, Arc::new(store.clone())).unwrap();
        newcomer.announce().unwrap();
        eventually("an offer", || {
            !keys(&store.store, "ep/all/offers/").is_empty()
        });
        drop(newcomer);
        eventually("a store without answers", || {
            keys(&store.store, "ep/all/offers/").is_empty()
                && keys(&store.store, "ep/few/").is_empty()
        });
    }
    drop(members);
    assert_eq!(keys(&store.store, "ep/all/card/"), Vec::<String>::new());
}

#[test]
fn who_cannot_say_that_it_comes_keeps_no_lease() {
    let store = Held::default();
    store.no_puts.store(true, Ordering::Relaxed);
    let error = Group::open(&config(0, 2), REGION, Arc::new(store.clone())).unwrap_err();
    assert!(error.to_string().contains("value"), "{error}");
    // The first lease of a store is its number 1.
    let ended = store.keep_alive(LeaseId(1)).unwrap_err();
    assert!(matches!(ended, StoreError::LeaseEnded { .. }), "{ended}");
}

/// The lease of who is gone anyway may have ended unnoticed.
#[test]
fn who_has_left_or_dropped_its_group_shows_its_card_to_nobody() {
    let settings = GroupConfig {
        // It is not renewed while this test runs.
        lease: Duration::from_secs(3600),
        ..config(0, 2)
    };
    for goodbye in [true, false] {
        let store = Held::default();
        let mut group = Group::open(&settings, REGION, Arc::new(store.clone())).unwrap();
        group.announce().unwrap();
        store.leases_end.store(true, Ordering::Relaxed);
        store.puts.lock().unwrap().clear();
        if goodbye {
            group.leave().unwrap();
        } else {
            drop(group);
        }
        let puts = std::mem::take(&mut *store.puts.lock().unwrap());
        assert_eq!(puts.len(), usize::from(goodbye), "{puts:?}");
        assert!(!puts.iter().any(|key| key.contains("/card/")), "{puts:?}");
    }
}

/// Has a second life take the rank of a first one, which ends once the second has waited
/// so often. Returns how often it listed the cards and how often it waited for one to go.
fn take_over(second: &Held, patience: usize) -> (usize, usize) {
    let settings = GroupConfig {
        take_over_time_out: Duration::from_secs(3600),
        ..config(0, 2)
    };
    let first = Group::open(&settings, REGION, Arc::new(second.store.clone()));
    let mut first = first.unwrap();
    first.announce().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("waits", || second.waits() >= patience);
            drop(first);
        });
        Group::open(&settings, REGION, Arc::new(second.clone())).unwrap();
    });
    let calls = second.waits.lock().unwrap();
    let lists = calls.iter().filter(|limit| limit.is_zero()).count();
    // Others may wait for theirs on the same connection.
    let longest = calls.iter().max().unwrap();
    assert_eq!(*longest, Duration::from_secs(1));
    (lists, calls.len() - lists)
}

#[test]
fn who_takes_a_rank_over_waits_in_one_call() {
    assert_eq!(take_over(&Held::default(), 1), (2, 1));
}

#[test]
fn who_cannot_wait_at_the_store_still_takes_the_rank_over() {
    let store = Held::default();
    store.no_waits.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let (lists, waits) = take_over(&store, 5);
    assert_eq!(lists, waits + 1);
    // With pauses in between.
    let pauses = Duration::from_millis(20) * waits as u32;
    assert!(waits >= 5 && begun.elapsed() >= pauses, "{waits}");
}
