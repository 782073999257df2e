//! The store's contents and rules, without clocks, threads or sockets.

use super::{Change, Changes, Entry, LeaseId, MAX_VALUE, Revision, StoreError, Swap};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// Deleted keys are remembered so that watchers hear of them; beyond this many the
/// oldest are forgotten.
const MAX_TOMBSTONES: usize = 4096;

/// Most bytes of keys and values in one list of changes: fits in a message, and as many
/// bytes of names of keys beside it.
const MAX_ANSWER: usize = 4 * MAX_VALUE;

/// How often a store that runs looks at its clock.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// A look at the clock that comes later than this after the last one shows that the
/// store itself did not run.
const LATE: Duration = Duration::from_millis(150);

#[derive(Debug)]
struct Record {
    /// `None`: deleted.
    value: Option<Vec<u8>>,
    revision: Revision,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// By the store's own clock.
    ends: Duration,
    keys: BTreeSet<String>,
}

/// Keys, leases and the revision counter.
///
/// Leases are measured on a clock of the store's own, which stands still while the
/// store does: a stopped process or a starved machine is no reason to call those
/// dead who could not be heard. Time is given by the caller in [`State::tick`], as
/// durations since any fixed instant.
#[derive(Debug, Default)]
pub(super) struct State {
    records: BTreeMap<String, Record>,
    /// The keys of all records, by when they last changed.
    history: BTreeMap<Revision, String>,
    tombstones: BTreeSet<Revision>,
    /// The newest deletion that is not remembered any more.
    forgotten: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    revision: Revision,
    next_lease: u64,
    last_tick: Duration,
    clock: Duration,
}

