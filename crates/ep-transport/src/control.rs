//! The table that decides who takes part in which operation.
//!
//! One thread runs operations (the data path); one thread changes the membership
//! (the agent). They share this block and nothing else. In the GPU form the same
//! words live in device memory, so every rule here is a rule about plain words:
//!
//! - a rank takes part in epoch `e` if `active_from <= e < active_until`;
//! - a rank is masked by lowering `active_until`, by either side;
//! - a rank is admitted by the agent only, only after it was masked and after
//!   every operation that began before the mask has ended ([`Control::quiesce`]);
//! - the data path begins no operation at or beyond `run_limit`, which is how the
//!   agent promises the other ranks that an agreed epoch still lies ahead;
//! - a rank that comes in goes on at the agreed epoch: the agent says so in `resume`,
//!   and the data path takes it from there between two rounds. Until then it runs
//!   alone, whatever the rows say, since its epochs are not those of the others.

use crate::error::{Error, Refusal};
use crate::ids::{Epoch, Incarnation, Rank, RankSet};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::sync::atomic::Ordering::SeqCst;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::time::{Duration, Instant};

const NEVER: u64 = u64::MAX;
/// In `resume`: the counter is right.
const GO_ON: u64 = u64::MAX;
/// In `resume`: the rows are being written.
const DETACHED: u64 = u64::MAX - 1;

#[derive(Debug)]
struct Entry {
    active_from: AtomicU64,
    active_until: AtomicU64,
    incarnation: AtomicU32,
}

/// When a rank takes part, and in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participation {
    /// First epoch in which the rank takes part.
    pub active_from: Epoch,
    /// First epoch in which it does not any more.
    pub active_until: Epoch,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// Epoch counter, membership table and run limit of one rank.
#[derive(Debug)]
pub struct Control {
    entries: Vec<Entry>,
    next_epoch: AtomicU64,
    run_limit: AtomicU64,
    // Operations begun and ended, refused ones counted in both.
    begun: AtomicU64,
    ended: AtomicU64,
    own_incarnation: AtomicU32,
    /// The epoch at which this rank goes on, or [`GO_ON`] or [`DETACHED`].
    resume: AtomicU64,
    /// The epoch after the last one in which this rank counted anybody.
    shared_until: AtomicU64,
    /// How many times operations have masked a rank.
    losses: AtomicU64,
    /// Operations of a round.
    round: u64,
}

impl Control {
    /// A table for `capacity` ranks, nobody active, next epoch 0, no run limit, and
    /// rounds of one operation.
    #[must_use]
    pub fn new(capacity: u32, own: Incarnation) -> Self {
        let entries = (0..capacity)
            .map(|_| Entry {
                active_from: AtomicU64::new(NEVER),
                active_until: AtomicU64::new(0),
                incarnation: AtomicU32::new(0),
            })
            .collect();
        Self {
            entries,
            next_epoch: AtomicU64::new(0),
            run_limit: AtomicU64::new(NEVER),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            own_incarnation: AtomicU32::new(own.0),
            resume: AtomicU64::new(GO_ON),
            shared_until: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            round: 1,
        }
    }

    /// The same with rounds of `operations` operations: the counter goes on elsewhere
    /// only between two rounds.
    #[must_use]
    pub fn with_round(mut self, operations: u64) -> Self {
        self.round = operations.max(1);
        self
    }

    /// This rank's own incarnation, which its signals carry.
    #[must_use]
    pub fn own_incarnation(&self) -> Incarnation {
        Incarnation(self.own_incarnation.load(SeqCst))
    }

    /// Ranks that the table holds.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The table's row for `rank`, or `None` beyond the capacity.
    #[must_use]
    pub fn participation(&self, rank: Rank) -> Option<Participation> {
        self.entries.get(rank.index()).map(|entry| Participation {
            active_from: Epoch(entry.active_from.load(SeqCst)),
            active_until: Epoch(entry.active_until.load(SeqCst)),
            incarnation: Incarnation(entry.incarnation.load(SeqCst)),
        })
    }

