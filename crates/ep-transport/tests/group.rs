//! Ranks form a group, write to each other, lose one and take a new one in.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[cfg(feature = "soft")]
use ep_transport::PeerFault;
use ep_transport::store::{MemStore, Rendezvous, TcpStore, TcpStoreServer};
use ep_transport::{
    Epoch, Error, Fabric, Group, GroupConfig, Half, Incarnation, MemberEvent, Path, Rank, Secret,
    Snapshot,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REGION: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
const SIGNALS: u64 = 4096;

fn config(rank: u32, capacity: u32, path: Path) -> GroupConfig {
    GroupConfig {
        path,
        take_over_time_out: Duration::from_millis(300),
        ack_timeout: 15,
        ..GroupConfig::new(Rank(rank), capacity)
    }
}

fn open(config: &GroupConfig, store: &MemStore) -> Group {
    let mut group = Group::open(config, REGION, Arc::new(store.clone())).unwrap();
    group.announce().unwrap();
    group
}

fn form(capacity: u32, path: Path, store: &MemStore) -> Vec<Group> {
    let mut groups: Vec<Group> = (0..capacity)
        .map(|rank| open(&config(rank, capacity, path), store))
        .collect();
    for group in &mut groups {
        assert_eq!(group.wait_admitted(PATIENCE).unwrap(), Epoch(0));
    }
    groups
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Writes a block and a signal from one rank to another and waits for both.
fn send(groups: &mut [Group], from: usize, to: usize, value: u64) {
    let peer = groups[to].rank();
    let block = vec![value as u8; 10_000];
    let sender = &mut groups[from];
    sender.region().write(8192, &block).unwrap();
    sender.write(peer, 1, 8192, 65536, 10_000).unwrap();
    let word = SIGNALS + 8 * from as u64;
    sender.signal(peer, 1, word, value).unwrap();
    sender.ring(peer, Half::Even).unwrap();
    eventually("signal", || {
        groups[to].region().load_acquire(word).unwrap() == value
    });
    let mut arrived = vec![0; 10_000];
    groups[to].region().read(65536, &mut arrived).unwrap();
    assert_eq!(arrived, block);
    eventually("completion", || {
        groups[from].reusable(peer, Half::Even).unwrap()
    });
}

/// Runs operations on all groups until each is past `epoch`.
fn run_past(groups: &[&Group], epoch: Epoch) {
    for group in groups {
        eventually("the run limit's end", || {
            while group.control().next_epoch() <= epoch {
                if group.control().try_begin().is_none() {
                    return false;
                }
                group.control().end();
            }
            true
        });
    }
}

fn touched(before: &Snapshot, after: &Snapshot, changed: Rank) -> (usize, u64) {
    let mut healthy = 0;
    let mut commands = 0;
    for (b, a) in before.queue_pairs.iter().zip(&after.queue_pairs) {
        assert_eq!((b.peer, b.lane, b.qpn), (a.peer, a.lane, a.qpn));
        if a.peer == changed {
            commands += a.commands - b.commands;
        } else if a != b {
            healthy += 1;
        }
    }
    (healthy, commands)
}

fn a_rank_dies_and_comes_back(path: Path) {
    let store = MemStore::new();
    let mut groups = form(3, path, &store);
    for from in 0..3 {
        for to in 0..3 {
            if from != to {
                send(&mut groups, from, to, 100 + from as u64);
            }
        }
    }
    for life in 2..4 {
        let before: Vec<Snapshot> = groups.iter().map(Group::snapshot).collect();
        // Odd and even numbers of operations before the death.
        run_past(&[&groups[0], &groups[1]], Epoch(u64::from(life) * 7));
        drop(groups.pop());
        let dead = Rank(2);
        for group in &groups {
            eventually("mask", || {
                !group
                    .control()
                    .is_active(dead, group.control().next_epoch())
            });
        }
        let mut newcomer = open(&config(2, 3, path), &store);
        assert_eq!(newcomer.incarnation(), Incarnation(life));
        let from = newcomer.wait_admitted(PATIENCE).unwrap();
        assert!(from > Epoch(u64::from(life) * 7) && from.0.is_multiple_of(2));
        for group in &groups {
            eventually("admission", || group.control().is_active(dead, from));
            assert!(!group.control().is_active(dead, Epoch(from.0 - 1)));
        }
        run_past(&[&groups[0], &groups[1], &newcomer], from);
        groups.push(newcomer);
        for (group, before) in groups.iter().zip(&before).take(2) {
            let after = group.snapshot();
            assert_eq!(after.addresses, before.addresses);
            let (healthy, commands) = touched(before, &after, dead);
            assert_eq!(healthy, 0);
            let pairs = if path == Path::Rdma { 2 } else { 0 };
            assert_eq!(commands, 4 * pairs);
            assert_eq!(after.commands - before.commands, 4 * pairs);
            let events = group.take_events();
            let lost =
                |e: &MemberEvent| matches!(e, MemberEvent::PeerLost { rank, .. } if *rank == dead);
            assert!(events.iter().any(lost), "{events:?}");
        }
        send(&mut groups, 0, 2, 200 + u64::from(life));
        send(&mut groups, 2, 1, 300 + u64::from(life));
        send(&mut groups, 0, 1, 400 + u64::from(life));
    }
}

#[test]
fn over_windows_a_rank_dies_and_comes_back() {
    a_rank_dies_and_comes_back(Path::Window);
}

#[cfg(feature = "soft")]
#[test]
fn over_rdma_a_rank_dies_and_comes_back() {
    a_rank_dies_and_comes_back(Path::Rdma);
}

#[cfg(feature = "soft")]
#[test]
fn a_dead_peer_is_an_error_completion_and_others_are_well() {
    let store = MemStore::new();
    let mut groups = form(3, Path::Rdma, &store);
    drop(groups.remove(2));
    // Whatever the rendezvous says: the queue pair itself reports it, in bounded time.
    groups[0].signal(Rank(2), 0, SIGNALS, 1).unwrap();
    groups[0].ring(Rank(2), Half::Odd).unwrap();
    let mut fault = None;
    eventually("error completion", || {
        fault = groups[0].reusable(Rank(2), Half::Odd).err();
        fault.is_some()
    });
    assert!(matches!(
        fault,
        Some(PeerFault::Completion {
            peer: Rank(2),
            lane: 0,
            ..
        })
    ));
    send(&mut groups, 0, 1, 7);
    send(&mut groups, 1, 0, 8);
}

/// Without a signal, and without anything else that asks for a completion.
#[cfg(feature = "soft")]
#[test]
fn as_many_writes_as_a_queue_takes_arrive_and_complete() {
    let store = MemStore::new();
    let mut groups: Vec<Group> = (0..2)
        .map(|rank| {
            let small = GroupConfig {
                queue_depth: 8,
                ..config(rank, 2, Path::Rdma)
            };
            open(&small, &store)
        })
        .collect();
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    let [sender, receiver] = groups.as_mut_slice() else {
        panic!("two of them")
    };
    for round in 1..=3u64 {
        sender.region().store_release(8192, round).unwrap();
        let mut written = 0;
        let full = loop {
            match sender.write(Rank(1), 0, 8192, 65536 + 8 * written, 8) {
                Ok(()) => written += 1,
                Err(fault) => break fault,
            }
        };
        assert!(full.is_transient(), "{full}");
        assert_eq!(written, 7);
        sender.ring(Rank(1), Half::Even).unwrap();
        eventually("completion", || {
            sender.reusable(Rank(1), Half::Even).unwrap()
        });
        let last = receiver.region().load_acquire(65536 + 8 * 6).unwrap();
        assert_eq!(last, round);
    }
}

#[test]
fn a_taken_rank_and_bad_settings_are_refused_with_the_value() {
    let store = MemStore::new();
    let _groups = form(2, Path::Window, &store);
    let taken = Group::open(&config(1, 2, Path::Window), REGION, Arc::new(store.clone()));
    assert!(matches!(
        taken,
        Err(Error::RankTaken {
            rank: Rank(1),
            incarnation: Incarnation(1),
            ..
        })
    ));
    let bad = |change: fn(&mut GroupConfig)| {
        let mut config = config(0, 2, Path::Window);
        change(&mut config);
        Group::open(&config, REGION, Arc::new(store.clone()))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        bad(|c| c.rank = Rank(7)),
        "rank is 7, but must be between 0 and 1"
    );
    assert_eq!(
        bad(|c| c.queue_depth = 24),
        "queue_depth is 24, but must be a power of two"
    );
    assert_eq!(
        bad(|c| c.capacity = 4096),
        "capacity is 4096, but must be between 1 and 2048"
    );
    assert!(bad(|c| c.group = "a/b".into()).contains("\"a/b\""));
    assert_eq!(
        bad(|c| c.initial = vec![Rank(1), Rank(1)]),
        "initial is rank 1 twice, but must be different ranks"
    );
    assert_eq!(
        bad(|c| c.initial = vec![Rank(0), Rank(2)]),
        "initial rank is 2, but must be between 0 and 1"
    );
    assert_eq!(
        bad(|c| c.initial.clear()),
        "number of initial ranks is 0, but must be between 1 and 2"
    );
}

#[test]
fn a_rank_with_other_sizes_is_told_what_differs() {
    let store = MemStore::new();
    let _first = open(&config(0, 2, Path::Window), &store);
    let mut other = config(1, 2, Path::Window);
    other.common = "hidden=512".into();
    let mut second = Group::open(&other, REGION, Arc::new(store)).unwrap();
    // However often it asks.
    for _ in 0..3 {
        let error = second.wait_admitted(PATIENCE).unwrap_err();
        let Error::ConfigMismatch { rank, theirs, ours } = error else {
            panic!("{error}");
        };
        assert_eq!(rank, Rank(0));
        assert!(ours.contains("hidden=512") && !theirs.contains("hidden=512"));
    }
}

#[test]
fn a_newcomer_warms_up_alone_and_is_counted_from_the_agreed_epoch() {
    let store = MemStore::new();
    let groups = form(2, Path::Window, &store);
    let mut newcomer = {
        let mut groups = groups.into_iter();
        let first = groups.next().unwrap();
        drop(groups);
        run_past(&[&first], Epoch(20));
        let newcomer =
            Group::open(&config(1, 2, Path::Window), REGION, Arc::new(store.clone())).unwrap();
        // Far more operations than the survivor has run; nobody is touched.
        run_past(&[&newcomer], Epoch(500));
        assert!(!newcomer.control().is_active(Rank(0), Epoch(500)));
        eventually("mask", || {
            !first
                .control()
                .is_active(Rank(1), first.control().next_epoch())
        });
        (first, newcomer)
    };
    let from = newcomer.1.wait_admitted(PATIENCE).unwrap();
    assert!(from < Epoch(500), "{from}");
    assert_eq!(newcomer.1.control().next_epoch(), from);
    eventually("admission", || {
        newcomer.0.control().is_active(Rank(1), from)
    });
}

#[cfg(feature = "soft")]
#[test]
fn ranks_with_different_numbers_of_nics_form_a_group_and_may_come_back_with_another() {
    let store = MemStore::new();
    let with = |rank, nics| GroupConfig {
        nics: vec![ep_transport::Nic::Soft { address: None }.into(); nics],
        lanes: 4,
        ..config(rank, 2, Path::Rdma)
    };
    let mut groups = vec![open(&with(0, 2), &store), open(&with(1, 3), &store)];
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    send(&mut groups, 0, 1, 31);
    send(&mut groups, 1, 0, 32);
    drop(groups.pop());
    groups.push(open(&with(1, 1), &store));
    let from = groups[1].wait_admitted(PATIENCE).unwrap();
    eventually("admission", || groups[0].control().is_active(Rank(1), from));
    send(&mut groups, 0, 1, 33);
    send(&mut groups, 1, 0, 34);
    let nics = |group: &Group| -> Vec<u32> {
        let pairs = group.snapshot().queue_pairs;
        pairs.iter().map(|pair| pair.nic).collect()
    };
    assert_eq!(nics(&groups[0]), [0, 1, 0, 1]);
    assert_eq!(nics(&groups[1]), [0; 4]);
}

#[test]
fn a_peer_that_speaks_another_version_is_named() {
    let store = MemStore::new();
    // Version 9, then whatever that version means by a card.
    store
        .put("ep/all/card/1/1", &[9, 0, 1, 2, 3], None)
        .unwrap();
    let mut first = open(&config(0, 2, Path::Window), &store);
    let error = first.wait_admitted(PATIENCE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "record all/card/1/1 has version 9, this side understands 6"
    );
}

#[test]
fn what_was_tampered_with_is_refused_by_name() {
    let secret = |byte| Secret::new(&[byte; 32]).ok();
    let knows = |rank, byte| GroupConfig {
        secret: secret(byte),
        ..config(rank, 2, Path::Window)
    };
    let store = MemStore::new();
    let mut groups: Vec<Group> = (0..2).map(|rank| open(&knows(rank, 1), &store)).collect();
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    // The card of one, put where another's would be.
    drop(groups.pop());
    let card = store.get("ep/all/card/0/1").unwrap().unwrap();
    store.put("ep/all/card/1/7", &card.value, None).unwrap();
    let mut outcomes = Vec::new();
    for byte in [1, 2] {
        let store = MemStore::new();
        store.put("ep/all/card/1/7", &card.value, None).unwrap();
        let mut first = open(&knows(0, byte), &store);
        let refusals = [(); 2].map(|()| first.wait_admitted(PATIENCE).unwrap_err());
        outcomes.extend(refusals.map(|error| error.to_string()));
        // Nothing is in its way any more, and so it comes in.
        store.delete("ep/all/card/1/7").unwrap();
        let _second = open(&knows(1, byte), &store);
        eventually("admission", || first.wait_admitted(Duration::ZERO).is_ok());
    }
    let refused =
        "record all/card/1/7 is not to be trusted: its code does not fit key and contents";
    assert_eq!(outcomes, [refused; 4]);
    // A member goes on.
    run_past(&[&groups[0]], Epoch(50));
    assert_eq!(groups[0].superseded(), None);
    store.delete("ep/all/card/1/7").unwrap();
    // Who does not know the secret cannot even take a rank.
    let stranger = Group::open(&config(1, 2, Path::Window), REGION, Arc::new(store));
    assert_eq!(
        stranger.unwrap_err().to_string(),
        "record all/incarnation/1 is not to be trusted: it carries a code, this side has no secret"
    );
}

#[test]
fn a_group_that_is_not_complete_says_who_is_there() {
    let store = MemStore::new();
    let mut alone = open(&config(0, 3, Path::Window), &store);
    let error = alone.wait_admitted(Duration::from_millis(200)).unwrap_err();
    assert!(error.to_string().contains("present: rank 0"), "{error}");
}

#[test]
fn any_ranks_may_be_the_first_ones() {
    let store = MemStore::new();
    let with_gap = |rank| GroupConfig {
        initial: vec![Rank(1), Rank(3)],
        ..config(rank, 4, Path::Window)
    };
    let mut groups: Vec<Group> = [1, 3, 0]
        .iter()
        .map(|rank| open(&with_gap(*rank), &store))
        .collect();
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    send(&mut groups, 0, 1, 7);
    let lonely = MemStore::new();
    let mut first = open(&with_gap(1), &lonely);
    let _other = open(&with_gap(0), &lonely);
    let error = first.wait_admitted(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::NotAdmitted { .. }), "{error}");
}

#[test]
fn everybody_finishes_and_leaves() {
    let store = MemStore::new();
    let mut groups = form(3, Path::Window, &store);
    let last = groups.pop().unwrap();
    assert!(last.finish(Duration::from_millis(100)).is_err());
    for group in groups {
        std::thread::spawn(move || {
            group.finish(PATIENCE).unwrap();
            group.leave().unwrap();
        });
    }
    last.finish(PATIENCE).unwrap();
    last.wait_alone(PATIENCE).unwrap();
    let left = |e: &MemberEvent| {
        matches!(
            e,
            MemberEvent::PeerLost {
                how: ep_transport::LossKind::Left,
                ..
            }
        )
    };
    assert_eq!(last.take_events().iter().filter(|e| left(e)).count(), 2);
}

#[test]
fn the_tcp_store_serves_a_group_and_sees_connections_end() {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let address = server.address().to_string();
    let connect = || Arc::new(TcpStore::connect(&address, PATIENCE).unwrap());
    let mut first = Group::open(
        &config(0, 2, Path::Window),
        REGION,
        Arc::new(server.store()),
    )
    .unwrap();
    let client: Arc<TcpStore> = connect();
    let mut second = Group::open(
        &config(1, 2, Path::Window),
        REGION,
        Arc::clone(&client) as Arc<dyn Rendezvous>,
    )
    .unwrap();
    second.announce().unwrap();
    first.wait_admitted(PATIENCE).unwrap();
    second.wait_admitted(PATIENCE).unwrap();
    assert!(first.control().is_active(Rank(1), Epoch(0)));
    let in_use = TcpStoreServer::bind(&address).unwrap_err();
    assert!(in_use.to_string().contains(&address), "{in_use}");
    drop(server);
    // The store is gone; serving goes on, and a newcomer is told where it looked.
    assert!(
        first
            .control()
            .is_active(Rank(1), first.control().next_epoch())
    );
    let gone = TcpStore::connect(&address, Duration::from_millis(50)).unwrap_err();
    assert!(
        gone.to_string().starts_with("no store at 127.0.0.1:"),
        "{gone}"
    );
}

#[test]
fn a_store_of_another_version_is_named() {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = std::thread::spawn(move || {
        for hello in [*b"EPRV\x07\x00", *b"HTTP/1"] {
            listener.accept().unwrap().0.write_all(&hello).unwrap();
        }
    });
    let said = || {
        TcpStore::connect(&address, Duration::ZERO)
            .unwrap_err()
            .to_string()
    };
    assert!(said().ends_with("speaks store protocol version 7, this side speaks 3"));
    assert!(said().contains("HTTP/1"));
    other.join().unwrap();
}

/// Two ranks that gave each other up count each other again, at one epoch, and nobody
/// else's queue pairs have seen a command.
fn a_false_alarm_heals(path: Path) {
    let store = MemStore::new();
    let mut groups = form(3, path, &store);
    let before: Vec<Snapshot> = groups.iter().map(Group::snapshot).collect();
    run_past(&[&groups[0], &groups[1], &groups[2]], Epoch(7));
    let now = groups[1].control().next_epoch();
    groups[1].control().mask(Rank(2), now);
    let counts = |group: &Group, rank: u32| {
        let row = group.control().participation(Rank(rank)).unwrap();
        row.active_until == Epoch(u64::MAX)
    };
    eventually("being told", || !counts(&groups[2], 1));
    eventually("healing", || counts(&groups[1], 2) && counts(&groups[2], 1));
    let from = |group: &Group, rank| {
        let row = group.control().participation(Rank(rank)).unwrap();
        row.active_from
    };
    assert_eq!(from(&groups[1], 2), from(&groups[2], 1));
    assert!(
        from(&groups[1], 2) >= Epoch(16),
        "{:?}",
        from(&groups[1], 2)
    );
    assert_eq!(from(&groups[0], 1), Epoch(0));
    assert_eq!(groups[0].snapshot(), before[0]);
    for (a, b) in [(1, 2), (2, 1)] {
        let after = groups[a].snapshot();
        let (healthy, _) = touched(&before[a], &after, Rank(b));
        assert_eq!(healthy, 0);
        send(&mut groups, a, b as usize, 40 + a as u64);
    }
}

#[cfg(feature = "soft")]
#[test]
fn a_false_alarm_heals_over_queue_pairs() {
    a_false_alarm_heals(Path::Rdma);
}

#[test]
fn a_false_alarm_heals_over_windows() {
    a_false_alarm_heals(Path::Window);
}

/// A store that forgets a lease, as one does that was away for long.
#[test]
fn a_rank_whose_lease_ended_comes_back_in_the_same_life() {
    let store = MemStore::new();
    let quick = |rank| GroupConfig {
        lease: Duration::from_millis(100),
        ..config(rank, 2, Path::Window)
    };
    let mut groups: Vec<Group> = (0..2).map(|rank| open(&quick(rank), &store)).collect();
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    // Rank 1 has run ahead when it is noticed.
    run_past(&[&groups[0]], Epoch(3));
    run_past(&[&groups[1]], Epoch(901));
    for lease in 0..10 {
        store.revoke(ep_transport::store::LeaseId(lease)).unwrap();
    }
    let regained = |group: &Group| {
        let events = group.take_events();
        events
            .iter()
            .any(|event| matches!(event, MemberEvent::LeaseRegained { .. }))
    };
    for group in &groups {
        eventually("another lease", || regained(group));
    }
    let counts = |group: &Group, rank: u32| {
        let row = group.control().participation(Rank(rank)).unwrap();
        row.incarnation == Incarnation(1) && row.active_until == Epoch(u64::MAX)
    };
    eventually("being taken in again", || {
        counts(&groups[0], 1) && counts(&groups[1], 0)
    });
    let epoch = groups[1].control().begin_round();
    assert!(epoch < Epoch(100), "{epoch:?}");
    assert!(groups[1].control().is_active(Rank(0), epoch));
    send(&mut groups, 0, 1, 77);
    send(&mut groups, 1, 0, 78);
}

/// The store gave a rank up while it was stopped, and another process took its place.
/// When it goes on, it is told, reaches nobody, and takes nothing from its successor.
#[cfg(feature = "soft")]
#[test]
fn a_process_that_was_replaced_while_it_stood_still_is_told() {
    let store = MemStore::new();
    let mut groups = form(2, Path::Rdma, &store);
    let mut old = groups.pop().unwrap();
    for lease in 0..10 {
        store.revoke(ep_transport::store::LeaseId(lease)).unwrap();
    }
    // The lease of rank 0 is taken anew, by itself; that of rank 1 has a successor.
    let mut new = Group::open(&config(1, 2, Path::Rdma), REGION, Arc::new(store.clone())).unwrap();
    assert_eq!(new.incarnation(), Incarnation(2));
    new.wait_admitted(PATIENCE).unwrap();
    eventually("being told", || old.superseded() == Some(Incarnation(2)));
    let told = old.take_events();
    let by = Incarnation(2);
    let telling = |e: &MemberEvent| matches!(e, MemberEvent::Superseded { by: b, .. } if *b == by);
    assert_eq!(
        told.iter().filter(|event| telling(event)).count(),
        1,
        "{told:?}"
    );
    let next = old.control().next_epoch();
    eventually("masks", || !old.control().is_active(Rank(0), next));
    let from = new.control().next_epoch();
    eventually("admission", || groups[0].control().is_active(Rank(1), from));
    // What it writes all the same does not arrive.
    groups[0].region().write(65536, &[7; 64]).unwrap();
    old.region().write(8192, &[1; 64]).unwrap();
    eventually("an error", || {
        let sent = old.write(Rank(0), 0, 8192, 65536, 64);
        sent.and_then(|()| old.ring(Rank(0), Half::Even)).is_err()
            || old.reusable(Rank(0), Half::Even).is_err()
    });
    let mut there = [0; 64];
    groups[0].region().read(65536, &mut there).unwrap();
    assert_eq!(there, [7; 64]);
    // Its end takes nothing from the new life.
    drop(old);
    let mut groups = vec![groups.remove(0), new];
    send(&mut groups, 0, 1, 5);
    send(&mut groups, 1, 0, 6);
}
