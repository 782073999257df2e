//! What every rendezvous store has to do, tried through two clients of one store.

use ep_transport::store::{LeaseId, MAX_KEY, MAX_VALUE, Rendezvous, Revision, StoreError, Swap};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

/// One store, seen by two clients.
pub(crate) struct Subject<'a> {
    pub(crate) one: &'a dyn Rendezvous,
    pub(crate) two: &'a dyn Rendezvous,
    /// The shortest lease that the store grants.
    pub(crate) ttl: Duration,
}

/// Tries everything; keys of each part have a prefix of their own.
pub(crate) fn all(subject: &Subject<'_>) {
    values_are_kept(subject);
    a_swap_is_won_once(subject);
    changes_come_in_order(subject);
    a_wait_ends_with_the_first_change(subject);
    no_limit_is_too_long(subject);
    much_is_listed(subject);
    no_deletion_is_missed(subject);
    what_goes_while_it_is_listed_is_not_missed(subject);
    keys_end_with_their_lease(subject);
    a_lease_that_is_kept_alive_outlives_one_that_is_not(subject);
    too_large_is_refused(subject);
}

fn values_are_kept(Subject { one, two, .. }: &Subject<'_>) {
    assert_eq!(two.get("values/a").unwrap(), None);
    let first = one.put("values/a", b"1", None).unwrap();
    let second = one.put("values/a", b"", None).unwrap();
    assert!(second > first);
    let entry = two.get("values/a").unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b""[..], second));
    two.delete("values/a").unwrap();
    two.delete("values/a").unwrap();
    assert_eq!(one.get("values/a").unwrap(), None);
}

fn a_swap_is_won_once(Subject { one, two, .. }: &Subject<'_>) {
    let winners: Vec<(usize, Revision)> = std::thread::scope(|scope| {
        let tries = (0..8).map(|i| {
            let store = if i % 2 == 0 { one } else { two };
            scope.spawn(move || store.compare_and_swap("swap/k", None, &[i as u8]))
        });
        let tries: Vec<_> = tries.collect();
        let outcomes = tries.into_iter().map(|t| t.join().unwrap().unwrap());
        outcomes
            .enumerate()
            .filter_map(|(i, outcome)| match outcome {
                Swap::Won(revision) => Some((i, revision)),
                Swap::Lost(held) => {
                    assert!(held.is_some());
                    None
                }
            })
            .collect()
    });
    let [(winner, revision)] = winners[..] else {
        panic!("won by {winners:?}");
    };
    let held = two.get("swap/k").unwrap().unwrap();
    assert_eq!((held.value, held.revision), (vec![winner as u8], revision));
    let Swap::Won(next) = one
        .compare_and_swap("swap/k", Some(revision), b"x")
        .unwrap()
    else {
        panic!("the expected revision was not accepted");
    };
    let lost = two
        .compare_and_swap("swap/k", Some(revision), b"y")
        .unwrap();
    assert!(matches!(lost, Swap::Lost(Some(held)) if held.revision == next));
    one.delete("swap/k").unwrap();
    let lost = two.compare_and_swap("swap/k", Some(next), b"y").unwrap();
    assert_eq!(lost, Swap::Lost(None));
}

type Seen = Vec<(String, Option<Vec<u8>>)>;

fn seen(
    store: &dyn Rendezvous,
    prefix: &str,
    after: Revision,
    limit: Duration,
) -> (Seen, Revision) {
    let changes = store.changes(prefix, after, limit).unwrap();
    let last = changes.changes.last().map(|change| change.revision);
    assert!(
        changes
            .changes
            .is_sorted_by(|a, b| a.revision <= b.revision)
    );
    assert!(last.is_none_or(|last| after < last && last <= changes.revision));
    let list = changes.changes.into_iter().map(|c| (c.key, c.value));
    (list.collect(), changes.revision)
}

fn some(key: &str, value: &[u8]) -> (String, Option<Vec<u8>>) {
    (key.into(), Some(value.into()))
}