    /// Whether `rank` takes part in `epoch`. Cheap: wait loops ask it again and again.
    #[must_use]
    pub fn is_active(&self, rank: Rank, epoch: Epoch) -> bool {
        self.entries.get(rank.index()).is_some_and(|entry| {
            entry.active_from.load(SeqCst) <= epoch.0
                && epoch.0 < entry.active_until.load(SeqCst)
                // After the row: the agent writes in the opposite order.
                && self.resume.load(SeqCst) == GO_ON
        })
    }

    /// Whether this life of `rank` was admitted and not masked since.
    #[must_use]
    pub(crate) fn counts(&self, rank: Rank, incarnation: Incarnation) -> bool {
        self.participation(rank)
            .is_some_and(|row| row.incarnation == incarnation && row.active_until.0 == NEVER)
    }

    /// Fills `set` with the ranks that take part in `epoch`.
    pub fn active(&self, epoch: Epoch, set: &mut RankSet) {
        set.clear();
        for rank in (0..self.capacity()).map(Rank) {
            if self.is_active(rank, epoch) {
                set.insert(rank);
            }
        }
    }

    /// Masks `rank` from `epoch` on. Used by the data path when the rank did not
    /// answer in that epoch; no effect on a life that begins later than `epoch`.
    pub fn mask(&self, rank: Rank, epoch: Epoch) {
        if let Some(entry) = self.entries.get(rank.index())
            && entry.active_from.load(SeqCst) <= epoch.0
        {
            entry.active_until.fetch_min(epoch.0, SeqCst);
            // Last: who sees the number sees the row.
            self.losses.fetch_add(1, SeqCst);
        }
    }

    /// Masks `rank` at once and for every epoch. Used by the agent when it learns
    /// of a death; wait loops see it and stop waiting.
    pub fn mask_now(&self, rank: Rank) {
        if let Some(entry) = self.entries.get(rank.index()) {
            entry.active_until.store(0, SeqCst);
        }
    }

    /// Admits `rank` from epoch `from` on. Only for a rank that is masked and
    /// after [`Control::quiesce`], so that no operation still counts its last life.
    pub fn admit(&self, rank: Rank, incarnation: Incarnation, from: Epoch) {
        if let Some(entry) = self.entries.get(rank.index()) {
            entry.incarnation.store(incarnation.0, SeqCst);
            entry.active_from.store(from.0, SeqCst);
            // Last: until now the row said "not active" whatever the other words were.
            entry.active_until.store(NEVER, SeqCst);
        }
    }

    /// Notes that others take part in `epoch`. The data path says so before it sends
    /// them anything: no epoch is used twice between the same two lives.
    pub fn share(&self, epoch: Epoch) {
        self.shared_until.store(epoch.0.saturating_add(1), SeqCst);
    }

    /// The first epoch that this rank has not used together with others.
    #[must_use]
    pub(crate) fn unshared(&self) -> Epoch {
        Epoch(self.shared_until.load(SeqCst))
    }

