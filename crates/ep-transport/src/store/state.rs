//! The store's contents and rules, without clocks, threads or sockets.

use super::{Change, Changes, Entry, LeaseId, Revision, StoreError, Swap};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Deleted keys are remembered so that watchers hear of them; beyond this many the
/// oldest are forgotten.
const MAX_TOMBSTONES: usize = 4096;

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
    ends: Duration,
    keys: BTreeSet<String>,
}

/// Keys, leases and the revision counter. Times are durations since any fixed
/// instant, given by the caller.
#[derive(Debug, Default)]
pub(super) struct State {
    records: BTreeMap<String, Record>,
    tombstones: BTreeMap<Revision, String>,
    leases: BTreeMap<LeaseId, Lease>,
    revision: Revision,
    next_lease: u64,
}

impl State {
    fn bump(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn set(&mut self, key: &str, value: Option<Vec<u8>>, lease: Option<LeaseId>) -> Revision {
        let revision = self.bump();
        if let Some(old) = self.records.get(key) {
            if old.value.is_none() {
                self.tombstones.remove(&old.revision);
            }
            if let Some(lease) = old.lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(key);
            }
        }
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.to_owned());
        }
        if value.is_none() {
            self.tombstones.insert(revision, key.to_owned());
            if self.tombstones.len() > MAX_TOMBSTONES
                && let Some((_, oldest)) = self.tombstones.pop_first()
            {
                self.records.remove(&oldest);
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

    /// Changes under `prefix` after `after`, oldest first.
    pub(super) fn changes(&self, prefix: &str, after: Revision) -> Changes {
        let mut changes: Vec<Change> = self
            .records
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, record)| {
                record.revision > after && (after.0 > 0 || record.value.is_some())
            })
            .map(|(key, record)| Change {
                key: key.clone(),
                value: record.value.clone(),
                revision: record.revision,
            })
            .collect();
        changes.sort_by_key(|change| change.revision);
        Changes {
            changes,
            revision: self.revision,
        }
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.next_lease += 1;
        let id = LeaseId(self.next_lease);
        let ends = now.saturating_add(ttl);
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

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<(), StoreError> {
        let lease = self
            .leases
            .get_mut(&id)
            .ok_or(StoreError::LeaseEnded { lease: id })?;
        lease.ends = now.saturating_add(lease.ttl);
        Ok(())
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

    /// Ends every lease that is over at `now`. Whether there was one.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let over: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends <= now)
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

    #[test]
    fn keys_end_with_their_lease_unless_another_life_took_them() {
        let mut state = State::default();
        let first = state.grant(SECOND, Duration::ZERO);
        state.put("card/1", b"old", Some(first)).unwrap();
        state.put("card/2", b"kept", Some(first)).unwrap();
        let second = state.grant(SECOND * 10, SECOND / 2);
        state.put("card/1", b"new", Some(second)).unwrap();
        let seen = state.changes("card/", Revision(0)).revision;
        state.keep_alive(first, SECOND / 2).unwrap();
        assert!(!state.expire(SECOND));
        assert!(state.expire(SECOND * 2));
        assert_eq!(state.get("card/1").unwrap().value, b"new");
        let changes = state.changes("card/", seen).changes;
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (changes[0].key.as_str(), &changes[0].value),
            ("card/2", &None)
        );
        assert!(state.put("x", b"", Some(first)).is_err());
        assert!(state.keep_alive(first, SECOND).is_err());
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
}
