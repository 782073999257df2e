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
//! | `Waiting` | published | once all are connected: promise a limit |
//! | `Promised` | promise made | publish *ready* |
//! | `Ready` | published | once all are ready, the lowest joiner decides *commit* |
//!
//! Promises come last, when everybody has just shown that it answers: a member that
//! hangs keeps an attempt from succeeding but holds nobody up.
//!
//! At every stage a death, a failure or the time-out leads to *dropped*, which
//! anybody may decide. Whatever is decided first at the rendezvous holds.

use super::records::{Card, Decision, Life, Offers, Proposal, QpOffer, Ready};
use crate::events::LossKind;
use crate::ids::{Epoch, Incarnation, Rank};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a rank that wants to join waits after an attempt was dropped.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What does not change during a life.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A rank's card appeared, changed or (`None`) is gone.
    Card(Rank, Option<Card>),
    Proposal(u64, Proposal),
    Offers(u64, Rank, Offers),
    /// A rank has connected its links.
    Linked(u64, Rank),
    Ready(u64, Rank, Ready),
    Decision(u64, Decision),
    /// [`Action::Prepare`] was done; these are the own offers.
    Prepared(u64, Offers),
    /// [`Action::Connect`] was done.
    Connected(u64),
    /// [`Action::Promise`] was done; this is the promise.
    Promised(u64, Ready),
    /// [`Action::Prepare`] or [`Action::Connect`] failed.
    Failed(u64, String),
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Mask a rank for good; it does not answer any more.
    Mask(Life, LossKind),
    /// Another process has taken this rank; this one must stop.
    Superseded(Incarnation),
    Propose(u64, Proposal),
    /// Mask and reset the links to these ranks, and make offers for them.
    Prepare(u64, Vec<Rank>),
    PublishOffers(u64, Offers),
    /// Connect the links to these peers.
    Connect(u64, Vec<(Card, Vec<QpOffer>)>),
    PublishLinked(u64),
    /// Promise to begin no operation at or beyond some limit.
    Promise(u64),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Bystander,
    Proposed,
    Preparing,
    Prepared,
    Offered,
    Connecting,
    Connected,
    Waiting,
    Promising,
    Promised,
    Ready,
}

#[derive(Debug)]
struct Attempt {
    number: u64,
    proposal: Proposal,
    stage: Stage,
    deadline: Duration,
    /// Own decision is on its way to the rendezvous; ask again after this time.
    asked_until: Option<Duration>,
    own_offers: Option<Offers>,
    own_ready: Option<Ready>,
    offers: BTreeMap<Rank, Offers>,
    linked: BTreeSet<Rank>,
    ready: BTreeMap<Rank, Ready>,
    failure: Option<String>,
    decision: Option<Decision>,
}

/// The membership as one rank knows it.
#[derive(Debug)]
pub(crate) struct Protocol {
    setup: Setup,
    cards: BTreeMap<Rank, Card>,
    /// Members of the last committed view; empty before the first.
    view: BTreeMap<Rank, Incarnation>,
    last_number: u64,
    /// The attempt that this rank has tried to propose.
    proposed: u64,
    propose_from: Duration,
    attempt: Option<Attempt>,
    due: VecDeque<Action>,
}

