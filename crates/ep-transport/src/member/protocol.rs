//! What to do next about the membership: data in, data out.
//!
//! The protocol is fed what appears at the rendezvous and what became of its own
//! actions, and [`Protocol::next`] says what is to be done now. It has no sockets,
//! clocks or threads.
//!
//! An attempt to change the view goes through these stages on every rank that
//! takes part:
//!
//! | stage | what has happened | what comes next |
//! | --- | --- | --- |
//! | `Proposed` | the proposal was seen | reset the links to ranks that change |
//! | `Prepared` | links reset, queue pair numbers known | publish them |
//! | `Offered` | own offers published | once the peers' offers are there: connect |
//! | `Connected` | links connected | publish *connected* |
//! | `Waiting` | published | once all are connected: the collector publishes *go* |
//! | `Waiting` | *go* was seen | promise a limit |
//! | `Promised` | promise made | publish *ready* |
//! | `Ready` | published | once all are ready, the collector decides *commit* |
//!
//! The collector is the lowest of those who come in, so that members hear of one another
//! only what has become of all. Nothing rests on it but that the attempt succeeds: who
//! is not connected does not promise, and a commit needs everybody's promise. If it
//! dies, lies or is late, the attempt is dropped.
//!
//! Promises come last, when everybody has just shown that it answers: a member that
//! hangs keeps an attempt from succeeding but holds nobody up.
//!
//! At every stage a death, a failure or the time-out leads to *dropped*, which
//! anybody may decide. Whatever is decided first at the rendezvous holds.

mod attempt;
mod peers;
mod plan;

use super::connection::{ConnectionEvent, ConnectionState, Deed};
use super::records::{Card, Decision, Life, Masked, Offers, Proposal, QpOffer, Ready};
use crate::events::LossKind;
use crate::ids::{Epoch, Incarnation, Rank};
use attempt::{Attempt, Stage};
use peers::ascending;
use plan::Situation;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a rank that wants to join waits after an attempt was dropped. Each
/// further attempt that fails through its own fault doubles that.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Doublings at most.
const MOST_DOUBLINGS: u32 = 7;
/// A member that is joined again within this time of the last time is unsteady.
const STEADY: Duration = Duration::from_secs(120);
/// So many times in a row it is joined again at once.
const FREE_RETURNS: u32 = 2;
/// After that each time waits twice as long as the last one, with so many doublings at most:
/// 100 seconds.
const MOST_DELAY: u32 = 10;
/// How long ranks that do not count each other any more are given to tell all of
/// them. The lowest member proposes to join them again; after each further such
/// time the next one would.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a newcomer waits for others that are coming, each time another one has come:
/// ranks that are started together come in together.
const GATHER: Duration = Duration::from_millis(50);
/// For so long at most.
const MOST_GATHER: Duration = Duration::from_millis(250);

/// What does not change during a life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Setup {
    pub(crate) me: Rank,
    pub(crate) incarnation: Incarnation,
    /// These ranks form the first view together.
    pub(crate) initial: Vec<Rank>,
    /// Admission epochs are multiples of this.
    pub(crate) alignment: u64,
    pub(crate) time_out: Duration,
}