    /// The epoch that the next operation will have, or the next round, if this rank
    /// is to go on elsewhere.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        match self.resume.load(SeqCst) {
            GO_ON | DETACHED => Epoch(self.next_epoch.load(SeqCst)),
            resume => Epoch(resume),
        }
    }

    /// From now on this rank counts nobody, until it has gone on at the epoch that
    /// [`Control::resume_at`] will say. Used by the agent before it writes the rows of
    /// those among whom this rank comes in.
    pub fn detach(&self) {
        self.resume.store(DETACHED, SeqCst);
    }

    /// Makes the data path go on at `epoch` when its round has ended.
    pub fn resume_at(&self, epoch: Epoch) {
        self.resume.store(epoch.0, SeqCst);
    }

    /// Begins a round: goes on at another epoch if that was agreed, and returns the
    /// epoch that the round begins with. In the middle of a round nothing changes.
    /// Only the data path calls it.
    pub fn begin_round(&self) -> Epoch {
        let next = self.next_epoch.load(SeqCst);
        let resume = self.resume.load(SeqCst);
        if matches!(resume, GO_ON | DETACHED) || !next.is_multiple_of(self.round) {
            return Epoch(next);
        }
        self.next_epoch.store(resume, SeqCst);
        // Unless the agent has something else in mind by now.
        let _ = self.resume.compare_exchange(resume, GO_ON, SeqCst, SeqCst);
        Epoch(resume)
    }

    /// Begins an operation, unless its epoch is at or beyond the run limit.
    /// Only the data path calls it, and calls [`Control::end`] after it.
    #[must_use]
    pub fn try_begin(&self) -> Option<Epoch> {
        let epoch = self.next_epoch.load(SeqCst);
        self.begun.fetch_add(1, SeqCst);
        // Announce, then look at the limit and the table; the agent changes those,
        // then looks at what was announced. With a fence between the two on both
        // sides, one of them sees the other.
        fence(SeqCst);
        if epoch >= self.run_limit.load(SeqCst) {
            self.ended.fetch_add(1, SeqCst);
            return None;
        }
        self.next_epoch.store(epoch + 1, SeqCst);
        Some(Epoch(epoch))
    }

    /// Begins an operation whatever the run limit says: for a data path that has
    /// waited for a decision as long as it may.
    #[must_use]
    pub fn begin_beyond_limit(&self) -> Epoch {
        let epoch = self.next_epoch.load(SeqCst);
        let limit = self.run_limit.load(SeqCst);
        if epoch >= limit {
            // Only the promise that is in the way: if the agent has made another one
            // meanwhile, that one lies ahead and holds.
            let _ = self
                .run_limit
                .compare_exchange(limit, NEVER, SeqCst, SeqCst);
        }
        self.begun.fetch_add(1, SeqCst);
        self.next_epoch.store(epoch + 1, SeqCst);
        Epoch(epoch)
    }

    /// Ends the operation that was begun last.
    pub fn end(&self) {
        self.ended.fetch_add(1, SeqCst);
    }

    /// Promises to begin no operation at or beyond the returned epoch, which lies
    /// `ahead` operations ahead of the counter, until [`Control::release`].
    #[must_use]
    pub fn promise(&self, ahead: u64) -> Epoch {
        loop {
            let limit = self.next_epoch().0.saturating_add(ahead.max(1));
            self.run_limit.store(limit, SeqCst);
            fence(SeqCst);
            // Operations may have begun between the two lines above. Of those that
            // read the old limit, at most one has not moved the counter yet, and its
            // epoch is what the counter shows now.
            if self.next_epoch().0 < limit {
                return Epoch(limit);
            }
        }
    }

    /// Ends the promise.
    pub fn release(&self) {
        self.run_limit.store(NEVER, SeqCst);
    }

    /// How many operations have begun. Whoever has just masked a rank and sees
    /// [`Control::has_ended`] for this count knows that nobody counts the rank any more.
    fn begun(&self) -> u64 {
        fence(SeqCst);
        self.begun.load(SeqCst)
    }

    fn has_ended(&self, count: u64) -> bool {
        self.ended.load(SeqCst) >= count
    }

    /// Waits until every operation that had begun when this was called has ended.
    /// Returns false if that took longer than `limit`.
    #[must_use]
    pub fn quiesce(&self, limit: Duration) -> bool {
        let count = self.begun();
        let deadline = crate::clock::deadline(limit);
        while !self.has_ended(count) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    }
}