impl Protocol {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            setup,
            cards: BTreeMap::new(),
            view: BTreeMap::new(),
            last_number: 0,
            proposed: 0,
            propose_from: Duration::ZERO,
            attempt: None,
            due: VecDeque::new(),
        }
    }

    fn me(&self) -> Life {
        (self.setup.me, self.setup.incarnation)
    }

    fn lives(&self, (rank, incarnation): Life) -> bool {
        self.cards
            .get(&rank)
            .is_some_and(|card| card.incarnation == incarnation && !card.leaving)
    }

    /// The members of the last committed view.
    pub(crate) fn view(&self) -> impl Iterator<Item = Life> + '_ {
        self.view.iter().map(|(rank, life)| (*rank, *life))
    }

    /// Whether this rank is a member.
    pub(crate) fn is_member(&self) -> bool {
        self.view.get(&self.setup.me) == Some(&self.setup.incarnation)
    }

    /// Takes in what was learned at time `now`.
    pub(crate) fn on(&mut self, event: Event, now: Duration) {
        match event {
            Event::Card(rank, card) => self.on_card(rank, card),
            Event::Proposal(number, proposal) => self.on_proposal(number, proposal, now),
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
                }
            }
            Event::Connected(number) => {
                if let Some(attempt) = self.current(number) {
                    attempt.stage = Stage::Connected;
                }
            }
            Event::Promised(number, ready) => {
                if let Some(attempt) = self.current(number) {
                    attempt.own_ready = Some(ready);
                    attempt.stage = Stage::Promised;
                }
            }
            Event::Failed(number, why) => {
                if let Some(attempt) = self.current(number) {
                    attempt.failure = Some(why);
                }
            }
        }
    }

    fn current(&mut self, number: u64) -> Option<&mut Attempt> {
        self.attempt
            .as_mut()
            .filter(|attempt| attempt.number == number)
    }

    fn on_card(&mut self, rank: Rank, card: Option<Card>) {
        let incarnation = card.as_ref().map(|card| card.incarnation);
        if rank == self.setup.me {
            if let Some(newer) = incarnation.filter(|i| *i > self.setup.incarnation) {
                self.due.push_back(Action::Superseded(newer));
            }
        } else if let Some(before) = self.cards.get(&rank) {
            let loss = match &card {
                None => Some(LossKind::LeaseEnded),
                Some(now) if now.incarnation != before.incarnation => Some(LossKind::Replaced),
                Some(now) if now.leaving && !before.leaving => Some(LossKind::Left),
                Some(_) => None,
            };
            if let Some(loss) = loss.filter(|_| !before.leaving) {
                self.due
                    .push_back(Action::Mask((rank, before.incarnation), loss));
            }
        }
        match card {
            Some(card) => self.cards.insert(rank, card),
            None => self.cards.remove(&rank),
        };
    }

    fn on_proposal(&mut self, number: u64, proposal: Proposal, now: Duration) {
        if number <= self.last_number {
            return;
        }
        self.last_number = number;
        if let Some(before) = self.attempt.take()
            && let Some(action) = self.conclude(before, now)
        {
            self.due.push_back(action);
        }
        let stage = if proposal.everybody().any(|life| life == self.me()) {
            Stage::Proposed
        } else {
            Stage::Bystander
        };
        self.attempt = Some(Attempt {
            number,
            proposal,
            stage,
            deadline: now + self.setup.time_out,
            asked_until: None,
            own_offers: None,
            own_ready: None,
            offers: BTreeMap::new(),
            linked: BTreeSet::new(),
            ready: BTreeMap::new(),
            failure: None,
            decision: None,
        });
    }

    /// What to do now, one thing at a time; `None` until more is learned or `now`
    /// has passed a deadline.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Action> {
        if let Some(decided) = self.attempt.take_if(|attempt| attempt.decision.is_some())
            && let Some(action) = self.conclude(decided, now)
        {
            self.due.push_back(action);
        }
        if let Some(action) = self.due.pop_front() {
            return Some(action);
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

    /// Ranks whose links this rank has to remake in an attempt: a joiner all, a
    /// member those of the joiners.
    fn counterparts(&self, proposal: &Proposal) -> Vec<Life> {
        let joining = proposal.joining.contains(&self.me());
        let mut lives: Vec<Life> = proposal
            .everybody()
            .filter(|life| (joining || proposal.joining.contains(life)) && *life != self.me())
            .collect();
        lives.sort_unstable();
        lives
    }

    fn conclude(&mut self, attempt: Attempt, now: Duration) -> Option<Action> {
        let involved = attempt.stage != Stage::Bystander;
        let number = attempt.number;
        match attempt.decision? {
            Decision::Commit { from } => {
                self.view = attempt.proposal.everybody().collect();
                involved.then(|| Action::Admit {
                    attempt: number,
                    from,
                    ranks: self
                        .counterparts(&attempt.proposal)
                        .into_iter()
                        .filter(|life| self.lives(*life))
                        .collect(),
                    own: attempt.proposal.joining.contains(&self.me()),
                })
            }
            Decision::Dropped { by, why } => {
                self.propose_from = now + RETRY_AFTER;
                involved.then(|| Action::Forget {
                    attempt: number,
                    ranks: self
                        .counterparts(&attempt.proposal)
                        .into_iter()
                        .map(|(rank, _)| rank)
                        .collect(),
                    by,
                    why,
                })
            }
        }
    }

    fn advance(&self, attempt: &mut Attempt, now: Duration) -> Option<Action> {
        let number = attempt.number;
        if attempt.asked_until.is_some_and(|until| now < until) {
            return None;
        }
        if let Some(why) = self.reason_to_drop(attempt, now) {
            attempt.asked_until = Some(now + self.setup.time_out);
            return Some(Action::Decide(
                number,
                Decision::Dropped {
                    by: self.setup.me,
                    why,
                },
            ));
        }
        match attempt.stage {
            Stage::Proposed => {
                attempt.stage = Stage::Preparing;
                let ranks = self
                    .counterparts(&attempt.proposal)
                    .into_iter()
                    .map(|(rank, _)| rank)
                    .collect();
                Some(Action::Prepare(number, ranks))
            }
            Stage::Prepared => {
                attempt.stage = Stage::Offered;
                let offers = attempt.own_offers.clone()?;
                Some(Action::PublishOffers(number, offers))
            }
            Stage::Offered => {
                let peers = self.offers_for_me(attempt)?;
                attempt.stage = Stage::Connecting;
                Some(Action::Connect(number, peers))
            }
            Stage::Connected => {
                attempt.stage = Stage::Waiting;
                Some(Action::PublishLinked(number))
            }
            Stage::Waiting => {
                let mut everybody = attempt.proposal.everybody();
                if !everybody.all(|(rank, _)| attempt.linked.contains(&rank)) {
                    return None;
                }
                attempt.stage = Stage::Promising;
                Some(Action::Promise(number))
            }
            Stage::Promised => {
                attempt.stage = Stage::Ready;
                Some(Action::PublishReady(number, attempt.own_ready?))
            }
            Stage::Ready if attempt.proposal.joining.first() == Some(&self.me()) => {
                let mut limit = 0;
                for (rank, _) in attempt.proposal.everybody() {
                    limit = limit.max(attempt.ready.get(&rank)?.limit.0);
                }
                attempt.asked_until = Some(now + self.setup.time_out);
                let decision = match limit.checked_next_multiple_of(self.setup.alignment) {
                    Some(from) => Decision::Commit { from: Epoch(from) },
                    None => Decision::Dropped {
                        by: self.setup.me,
                        why: format!("promised limit {limit} has no admission epoch beyond it"),
                    },
                };
                Some(Action::Decide(number, decision))
            }
            _ => None,
        }
    }

    fn reason_to_drop(&self, attempt: &Attempt, now: Duration) -> Option<String> {
        if let Some(why) = &attempt.failure {
            return Some(why.clone());
        }
        if let Some((rank, _)) = attempt.proposal.everybody().find(|life| !self.lives(*life)) {
            return Some(format!("{rank} is gone"));
        }
        (now >= attempt.deadline).then(|| {
            let silent: Vec<String> = attempt
                .proposal
                .everybody()
                .filter(|(rank, _)| !attempt.linked.contains(rank))
                .map(|(rank, _)| rank.to_string())
                .collect();
            format!(
                "not connected within {:?}: {}",
                self.setup.time_out,
                silent.join(", ")
            )
        })
    }

    fn offers_for_me(&self, attempt: &Attempt) -> Option<Vec<(Card, Vec<QpOffer>)>> {
        self.counterparts(&attempt.proposal)
            .into_iter()
            .map(|(rank, _)| {
                let offers = &attempt.offers.get(&rank)?.0;
                let (_, mine) = offers.iter().find(|(to, _)| *to == self.setup.me)?;
                Some((self.cards.get(&rank)?.clone(), mine.clone()))
            })
            .collect()
    }

    fn propose(&mut self, now: Duration) -> Option<Action> {
        let number = self.last_number + 1;
        if self.is_member()
            || self.proposed >= number
            || now < self.propose_from
            || !self.lives(self.me())
        {
            return None;
        }
        let is_member = |life: &Life| self.view.get(&life.0) == Some(&life.1);
        let living = self
            .cards
            .values()
            .filter(|card| !card.leaving)
            .map(|card| (card.rank, card.incarnation));
        let (members, joining): (Vec<Life>, Vec<Life>) = living.partition(is_member);
        let initial = &mut self.setup.initial.iter();
        let complete = initial.all(|rank| joining.iter().any(|(joiner, _)| joiner == rank));
        if self.view.is_empty() && !complete {
            return None;
        }
        self.proposed = number;
        Some(Action::Propose(number, Proposal { members, joining }))
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