impl State {
    fn bump(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn set(&mut self, key: &str, value: Option<Vec<u8>>, lease: Option<LeaseId>) -> Revision {
        let revision = self.bump();
        if let Some(old) = self.records.get(key) {
            self.history.remove(&old.revision);
            self.tombstones.remove(&old.revision);
            if let Some(lease) = old.lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(key);
            }
        }
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.to_owned());
        }
        self.history.insert(revision, key.to_owned());
        if value.is_none() {
            self.tombstones.insert(revision);
            if self.tombstones.len() > MAX_TOMBSTONES
                && let Some(oldest) = self.tombstones.pop_first()
                && let Some(key) = self.history.remove(&oldest)
            {
                self.records.remove(&key);
                self.forgotten = oldest;
            }
        }
        self.records.insert(
            key.to_owned(),
            Record {
                value,
                revision,
                lease,
            },
        );
        revision
    }

    pub(super) fn put(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        if let Some(lease) = lease
            && !self.leases.contains_key(&lease)
        {
            return Err(StoreError::LeaseEnded { lease });
        }
        Ok(self.set(key, Some(value.to_vec()), lease))
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let record = self.records.get(key)?;
        Some(Entry {
            value: record.value.clone()?,
            revision: record.revision,
        })
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.records.get(key).is_some_and(|r| r.value.is_some()) {
            self.set(key, None, None);
        }
    }

    pub(super) fn swap(&mut self, key: &str, expected: Option<Revision>, value: &[u8]) -> Swap {
        let now = self.get(key);
        if now.as_ref().map(|entry| entry.revision) == expected {
            Swap::Won(self.set(key, Some(value.to_vec()), None))
        } else {
            Swap::Lost(now)
        }
    }

    /// The state as it is now.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Keys that have changed after `after`, oldest change first.
    pub(super) fn changed(&self, after: Revision) -> impl Iterator<Item = &str> {
        let later = (Bound::Excluded(after), Bound::Unbounded);
        self.history.range(later).map(|(_, key)| key.as_str())
    }

    /// Changes under `prefix` after `after`, oldest first; the oldest only if there
    /// is more than an answer holds. With the names of all keys that are there, if
    /// deletions after `after` are forgotten.
    pub(super) fn changes(&self, prefix: &str, after: Revision) -> Changes {
        let mut changes: Vec<Change> = self
            .changed(after)
            .filter(|key| key.starts_with(prefix))
            .filter_map(|key| Some((key, self.records.get(key)?)))
            .filter(|(_, record)| after.0 > 0 || record.value.is_some())
            .map(|(key, record)| Change {
                key: key.to_owned(),
                value: record.value.clone(),
                revision: record.revision,
            })
            .collect();
        let mut bytes = 0;
        let fits = changes.iter().take_while(|change| {
            bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len);
            bytes <= MAX_ANSWER
        });
        let revision = match fits.count() {
            all if all == changes.len() => self.revision,
            some => {
                changes.truncate(some);
                changes.last().map_or(after, |change| change.revision)
            }
        };
        let missed = after.0 > 0 && after < self.forgotten;
        Changes {
            changes,
            revision,
            there: missed.then(|| self.there(prefix)),
        }
    }

    /// The keys under `prefix`.
    fn there(&self, prefix: &str) -> BTreeSet<String> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let records = self.records.range::<str, _>(from);
        records
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, record)| record.value.is_some())
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> LeaseId {
        self.next_lease += 1;
        let id = LeaseId(self.next_lease);
        let ends = self.clock.saturating_add(ttl);
        self.leases.insert(
            id,
            Lease {
                ttl,
                ends,
                keys: BTreeSet::new(),
            },
        );
        id
    }

    /// Renews a lease that has not been ended, even if it is over: a sign of life
    /// that was on its way counts.
    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let lease = self
            .leases
            .get_mut(&id)
            .ok_or(StoreError::LeaseEnded { lease: id })?;
        lease.ends = self.clock.saturating_add(lease.ttl);
        Ok(())
    }

    pub(super) fn holds(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Ends a lease and deletes its keys. Whether there was such a lease.
    pub(super) fn revoke(&mut self, id: LeaseId) -> bool {
        let Some(lease) = self.leases.remove(&id) else {
            return false;
        };
        for key in lease.keys {
            self.set(&key, None, None);
        }
        true
    }

    /// Takes in that it is `now` and ends every lease that is over. Whether there
    /// was one.
    ///
    /// Of a time in which the store did not run only one [`TICK`] counts. It is not
    /// nothing, so that leases end on a machine that is always late, too.
    pub(super) fn tick(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.last_tick);
        self.last_tick = self.last_tick.max(now);
        self.clock += if passed > LATE { TICK } else { passed };
        let over: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends <= self.clock)
            .map(|(id, _)| *id)
            .collect();
        let any = !over.is_empty();
        for id in over {
            self.revoke(id);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_swap_is_won_once() {
        let mut state = State::default();
        assert!(matches!(state.swap("k", None, b"a"), Swap::Won(_)));
        let Swap::Lost(Some(held)) = state.swap("k", None, b"b") else {
            panic!("won twice");
        };
        assert_eq!(held.value, b"a");
        assert!(matches!(
            state.swap("k", Some(held.revision), b"c"),
            Swap::Won(_)
        ));
        state.delete("k");
        assert!(matches!(
            state.swap("k", Some(held.revision), b"d"),
            Swap::Lost(None)
        ));
        assert!(matches!(state.swap("k", None, b"e"), Swap::Won(_)));
    }

    /// Lets the store run, with its clock looked at in time, until `to`.
    fn run(state: &mut State, to: Duration) -> bool {
        let mut any = false;
        while state.last_tick < to {
            any |= state.tick((state.last_tick + TICK).min(to));
        }
        any
    }

    #[test]
    fn keys_end_with_their_lease_unless_another_life_took_them() {
        let mut state = State::default();
        let first = state.grant(SECOND);
        state.put("card/1", b"old", Some(first)).unwrap();
        state.put("card/2", b"kept", Some(first)).unwrap();
        run(&mut state, SECOND / 2);
        let second = state.grant(SECOND * 10);
        state.put("card/1", b"new", Some(second)).unwrap();
        let seen = state.changes("card/", Revision(0)).revision;
        state.keep_alive(first).unwrap();
        assert!(!run(&mut state, SECOND));
        assert!(run(&mut state, SECOND * 2));
        assert_eq!(state.get("card/1").unwrap().value, b"new");
        let changes = state.changes("card/", seen).changes;
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (changes[0].key.as_str(), &changes[0].value),
            ("card/2", &None)
        );
        assert!(state.put("x", b"", Some(first)).is_err());
        assert!(state.keep_alive(first).is_err());
    }

    #[test]
    fn time_in_which_the_store_did_not_run_ends_no_lease() {
        let mut state = State::default();
        let (heard, silent) = (state.grant(SECOND), state.grant(SECOND));
        run(&mut state, SECOND / 2);
        // Stopped for a minute, in which both clients sent what nobody read.
        assert!(!state.tick(SECOND * 60));
        state.keep_alive(heard).unwrap();
        // What the silent one had left when the store stopped is what it has now.
        let left = SECOND / 2 - TICK;
        let almost = SECOND * 60 + left - TICK;
        assert!(!run(&mut state, almost));
        assert!(run(&mut state, almost + TICK));
        assert!(state.keep_alive(silent).is_err());
        state.keep_alive(heard).unwrap();
        assert!(run(&mut state, almost + TICK + SECOND));
        assert!(state.keep_alive(heard).is_err());
    }

    #[test]
    fn a_store_that_is_always_late_ends_leases_at_last() {
        let mut state = State::default();
        let lease = state.grant(SECOND);
        let ticks = (1..).map(|n| SECOND * n);
        let ended = ticks.take(100).position(|now| state.tick(now));
        assert_eq!(ended, Some(19));
        assert!(state.keep_alive(lease).is_err());
    }

    #[test]
    fn a_sign_of_life_that_was_queued_counts_before_the_lease_is_ended() {
        let mut state = State::default();
        let lease = state.grant(SECOND);
        run(&mut state, SECOND - TICK);
        // Its time is over, and nobody has looked since.
        state.keep_alive(lease).unwrap();
        assert!(!state.tick(SECOND));
        state.put("k", b"", Some(lease)).unwrap();
    }

    #[test]
    fn changes_come_in_order_and_deleted_keys_are_bounded() {
        let mut state = State::default();
        state.put("b", b"1", None).unwrap();
        state.put("a", b"2", None).unwrap();
        state.put("b", b"3", None).unwrap();
        let changes = state.changes("", Revision(0));
        let keys: Vec<&str> = changes.changes.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, ["a", "b"]);
        for i in 0..2 * MAX_TOMBSTONES {
            let key = format!("t/{i}");
            state.put(&key, b"", None).unwrap();
            state.delete(&key);
        }
        assert_eq!(state.records.len(), 2 + MAX_TOMBSTONES);
        assert!(state.changes("t/", Revision(0)).changes.is_empty());
    }

    #[test]
    fn who_may_have_missed_a_deletion_is_told_what_is_there_and_nobody_else_is() {
        let mut state = State::default();
        for key in ["k/a", "k/b", "k/c"] {
            state.put(key, b"1", None).unwrap();
        }
        let seen = state.changes("k/", Revision(0)).revision;
        state.delete("k/a");
        state.put("k/b", b"2", None).unwrap();
        state.delete("k/c");
        let fill = |state: &mut State, times| {
            for i in 0..times {
                let key = format!("t/{i}");
                state.put(&key, b"", None).unwrap();
                state.delete(&key);
            }
        };
        // As many as are remembered.
        fill(&mut state, MAX_TOMBSTONES - 2);
        let all = state.changes("k/", seen);
        assert_eq!((all.changes.len(), all.there), (3, None));
        // The deletion of k/a is forgotten.
        fill(&mut state, MAX_TOMBSTONES - 1);
        let late = state.changes("k/", seen);
        let keys: Vec<&str> = late.changes.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, ["k/b", "k/c"]);
        assert_eq!(late.there, Some(BTreeSet::from(["k/b".to_owned()])));
        // Who has read that, who has seen the deletion, and who begins.
        for after in [late.revision, Revision(seen.0 + 1), Revision(0)] {
            assert_eq!(state.changes("k/", after).there, None, "{after:?}");
        }
    }

    #[test]
    fn a_long_list_is_read_to_its_end_while_deletions_are_forgotten() {
        let mut state = State::default();
        for i in 0..9 {
            let value = vec![0; MAX_VALUE];
            state.put(&format!("k/{i}"), &value, None).unwrap();
        }
        let (mut known, mut at) = (BTreeSet::new(), Revision(0));
        for _ in 0..3 {
            let page = state.changes("k/", at);
            assert!(!page.changes.is_empty());
            known.extend(page.changes.into_iter().map(|change| change.key));
            if let Some(there) = page.there {
                known.retain(|key| there.contains(key));
            }
            at = page.revision;
            state.delete("k/0");
            for i in 0..=MAX_TOMBSTONES {
                let key = format!("t/{i}");
                state.put(&key, b"", None).unwrap();
                state.delete(&key);
            }
        }
        let expected: BTreeSet<String> = (1..9).map(|i| format!("k/{i}")).collect();
        assert_eq!(known, expected);
    }
}