/// What the membership agent needs of the table, wherever it is. Each method is described
/// at [`Control`]; memory of a device may fail.
pub(crate) trait Admission: Send + Sync {
    fn capacity(&self) -> u32;
    fn counts(&self, rank: Rank, incarnation: Incarnation) -> Result<bool, Error>;
    /// A number that is another one whenever operations have masked a rank, if there is one.
    fn losses(&self) -> Option<u64>;
    fn mask_now(&self, rank: Rank) -> Result<(), Error>;
    fn quiesce(&self, limit: Duration) -> Result<bool, Error>;
    fn promise(&self, ahead: u64) -> Result<Epoch, Error>;
    fn unshared(&self) -> Result<Epoch, Error>;
    /// Admits these ranks, or, if it is this rank's `own` admission, has it go on among
    /// them at that epoch; and ends the promise. Returns the epoch that it came to be.
    fn admit(
        &self,
        ranks: &[(Rank, Incarnation)],
        from: Epoch,
        own: bool,
    ) -> Result<Epoch, Refusal>;
    fn release(&self) -> Result<(), Error>;
}

impl Admission for Control {
    fn capacity(&self) -> u32 {
        self.capacity()
    }

    fn counts(&self, rank: Rank, incarnation: Incarnation) -> Result<bool, Error> {
        Ok(self.counts(rank, incarnation))
    }

    fn losses(&self) -> Option<u64> {
        Some(self.losses.load(SeqCst))
    }

    fn mask_now(&self, rank: Rank) -> Result<(), Error> {
        self.mask_now(rank);
        Ok(())
    }

    fn quiesce(&self, limit: Duration) -> Result<bool, Error> {
        Ok(self.quiesce(limit))
    }

    fn promise(&self, ahead: u64) -> Result<Epoch, Error> {
        Ok(self.promise(ahead))
    }

    fn unshared(&self) -> Result<Epoch, Error> {
        Ok(self.unshared())
    }

    fn admit(
        &self,
        ranks: &[(Rank, Incarnation)],
        from: Epoch,
        own: bool,
    ) -> Result<Epoch, Refusal> {
        if own {
            self.detach();
        }
        for (rank, incarnation) in ranks {
            self.admit(*rank, *incarnation, from);
        }
        if own {
            self.resume_at(from);
        }
        self.release();
        Ok(from)
    }