/// Something that was learned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A life's card appeared or changed.
    Card(Card),
    /// A life's card is gone.
    Gone(Life),
    /// A life leaves on purpose; its card will go.
    Left(Life),
    /// A life is getting ready, and will have a card; or it is gone.
    Coming(Life, bool),
    /// Whom a rank does not count any more.
    Masked(Rank, Masked),
    /// The data path does not count this life any more.
    Unanswered(Life),
    Proposal(u64, Proposal),
    /// There is a proposal of this number that nobody can read.
    Illegible(u64),
    Offers(u64, Rank, Offers),
    /// A rank has connected its links.
    Linked(u64, Rank),
    /// All have.
    Go(u64),
    Ready(u64, Rank, Ready),
    Decision(u64, Decision),
    /// [`Action::Prepare`] was done; these are the own offers.
    Prepared(u64, Offers),
    /// [`Action::Connect`] was done.
    Connected(u64),
    /// [`Action::Promise`] was done; this is the promise.
    Promised(u64, Ready),
    /// [`Action::Prepare`] or [`Action::Connect`] failed, the latter with this peer.
    Failed(u64, String, Option<Rank>),
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Mask a life; it does not answer any more, or does not count this rank.
    Mask(Life, LossKind),
    /// Tell the others whom this rank does not count although they live.
    TellMasked(Masked),
    /// Another process has taken this rank; this one must stop.
    Superseded(Incarnation),
    Propose(u64, Proposal),
    /// Mask and reset the links to these ranks, and make offers for them.
    Prepare(u64, Vec<Rank>),
    PublishOffers {
        number: u64,
        offers: Offers,
        /// Members have to hear of them, not only those who come in.
        everybody: bool,
    },
    /// Connect the links to these peers.
    Connect(u64, Vec<(Card, Vec<QpOffer>)>),
    PublishLinked(u64),
    PublishGo(u64),
    /// Promise to begin no operation at or beyond some limit, unless this rank is
    /// among those that come in (`member` is not set): its counter does not matter,
    /// only that no epoch is used again.
    Promise {
        number: u64,
        member: bool,
    },
    PublishReady(u64, Ready),
    Decide(u64, Decision),
    /// Write these rows of the table and release the promise. `own` is set if this
    /// rank is itself among those that come in.
    Admit {
        attempt: u64,
        from: Epoch,
        ranks: Vec<Life>,
        own: bool,
    },
    /// The attempt was dropped: take these links down, release the promise.
    Forget {
        attempt: u64,
        ranks: Vec<Rank>,
        by: Rank,
        why: String,
    },
}

/// The membership as one rank knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Protocol {
    setup: Setup,
    /// Another process has taken this rank: there is nothing to be done any more.
    over: bool,
    /// The newest life of each rank, as far as it lives.
    cards: BTreeMap<Rank, Card>,
    /// Who is getting ready, or was, if there is a card by now.
    coming: BTreeSet<Life>,
    /// When the newest of the cards appeared.
    newest_card: Duration,
    /// Since when this rank holds its proposal back for others, and until when.
    gathering: Option<(Duration, Duration)>,
    connections: BTreeMap<Rank, ConnectionState>,
    /// Of these, the ones that do not serve: few, whatever the size of the group.
    apart: BTreeSet<Rank>,
    /// Those that are not what they were when this was asked last.
    moved: BTreeSet<Rank>,
    /// Something has changed that others may have to be told of.
    unsaid: bool,
    /// What this rank has told of its own.
    told: Masked,
    /// Whom each rank does not count.
    masks: BTreeMap<Rank, Masked>,
    /// When one of them has last changed.
    masks_changed: Duration,
    /// Members of the last committed view; empty before the first.
    view: BTreeMap<Rank, Incarnation>,
    /// The attempt that made it.
    last_commit: u64,
    last_number: u64,
    /// The attempt that this rank has tried to propose.
    proposed: u64,
    propose_from: Duration,
    /// Since when no member of the view is there.
    deserted: Option<Duration>,
    /// Lives that have made attempts fail: until when they are left out, and how
    /// many attempts.
    failing: BTreeMap<Life, (Duration, u32)>,
    /// Members that were joined again: when last, and how many times in a row.
    returned: BTreeMap<Life, (Duration, u32)>,
    attempt: Option<Attempt>,
    due: VecDeque<Action>,
}