fn changes_come_in_order(Subject { one, two, .. }: &Subject<'_>) {
    for (key, value) in [("b", b"1"), ("a", b"2"), ("b", b"3"), ("gone", b"4")] {
        one.put(&format!("changes/{key}"), value, None).unwrap();
    }
    one.delete("changes/gone").unwrap();
    one.put("changed/other", b"", None).unwrap();
    let (list, mut at) = seen(*two, "changes/", Revision(0), NOW);
    assert_eq!(list, [some("changes/a", b"2"), some("changes/b", b"3")]);
    let mut heard = Vec::new();
    one.put("changes/c", b"5", None).unwrap();
    one.delete("changes/a").unwrap();
    one.put("changes/b", b"6", None).unwrap();
    let deadline = Instant::now() + SOON;
    while heard.len() < 3 && Instant::now() < deadline {
        let (more, revision) = seen(*two, "changes/", at, SOON);
        heard.extend(more);
        at = revision;
    }
    let gone = ("changes/a".to_owned(), None);
    assert_eq!(
        heard,
        [some("changes/c", b"5"), gone, some("changes/b", b"6")]
    );
    assert_eq!(seen(*two, "changes/", at, NOW).0, []);
    // Somebody who had heard nothing yet, from before.
    let (again, _) = seen(*one, "changes/", Revision(0), NOW);
    assert_eq!(again, [some("changes/c", b"5"), some("changes/b", b"6")]);
}

fn a_wait_ends_with_the_first_change(Subject { one, two, .. }: &Subject<'_>) {
    let (_, at) = seen(*two, "wait/", Revision(0), NOW);
    let begun = Instant::now();
    let limit = Duration::from_millis(120);
    assert_eq!(seen(*two, "wait/", at, limit).0, []);
    assert!(begun.elapsed() >= limit);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            one.put("elsewhere/k", b"", None).unwrap();
            one.put("wait/k", b"v", None).unwrap();
        });
        let begun = Instant::now();
        assert_eq!(seen(*two, "wait/", at, SOON).0, [some("wait/k", b"v")]);
        assert!(begun.elapsed() < SOON / 2);
    });
}

fn no_limit_is_too_long(Subject { one, two, .. }: &Subject<'_>) {
    let before = one.put("ever/a", b"1", None).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| one.changes("ever/", before, Duration::MAX).unwrap());
        let after = two.put("ever/b", b"2", None).unwrap();
        // A store may let whoever waits that long ask again, but not so soon.
        let seen = waits.join().unwrap();
        let [change] = &seen.changes[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((&change.key[..], seen.revision), ("ever/b", after));
    });
}

fn much_is_listed(Subject { one, two, .. }: &Subject<'_>) {
    let value = vec![7; MAX_VALUE];
    for i in 0..12 {
        one.put(&format!("much/{i}"), &value, None).unwrap();
    }
    let (mut keys, mut at) = (Vec::new(), Revision(0));
    while keys.len() < 12 {
        let (list, revision) = seen(*two, "much/", at, NOW);
        assert!(!list.is_empty(), "only {keys:?}");
        for (key, held) in list {
            assert!(held.is_some_and(|held| held == value));
            keys.push(key);
        }
        at = revision;
    }
    let expected: Vec<String> = (0..12).map(|i| format!("much/{i}")).collect();
    assert_eq!(keys, expected);
    for key in keys {
        one.delete(&key).unwrap();
    }
}

/// What a reader knows of, told by the answers of a store alone.
#[derive(Default)]
struct Reader {
    known: BTreeSet<String>,
    at: Revision,
}

impl Reader {
    fn read(&mut self, store: &dyn Rendezvous, prefix: &str, limit: Duration) {
        let changes = store.changes(prefix, self.at, limit).unwrap();
        for change in changes.changes {
            match change.value {
                Some(_) => self.known.insert(change.key),
                None => self.known.remove(&change.key),
            };
        }
        if let Some(there) = changes.there {
            self.known.retain(|key| there.contains(key));
        }
        self.at = changes.revision;
    }

    fn read_until(&mut self, store: &dyn Rendezvous, prefix: &str, known: &[&str]) {
        let deadline = Instant::now() + SOON;
        while !self.known.iter().eq(known) {
            assert!(Instant::now() < deadline, "{:?}", self.known);
            self.read(store, prefix, Duration::from_millis(50));
        }
    }
}