    fn release(&self) -> Result<(), Error> {
        self.release();
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_rank_counts_between_its_two_epochs() {
        let control = Control::new(3, Incarnation(1));
        control.admit(Rank(1), Incarnation(4), Epoch(10));
        assert!(!control.is_active(Rank(1), Epoch(9)));
        assert!(control.is_active(Rank(1), Epoch(10)));
        control.mask(Rank(1), Epoch(20));
        assert!(control.is_active(Rank(1), Epoch(19)));
        assert!(!control.is_active(Rank(1), Epoch(20)));
        control.mask_now(Rank(1));
        assert!(!control.is_active(Rank(1), Epoch(10)));
        assert!(!control.is_active(Rank(7), Epoch(10)));
        let mut set = RankSet::new(3);
        control.admit(Rank(2), Incarnation(1), Epoch(0));
        control.active(Epoch(5), &mut set);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Rank(2)]);
    }

    #[test]
    fn a_time_out_of_the_last_life_does_not_mask_the_next() {
        let control = Control::new(2, Incarnation(1));
        control.mask_now(Rank(1));
        control.admit(Rank(1), Incarnation(2), Epoch(30));
        control.mask(Rank(1), Epoch(29));
        assert!(control.is_active(Rank(1), Epoch(30)));
    }

    #[test]
    fn who_comes_in_counts_nobody_before_its_counter_has_moved() {
        let control = Control::new(2, Incarnation(1)).with_round(2);
        for epoch in 0..301 {
            assert_eq!(control.try_begin(), Some(Epoch(epoch)));
            control.end();
        }
        control.detach();
        control.admit(Rank(1), Incarnation(1), Epoch(40));
        assert_eq!(control.begin_round(), Epoch(301));
        control.resume_at(Epoch(40));
        // In the middle of a round, whose epoch the row seems to include.
        assert_eq!(control.begin_round(), Epoch(301));
        assert!(!control.is_active(Rank(1), Epoch(301)));
        assert_eq!(control.next_epoch(), Epoch(40));
        assert_eq!(control.promise(3), Epoch(43));
        control.release();
        assert_eq!(control.try_begin(), Some(Epoch(301)));
        control.end();
        assert_eq!(control.begin_round(), Epoch(40));
        assert!(control.is_active(Rank(1), Epoch(40)));
        assert_eq!(control.try_begin(), Some(Epoch(40)));
    }

    #[test]
    fn no_operation_begins_beyond_the_promise() {
        let control = Control::new(1, Incarnation(1));
        assert_eq!(control.try_begin(), Some(Epoch(0)));
        control.end();
        assert_eq!(control.promise(2), Epoch(3));
        assert_eq!(control.try_begin(), Some(Epoch(1)));
        control.end();
        assert_eq!(control.try_begin(), Some(Epoch(2)));
        control.end();
        assert_eq!(control.try_begin(), None);
        assert!(control.quiesce(Duration::ZERO));
        control.release();
        assert_eq!(control.try_begin(), Some(Epoch(3)));
        assert!(!control.quiesce(Duration::from_millis(1)));
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p ep-transport --lib loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const PEER: Rank = Rank(1);

    #[test]
    fn no_operation_begins_at_or_beyond_a_promise() {
        loom::model(|| {
            let control = Arc::new(Control::new(1, Incarnation(1)));
            let data_path = {
                let control = Arc::clone(&control);
                thread::spawn(move || {
                    let mut last = None;
                    for _ in 0..2 {
                        if let Some(epoch) = control.try_begin() {
                            last = Some(epoch);
                            control.end();
                        }
                    }
                    last
                })
            };
            let limit = control.promise(1);
            let last = data_path.join().unwrap();
            assert!(last.is_none_or(|epoch| epoch < limit), "{last:?} {limit:?}");
        });
    }

    #[test]
    fn no_operation_before_the_agreed_epoch_counts_those_who_were_admitted() {
        loom::model(|| {
            let control = Arc::new(Control::new(2, Incarnation(1)));
            // This rank has run ahead of the others, alone.
            control.resume_at(Epoch(9));
            control.begin_round();
            let data_path = {
                let control = Arc::clone(&control);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let round = control.begin_round();
                        let epoch = control.try_begin().unwrap();
                        assert_eq!(round, epoch);
                        assert!(
                            epoch < Epoch(9) || !control.is_active(PEER, epoch),
                            "{epoch:?}"
                        );
                        control.end();
                    }
                })
            };
            control.detach();
            control.admit(PEER, Incarnation(1), Epoch(4));
            control.resume_at(Epoch(4));
            data_path.join().unwrap();
        });
    }

    #[test]
    fn after_mask_and_quiet_no_operation_counts_the_old_life() {
        loom::model(|| {
            let control = Arc::new(Control::new(2, Incarnation(1)));
            control.admit(PEER, Incarnation(1), Epoch(0));
            let link_in_use = Arc::new(loom::sync::atomic::AtomicBool::new(false));
            let data_path = {
                let (control, in_use) = (Arc::clone(&control), Arc::clone(&link_in_use));
                thread::spawn(move || {
                    if let Some(epoch) = control.try_begin() {
                        if control.is_active(PEER, epoch) {
                            in_use.store(true, SeqCst);
                            thread::yield_now();
                            in_use.store(false, SeqCst);
                        }
                        control.end();
                    }
                })
            };
            control.mask_now(PEER);
            let count = control.begun();
            if control.has_ended(count) {
                // The agent would now reset the link and map other memory there.
                assert!(!link_in_use.load(SeqCst));
                control.admit(PEER, Incarnation(2), Epoch(5));
            }
            data_path.join().unwrap();
        });
    }
}