impl Protocol {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            over: false,
            cards: BTreeMap::new(),
            coming: BTreeSet::new(),
            newest_card: Duration::ZERO,
            gathering: None,
            connections: BTreeMap::new(),
            apart: BTreeSet::new(),
            moved: BTreeSet::new(),
            unsaid: false,
            told: Masked {
                incarnation: setup.incarnation,
                after: 0,
                lives: Vec::new(),
            },
            masks: BTreeMap::new(),
            masks_changed: Duration::ZERO,
            view: BTreeMap::new(),
            last_commit: 0,
            last_number: 0,
            proposed: 0,
            propose_from: Duration::ZERO,
            deserted: None,
            failing: BTreeMap::new(),
            returned: BTreeMap::new(),
            attempt: None,
            due: VecDeque::new(),
            setup,
        }
    }

    fn me(&self) -> Life {
        (self.setup.me, self.setup.incarnation)
    }

    fn lives(&self, (rank, incarnation): Life) -> bool {
        self.cards
            .get(&rank)
            .is_some_and(|card| card.incarnation == incarnation)
    }

    fn in_view(&self, (rank, incarnation): Life) -> bool {
        self.view.get(&rank) == Some(&incarnation)
    }

    /// The members of the last committed view.
    pub(crate) fn view(&self) -> impl Iterator<Item = Life> + '_ {
        self.view.iter().map(|(rank, life)| (*rank, *life))
    }

    /// The number of the attempt that made it; 0 before the first.
    pub(crate) fn last_commit(&self) -> u64 {
        self.last_commit
    }

    /// Whether this rank is a member.
    pub(crate) fn is_member(&self) -> bool {
        self.in_view(self.me())
    }

    /// Takes in what was learned at time `now`.
    pub(crate) fn on(&mut self, event: Event, now: Duration) {
        if self.over {
            return;
        }
        match event {
            Event::Card(card) => {
                if !self.lives((card.rank, card.incarnation)) {
                    self.newest_card = now;
                }
                self.on_card(card);
                self.unsaid = true;
                self.look_who_is_gone();
            }
            Event::Gone(life) => {
                self.on_gone(life, ConnectionEvent::Gone, LossKind::LeaseEnded);
            }
            Event::Left(life) => self.on_gone(life, ConnectionEvent::Left, LossKind::Left),
            Event::Coming(life, true) => {
                self.coming.insert(life);
            }
            Event::Coming(life, false) => {
                self.coming.remove(&life);
            }
            Event::Masked(rank, masked) => {
                self.heed(rank, &masked);
                if self.masks.insert(rank, masked.clone()) != Some(masked) {
                    self.masks_changed = now;
                }
            }
            Event::Unanswered(life) => self.on_unanswered(life),
            Event::Proposal(number, proposal) => {
                if self.comes_next(number, now) {
                    let times = (now, self.setup.time_out);
                    self.attempt = Some(Attempt::new(number, proposal, self.me(), times));
                    self.look_who_is_gone();
                }
            }
            // It binds nobody; the next one has another number.
            Event::Illegible(number) => {
                self.comes_next(number, now);
            }
            Event::Offers(number, rank, offers) => {
                if let Some(attempt) = self.current(number) {
                    attempt.offers.insert(rank, offers);
                }
            }
            Event::Linked(number, rank) => {
                if let Some(attempt) = self.current(number) {
                    attempt.linked.insert(rank);
                }
            }
            Event::Go(number) => {
                if let Some(attempt) = self.current(number) {
                    attempt.go = true;
                }
            }
            Event::Ready(number, rank, ready) => {
                if let Some(attempt) = self.current(number) {
                    attempt.ready.insert(rank, ready);
                }
            }
            Event::Decision(number, decision) => {
                if let Some(attempt) = self.current(number) {
                    attempt.decision = Some(decision);
                }
            }
            Event::Prepared(number, offers) => {
                if let Some(attempt) = self.current(number) {
                    attempt.own_offers = Some(offers);
                    attempt.stage = Stage::Prepared;
                    self.step_all(ConnectionEvent::Reset);
                }
            }
            Event::Connected(number) => {
                if let Some(attempt) = self.current(number) {
                    attempt.stage = Stage::Connected;
                    self.step_all(ConnectionEvent::Connected);
                }
            }
            Event::Promised(number, ready) => {
                if let Some(attempt) = self.current(number) {
                    attempt.own_ready = Some(ready);
                    attempt.stage = Stage::Promised;
                }
            }
            Event::Failed(number, why, peer) => {
                let me = self.setup.me;
                if let Some(attempt) = self.current(number) {
                    let blame = attempt.proposal.to_blame(me, peer);
                    attempt.failure = Some((why, blame));
                    self.step_all(ConnectionEvent::Failed);
                }
            }
        }
    }

    fn current(&mut self, number: u64) -> Option<&mut Attempt> {
        self.attempt
            .as_mut()
            .filter(|attempt| attempt.number == number)
    }

    /// Whether a proposal of this number is a new one. It ends the attempt before it.
    fn comes_next(&mut self, number: u64, now: Duration) -> bool {
        if number <= self.last_number {
            return false;
        }
        self.last_number = number;
        if let Some(mut before) = self.attempt.take() {
            // How it ended is no longer in the store: a commit without this rank came since,
            // or it would have had to learn of it. Nothing of the attempt holds here.
            before.decision.get_or_insert_with(|| Decision::Dropped {
                by: self.setup.me,
                why: "its decision is gone".to_owned(),
                blame: Vec::new(),
            });
            self.conclude(before, now);
        }
        true
    }

    /// Whether this rank has to hear what everybody answers to the present proposal, all
    /// of which comes after the proposal itself.
    pub(crate) fn hears_all(&self) -> bool {
        let attempt = self.attempt.as_ref();
        attempt.is_some_and(|attempt| attempt.proposal.hears_all(self.me()))
    }

    /// What to do now, one thing at a time; `None` until more is learned or `now`
    /// has passed a deadline.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Action> {
        if self.over {
            return self.due.pop_front();
        }
        if let Some(decided) = self.attempt.take_if(|attempt| attempt.decision.is_some()) {
            self.conclude(decided, now);
        }
        if let Some(action) = self.due.pop_front() {
            return Some(action);
        }
        if let Some(masked) = self.news_of_masks() {
            self.told = masked.clone();
            return Some(Action::TellMasked(masked));
        }
        match self.attempt.take() {
            Some(mut attempt) => {
                let action = self.advance(&mut attempt, now);
                self.attempt = Some(attempt);
                action
            }
            None => self.propose(now),
        }
    }

    fn conclude(&mut self, attempt: Attempt, now: Duration) {
        let involved = attempt.stage != Stage::Bystander;
        let number = attempt.number;
        let mut lives = self.counterparts(&attempt.proposal);
        match attempt.decision {
            Some(Decision::Commit { from }) => {
                lives.retain(|life| self.step(life.0, ConnectionEvent::Committed) == Deed::Admit);
                self.note_returns(&attempt.proposal, now);
                self.take_view(&attempt.proposal);
                self.last_commit = number;
                self.unsaid = true;
                self.failing
                    .retain(|life, _| self.view.get(&life.0) != Some(&life.1));
                if involved {
                    self.due.push_back(Action::Admit {
                        attempt: number,
                        from,
                        ranks: lives,
                        own: attempt.proposal.joining.contains(&self.me()),
                    });
                }
                self.on_view();
            }
            Some(Decision::Dropped { by, why, blame }) => {
                self.propose_from = now + RETRY_AFTER;
                self.masks_changed = now;
                let at_fault = |life: &Life| blame.contains(&life.0);
                for life in attempt.proposal.everybody().filter(at_fault) {
                    let (until, times) = self.failing.entry(life).or_default();
                    *until = now + RETRY_AFTER * (1 << (*times).min(MOST_DOUBLINGS));
                    *times = times.saturating_add(1);
                }
                lives.retain(|life| self.step(life.0, ConnectionEvent::Dropped) == Deed::TakeDown);
                if involved {
                    self.due.push_back(Action::Forget {
                        attempt: number,
                        ranks: lives.into_iter().map(|(rank, _)| rank).collect(),
                        by,
                        why,
                    });
                }
            }
            None => {}
        }
    }

    /// The view becomes what was proposed. Most of it usually is that already.
    fn take_view(&mut self, proposal: &Proposal) {
        let (members, joining) = (&proposal.members, &proposal.joining);
        let mut member = ascending(members.iter().map(|(rank, life)| (rank, life)));
        self.view.retain(|rank, life| member(*rank) == Some(life));
        self.view.extend(joining.iter().copied());
        if self.view.len() < members.len() + joining.len() {
            self.view.extend(members.iter().copied());
        }
    }

    fn fails(&self, life: Life, now: Duration) -> bool {
        self.failing
            .get(&life)
            .is_some_and(|(until, _)| now < *until)
    }

    /// Who comes back again and again answers its agent's messages and nothing else: each
    /// time the others wait for it in vain.
    fn note_returns(&mut self, proposal: &Proposal, now: Duration) {
        let again = |life: &Life| {
            let joined = proposal
                .pairs
                .iter()
                .any(|(a, b)| *a == life.0 || *b == life.0);
            (joined || proposal.joining.contains(life)) && self.in_view(*life)
        };
        for life in proposal.everybody().filter(again).collect::<Vec<_>>() {
            let (last, times) = self.returned.entry(life).or_default();
            *times = if now < *last + STEADY { *times + 1 } else { 1 };
            *last = now;
        }
        let stays = |life: &Life| proposal.everybody().any(|other| other == *life);
        self.returned.retain(|life, _| stays(life));
    }

    /// Whether a member has been joined again so often that the next time has to wait. The
    /// first times are free.
    fn is_unsteady(&self, life: Life, now: Duration) -> bool {
        self.returned.get(&life).is_some_and(|(last, times)| {
            let doublings = times.saturating_sub(FREE_RETURNS).min(MOST_DELAY);
            *times > FREE_RETURNS && now < *last + RETRY_AFTER * (1 << doublings)
        })
    }

    fn situation(&self, now: Duration) -> Situation<'_> {
        let me = self.me();
        let cards = self.cards.values();
        let living: BTreeSet<Life> = cards.map(|card| (card.rank, card.incarnation)).collect();
        let fresh = self
            .masks
            .iter()
            .filter(|(rank, masked)| self.is_fresh(**rank, masked));
        let masks: BTreeSet<(Life, Life)> = fresh
            .flat_map(|(rank, masked)| {
                let who = (*rank, masked.incarnation);
                masked.lives.iter().map(move |whom| (who, *whom))
            })
            .filter(|(who, whom)| living.contains(who) && living.contains(whom))
            .filter(|(_, whom)| self.in_view(*whom))
            .collect();
        // A member that others have given up shows that it lives by giving them up.
        let speechless =
            |life: &Life| self.in_view(*life) && !masks.iter().any(|(who, _)| who == life);
        let left_out = living
            .iter()
            .filter(|life| {
                **life != me
                    && (self.fails(**life, now)
                        || self.is_unsteady(**life, now)
                        || speechless(life))
            })
            .copied()
            .collect();
        Situation {
            view: &self.view,
            living,
            masks,
            left_out,
        }
    }

    fn propose(&mut self, now: Duration) -> Option<Action> {
        let number = self.last_number + 1;
        let me = self.me();
        if self.proposed >= number || now < self.propose_from || !self.lives(me) {
            return None;
        }
        let member = self.is_member();
        if member && self.masks.values().all(|masked| masked.lives.is_empty()) {
            return None;
        }
        let situation = self.situation(now);
        let core = situation.core();
        let proposal = situation.plan()?;
        let since = self.deserted.unwrap_or(now);
        self.deserted = core.is_empty().then_some(since);
        match core.iter().position(|life| *life == me) {
            // Newcomers speak for themselves; members for members.
            Some(position) => {
                let settled = self.masks_changed + SETTLE * (1 + position as u32);
                let returning = proposal.joining.iter().any(|life| self.in_view(*life));
                if now < settled || (proposal.pairs.is_empty() && !returning) {
                    return None;
                }
            }
            None if member || self.fails(me, now) => return None,
            None => {
                let joins = |rank| proposal.joining.iter().any(|life| life.0 == rank);
                let complete = self.setup.initial.iter().all(|rank| joins(*rank));
                // Members whose leases have all ended, the store's fault perhaps, come
                // back soon if they live.
                let patient = self.view.is_empty() || now < since + self.setup.time_out;
                if self.deserted.is_some() && !complete && patient {
                    return None;
                }
                if self.waits_for_others(now) {
                    return None;
                }
            }
        }
        self.proposed = number;
        Some(Action::Propose(number, proposal))
    }

    fn waits_for_others(&mut self, now: Duration) -> bool {
        let has_card = |(rank, incarnation): &Life| {
            let card = self.cards.get(rank);
            card.is_some_and(|card| card.incarnation >= *incarnation)
        };
        if self.coming.iter().all(has_card) {
            self.gathering = None;
            return false;
        }
        let since = self.gathering.map_or(now, |(since, _)| since);
        let until = (self.newest_card + GATHER).min(since + MOST_GATHER);
        self.gathering = Some((since, until));
        now < until
    }

    /// For how long nothing new need be learned before this rank proposes.
    pub(crate) fn holds_back(&self, now: Duration) -> Duration {
        match self.gathering {
            Some((_, until)) if now < until && self.attempt.is_none() => until - now,
            _ => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
