//! The rendezvous on etcd, with an etcd that each test starts for itself. Where none
//! is installed, the tests are skipped.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says so if it cannot begin"
)]

#[path = "../store/conformance.rs"]
mod conformance;
mod group;
mod server;

use ep_transport::store::{EtcdStore, Rendezvous, Revision, StoreError, Swap};
use libtest_mimic::{Arguments, Trial};
use server::Etcd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// What etcd grants at least, with its defaults.
const TTL: Duration = Duration::from_secs(2);
const NOW: Duration = Duration::ZERO;

fn main() -> ExitCode {
    let skip = !server::is_installed();
    if skip {
        eprintln!("skipped: no etcd here (Debian: etcd-server)");
    }
    let tests: [(&str, fn()); 8] = [
        ("the_store_on_etcd_conforms", conforms),
        ("etcd_may_be_away_for_a_while", away),
        ("an_etcd_that_hangs_holds_nobody_up", hangs),
        ("deletions_are_heard_of_after_compaction", compacted),
        ("a_wait_may_be_as_quiet_as_it_likes", quiet),
        ("a_cluster_that_is_not_there_is_named", nobody),
        (
            "an_etcd_that_lost_its_data_is_not_taken_for_the_old_one",
            lost,
        ),
        (
            "rank_0_dies_while_etcd_is_away_and_comes_back",
            group::rank_0_dies,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(skip)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn connect(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(&[&etcd.address()], PATIENCE).unwrap()
}

fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn conforms() {
    let etcd = Etcd::start();
    conformance::all(&conformance::Subject {
        one: &connect(&etcd),
        two: &connect(&etcd),
        ttl: TTL,
    });
}

fn away() {
    let mut etcd = Etcd::start();
    let store = connect(&etcd);
    store.put("k/a", b"1", None).unwrap();
    let seen = store.changes("k/", Revision(0), NOW).unwrap();
    assert_eq!(seen.changes.len(), 1);
    etcd.kill();
    let begun = Instant::now();
    let error = store.put("k/b", b"2", None).unwrap_err();
    assert!(error.to_string().contains(&etcd.address()), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
    let swap = store.compare_and_swap("k/d", None, b"");
    assert!(
        matches!(swap, Err(StoreError::Connection { .. })),
        "{swap:?}"
    );
    let begun = Instant::now();
    let heard = store.changes("k/", seen.revision, Duration::from_millis(50));
    assert!(heard.is_err() && begun.elapsed() < Duration::from_secs(7));
    etcd.run();
    // The same store, with what it knew before.
    eventually("a swap", || store.compare_and_swap("k/c", None, b"3").ok());
    let entry = store.get("k/a").unwrap().unwrap();
    assert_eq!(entry.value, b"1");
    let heard = eventually("a change", || {
        let heard = store.changes("k/", seen.revision, Duration::from_secs(1));
        heard.ok().filter(|heard| !heard.changes.is_empty())
    });
    assert_eq!(heard.changes.last().unwrap().key, "k/c");
    let lease = store.grant(TTL).unwrap();
    store.keep_alive(lease).unwrap();
}

fn hangs() {
    let etcd = Etcd::start();
    let store = connect(&etcd);
    etcd.signal("STOP");
    for call in [
        &|| store.put("k", b"", None).map(drop),
        &|| store.get("k").map(drop),
        &|| store.grant(TTL).map(drop) as _,
    ] as [&dyn Fn() -> Result<(), StoreError>; 3]
    {
        let begun = Instant::now();
        assert!(call().is_err());
        assert!(
            begun.elapsed() < Duration::from_secs(7),
            "{:?}",
            begun.elapsed()
        );
    }
    etcd.signal("CONT");
    eventually("an answer", || store.get("k").ok());
}

fn compacted() {
    let mut etcd = Etcd::start();
    let (store, other) = (connect(&etcd), connect(&etcd));
    for key in ["a", "b", "c"] {
        other.put(&format!("k/{key}"), b"old", None).unwrap();
    }
    let seen = store.changes("k/", Revision(0), NOW).unwrap();
    assert_eq!(seen.changes.len(), 3);
    // While the reader is cut off, keys change and vanish, and etcd forgets how.
    etcd.kill();
    assert!(store.changes("k/", seen.revision, NOW).is_err());
    etcd.run();
    eventually("a deletion", || other.delete("k/a").ok());
    other.delete("k/b").unwrap();
    let Swap::Won(last) = other.compare_and_swap("k/d", None, b"new").unwrap() else {
        panic!("the key is not there, and the swap was lost");
    };
    other.put("k/b", b"again", None).unwrap();
    etcd.compact(last.0);
    let changes = eventually("a list", || {
        let heard = store.changes("k/", seen.revision, Duration::from_secs(1));
        heard.ok().filter(|heard| !heard.changes.is_empty())
    });
    let heard: Vec<_> = changes
        .changes
        .iter()
        .map(|change| (change.key.as_str(), change.value.as_deref()))
        .collect();
    assert_eq!(heard, [("k/d", Some(&b"new"[..])), ("k/b", Some(b"again"))]);
    let there = ["k/b", "k/c", "k/d"].map(str::to_owned);
    assert_eq!(changes.there, Some(there.into()));
    // The same to somebody who goes on where another has read.
    let same = other.changes("k/", seen.revision, Duration::from_secs(1));
    assert_eq!(same.unwrap(), changes);
}

fn quiet() {
    let etcd = Etcd::start();
    let store = connect(&etcd);
    let at = store.put("k", b"", None).unwrap();
    // Longer than etcd bears with somebody who pings too often.
    let limit = Duration::from_secs(13);
    let begun = Instant::now();
    let heard = store.changes("never/", at, limit).unwrap();
    assert!(heard.changes.is_empty() && begun.elapsed() >= limit);
}

fn nobody() {
    let address = "http://127.0.0.1:1";
    let begun = Instant::now();
    let error = EtcdStore::connect(&[address], Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.to_string(), format!("no store at {address}"));
    assert!(begun.elapsed() < Duration::from_secs(7));
    assert!(EtcdStore::connect(&[], NOW).is_err());
}

fn lost() {
    let mut etcd = Etcd::start();
    let store = connect(&etcd);
    for _ in 0..9 {
        store.put("k", b"", None).unwrap();
    }
    let seen = store.changes("k", Revision(0), NOW).unwrap();
    etcd.kill();
    etcd.forget();
    etcd.run();
    let error = eventually("an answer", || {
        let heard = store.changes("k", seen.revision, Duration::from_millis(200));
        heard
            .err()
            .filter(|e| !matches!(e, StoreError::Connection { .. }))
    });
    assert!(matches!(error, StoreError::Replaced { .. }), "{error}");
}
