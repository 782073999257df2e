//! The store between the ranks, and what becomes of what is put there.

use super::super::super::*;
use std::cmp::Ordering;
use std::sync::Arc;

/// Where a record is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Key {
    Left(Rank),
    Card(Life),
    Coming(Life),
    Masked(Rank),
    Proposal(u64),
    Offers(u64, Rank),
    Linked(u64, Rank),
    Go(u64),
    Ready(u64, Rank),
    Decision(u64),
}

impl Key {
    pub(super) fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Left((rank, _)) => Self::Left(*rank),
            Event::Card(card) => Self::Card((card.rank, card.incarnation)),
            Event::Gone(life) => Self::Card(*life),
            Event::Coming(life, _) => Self::Coming(*life),
            Event::Masked(rank, _) => Self::Masked(*rank),
            Event::Proposal(n, _) => Self::Proposal(*n),
            Event::Offers(n, rank, _) => Self::Offers(*n, *rank),
            Event::Linked(n, rank) => Self::Linked(*n, *rank),
            Event::Go(n) => Self::Go(*n),
            Event::Ready(n, rank, _) => Self::Ready(*n, *rank),
            Event::Decision(n, _) => Self::Decision(*n),
            _ => return None,
        })
    }

    /// The attempt, the kind of record, and whose it is.
    fn place(self) -> (u64, u8, Rank, Incarnation) {
        let none = (Rank(0), Incarnation(0));
        let (attempt, kind, (rank, incarnation)) = match self {
            Self::Left(rank) => (0, 0, (rank, none.1)),
            Self::Card(life) => (0, 1, life),
            Self::Coming(life) => (0, 2, life),
            Self::Masked(rank) => (0, 3, (rank, none.1)),
            Self::Proposal(n) => (n, 4, none),
            Self::Offers(n, rank) => (n, 5, (rank, none.1)),
            Self::Linked(n, rank) => (n, 6, (rank, none.1)),
            Self::Go(n) => (n, 7, none),
            Self::Ready(n, rank) => (n, 8, (rank, none.1)),
            Self::Decision(n) => (n, 9, none),
        };
        (attempt, kind, rank, incarnation)
    }

    /// What a rank answers in an attempt: it takes that away when the attempt is decided.
    fn is_answer(self) -> bool {
        matches!(self, Self::Offers(..) | Self::Linked(..) | Self::Ready(..))
    }

    /// Whether it hangs on the lease of `rank`, and goes with it.
    fn hangs_on(self, rank: Rank) -> bool {
        let leased = self.is_answer() || matches!(self, Self::Masked(_));
        leased && self.place().2 == rank
    }
}

/// The order in which a list of what is there comes: that in which it was written, as
/// far as that makes a difference.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// In place of what was there; with the writer's lease it goes.
    Leased,
    /// In place of what was there, to stay.
    Free,
    /// If there is nothing yet.
    Once,
}

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in super::super) struct Board {
    records: BTreeMap<Key, Arc<Event>>,
    /// Every commit that was ever decided, and what was proposed: the store forgets them.
    commits: BTreeMap<u64, (Epoch, Proposal)>,
    /// What has changed since the processes' inboxes were last filled; nothing to be
    /// told of what was taken away.
    pub(super) news: Vec<(Key, Option<Arc<Event>>)>,
}

impl Board {
    pub(in super::super) fn has(&self, key: Key) -> bool {
        self.records.contains_key(&key)
    }

    pub(in super::super) fn decision(&self, number: u64) -> Option<&Decision> {
        match self.records.get(&Key::Decision(number)).map(|e| &**e) {
            Some(Event::Decision(_, decision)) => Some(decision),
            _ => None,
        }
    }

    fn proposal(&self, number: u64) -> Option<&Proposal> {
        match self.records.get(&Key::Proposal(number)).map(|e| &**e) {
            Some(Event::Proposal(_, proposal)) => Some(proposal),
            _ => None,
        }
    }

    /// What a life finds when it begins to look.
    pub(super) fn list(&self, life: Life) -> Vec<Arc<Event>> {
        let there = self.records.values();
        there
            .filter(|event| self.is_for(life, event))
            .cloned()
            .collect()
    }