fn no_deletion_is_missed(Subject { one, two, .. }: &Subject<'_>) {
    for key in ["missed/a", "missed/b", "missed/c"] {
        one.put(key, b"", None).unwrap();
    }
    let mut reader = Reader::default();
    reader.read(*two, "missed/", NOW);
    assert_eq!(reader.known.len(), 3);
    one.delete("missed/a").unwrap();
    // More than any store here remembers.
    for i in 0..4100 {
        let key = format!("passing/{i}");
        one.put(&key, b"", None).unwrap();
        one.delete(&key).unwrap();
    }
    // Told at once, although nothing else has changed under the prefix.
    let begun = Instant::now();
    reader.read(*two, "missed/", SOON);
    assert!(begun.elapsed() < SOON / 2);
    reader.read_until(*two, "missed/", &["missed/b", "missed/c"]);
}

fn what_goes_while_it_is_listed_is_not_missed(Subject { one, two, .. }: &Subject<'_>) {
    let value = vec![7; MAX_VALUE / 8];
    let keys: Vec<String> = (0..70).map(|i| format!("going/{i:02}")).collect();
    for key in &keys {
        one.put(key, &value, None).unwrap();
    }
    let mut reader = Reader::default();
    reader.read(*two, "going/", NOW);
    assert!((1..70).contains(&reader.known.len()), "all in one answer");
    one.delete(&keys[0]).unwrap();
    let left: Vec<&str> = keys[1..].iter().map(|key| &key[..]).collect();
    reader.read_until(*two, "going/", &left);
    for key in left {
        one.delete(key).unwrap();
    }
}

fn is_ended(outcome: Result<(), StoreError>, of: LeaseId) -> bool {
    matches!(outcome, Err(StoreError::LeaseEnded { lease }) if lease == of)
}

fn keys_end_with_their_lease(Subject { one, two, .. }: &Subject<'_>) {
    let lease = one.grant(SOON).unwrap();
    let other = two.grant(SOON).unwrap();
    one.put("lease/mine", b"", Some(lease)).unwrap();
    one.put("lease/taken", b"", Some(lease)).unwrap();
    one.put("lease/free", b"", Some(lease)).unwrap();
    two.put("lease/taken", b"next", Some(other)).unwrap();
    two.put("lease/free", b"next", None).unwrap();
    one.keep_alive(lease).unwrap();
    let (_, at) = seen(*two, "lease/", Revision(0), NOW);
    one.revoke(lease).unwrap();
    one.revoke(lease).unwrap();
    assert_eq!(
        seen(*two, "lease/", at, SOON).0,
        [("lease/mine".to_owned(), None)]
    );
    assert_eq!(one.get("lease/mine").unwrap(), None);
    assert!(is_ended(one.keep_alive(lease), lease));
    assert!(is_ended(
        one.put("lease/x", b"", Some(lease)).map(drop),
        lease
    ));
    two.keep_alive(other).unwrap();
    assert_eq!(one.get("lease/taken").unwrap().unwrap().value, b"next");
    two.revoke(other).unwrap();
    assert_eq!(one.get("lease/taken").unwrap(), None);
    assert_eq!(one.get("lease/free").unwrap().unwrap().value, b"next");
}

fn a_lease_that_is_kept_alive_outlives_one_that_is_not(Subject { one, two, ttl }: &Subject<'_>) {
    let kept = one.grant(*ttl).unwrap();
    let left = one.grant(*ttl).unwrap();
    one.put("ttl/kept", b"", Some(kept)).unwrap();
    one.put("ttl/left", b"", Some(left)).unwrap();
    let begun = Instant::now();
    while two.get("ttl/left").unwrap().is_some() {
        one.keep_alive(kept).unwrap();
        assert!(begun.elapsed() < *ttl + SOON, "the lease does not end");
        std::thread::sleep(*ttl / 8);
    }
    assert!(begun.elapsed() >= *ttl, "after {:?}", begun.elapsed());
    assert!(two.get("ttl/kept").unwrap().is_some());
    assert!(is_ended(one.keep_alive(left), left));
    one.revoke(kept).unwrap();
}

fn too_large_is_refused(Subject { one, .. }: &Subject<'_>) {
    let key = "k".repeat(MAX_KEY + 1);
    let error = one.put(&key, b"", None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "key of 513 bytes is over the limit of 512"
    );
    let value = vec![0; MAX_VALUE + 1];
    let error = one.compare_and_swap("k", None, &value).unwrap_err();
    assert_eq!(
        error.to_string(),
        "value of 1048577 bytes is over the limit of 1048576"
    );
}