    /// Whether what was published is where this life looks.
    pub(super) fn is_for(&self, life: Life, event: &Event) -> bool {
        let hears_all = |n: &u64| self.proposal(*n).is_some_and(|p| p.hears_all(life));
        match event {
            Event::Offers(n, rank, _) => {
                hears_all(n) || self.proposal(*n).is_some_and(|p| p.changes(*rank))
            }
            Event::Linked(n, _) | Event::Ready(n, ..) => hears_all(n),
            _ => true,
        }
    }

    /// Decided: commit, at this epoch.
    pub(in super::super) fn commits(&self) -> impl Iterator<Item = (u64, Epoch, &Proposal)> {
        let commits = self.commits.iter();
        commits.map(|(n, (from, proposal))| (*n, *from, proposal))
    }

    /// Whether the others can see that something happened.
    pub(super) fn is_heard(&self) -> bool {
        self.news.iter().any(|(_, event)| event.is_some())
    }

    pub(in super::super) fn publish(&mut self, event: Event) {
        let Some(key) = Key::of(&event) else { return };
        if let Event::Decision(n, Decision::Commit { from }) = event
            && let Some(proposal) = self.proposal(n).cloned()
        {
            self.commits.insert(n, (from, proposal));
        }
        let event = Arc::new(event);
        if let Event::Gone((rank, _)) = *event {
            self.remove(|key| key.hangs_on(rank));
            self.records.remove(&key);
        } else {
            self.records.insert(key, Arc::clone(&event));
        }
        self.news.push((key, Some(event)));
    }

    /// The first record under a key stays.
    pub(super) fn publish_once(&mut self, event: Event) {
        if Key::of(&event).is_some_and(|key| !self.has(key)) {
            self.publish(event);
        }
    }

    pub(super) fn write(&mut self, how: How, event: Event) {
        match how {
            How::Leased | How::Free => self.publish(event),
            How::Once => self.publish_once(event),
        }
    }

    fn remove(&mut self, which: impl Fn(Key) -> bool) {
        let keys: Vec<Key> = self.records.keys().copied().filter(|k| which(*k)).collect();
        for key in keys {
            self.records.remove(&key);
            self.news.push((key, None));
        }
    }

    /// Takes away what a rank has answered up to this attempt.
    pub(super) fn tidy(&mut self, rank: Rank, attempt: u64) {
        self.remove(|key| key.is_answer() && key.hangs_on(rank) && key.place().0 <= attempt);
    }

    /// Takes away the attempts before a committed one.
    pub(super) fn forget_before(&mut self, attempt: u64) {
        let spent = |n| n < attempt;
        self.remove(|key| match key {
            Key::Proposal(n) | Key::Go(n) | Key::Decision(n) => spent(n),
            _ => false,
        });
    }

    /// Says of the newest attempt that all are linked.
    pub(super) fn lie(&mut self) {
        let proposals = self.records.keys().filter_map(|key| match key {
            Key::Proposal(n) => Some(*n),
            _ => None,
        });
        if let Some(n) = proposals.max() {
            self.publish_once(Event::Go(n));
        }
    }
}

/// What a rank has yet to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in super::super) struct Inbox {
    pub(super) events: Vec<Arc<Event>>,
    /// Only the last state of each key is read.
    pub(super) last_only: bool,
}

impl Inbox {
    pub(in super::super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn take(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.events)
    }

    /// Whether something is left to be read that a later state of the key takes the
    /// place of.
    pub(super) fn knows_of(&self, key: Key) -> bool {
        self.last_only && self.events.iter().any(|event| Key::of(event) == Some(key))
    }

    /// Takes in what has become of a key; `event` if this life is told of it.
    pub(super) fn deliver(&mut self, key: Key, event: Option<Arc<Event>>) {
        if self.last_only {
            self.events.retain(|before| Key::of(before) != Some(key));
        }
        if let Some(event) = event {
            self.put(event);
        }
    }

    /// Puts an event at the end. The order of what different ranks say of one stage of
    /// one attempt makes no difference, so it is always the same.
    fn put(&mut self, event: Arc<Event>) {
        let place = |event: &Event| match event {
            Event::Offers(n, rank, _) => Some((*n, 0, *rank)),
            Event::Linked(n, rank) => Some((*n, 1, *rank)),
            Event::Ready(n, rank, _) => Some((*n, 2, *rank)),
            _ => None,
        };
        let events = &mut self.events;
        let mut at = events.len();
        if let Some(own) = place(&event) {
            while at > 0 && place(&events[at - 1]).is_some_and(|before| before > own) {
                at -= 1;
            }
        }
        events.insert(at, event);
    }
}
