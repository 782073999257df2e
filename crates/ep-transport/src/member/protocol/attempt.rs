//! One attempt to change the view, stage by stage.

use super::peers::ascending;
use super::{Action, ConnectionEvent, Deed, Protocol};
use crate::ids::{Epoch, Rank};
use crate::member::records::{Card, Decision, Life, Offers, Proposal, QpOffer, Ready};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) number: u64,
    pub(super) proposal: Proposal,
    pub(super) stage: Stage,
    pub(super) deadline: Duration,
    /// Own decision is on its way to the rendezvous; ask again after this time.
    pub(super) asked_until: Option<Duration>,
    pub(super) own_offers: Option<Offers>,
    pub(super) own_ready: Option<Ready>,
    pub(super) offers: BTreeMap<Rank, Offers>,
    /// Whoever collects knows who is linked and who is ready; the others do not.
    pub(super) linked: BTreeSet<Rank>,
    /// All are linked.
    pub(super) go: bool,
    pub(super) ready: BTreeMap<Rank, Ready>,
    /// What failed here, and who cannot be taken in therefore.
    pub(super) failure: Option<(String, Vec<Rank>)>,
    /// Somebody who has to take part and does not live.
    pub(super) gone: Option<Rank>,
    pub(super) decision: Option<Decision>,
}

impl Attempt {
    pub(super) fn new(
        number: u64,
        proposal: Proposal,
        me: Life,
        (now, time_out): (Duration, Duration),
    ) -> Self {
        let mut deadline = now + time_out;
        if proposal.collector() != Some(me) {
            // Whoever collects knows whose fault it is.
            deadline += time_out / 4;
        }
        let stage = if proposal.has(me) {
            Stage::Proposed
        } else {
            Stage::Bystander
        };
        Self {
            number,
            proposal,
            stage,
            deadline,
            asked_until: None,
            own_offers: None,
            own_ready: None,
            offers: BTreeMap::new(),
            linked: BTreeSet::new(),
            go: false,
            ready: BTreeMap::new(),
            failure: None,
            gone: None,
            decision: None,
        }
    }

    /// Who has not come as far as the others need: the first step that somebody has
    /// not taken holds up everybody.
    fn silent(&self) -> Vec<Rank> {
        let all = || self.proposal.everybody().map(|(rank, _)| rank);
        let offered: Vec<Rank> = all().filter(|r| !self.offers.contains_key(r)).collect();
        let linked: Vec<Rank> = all().filter(|r| !self.linked.contains(r)).collect();
        if !offered.is_empty() {
            offered
        } else if !linked.is_empty() {
            linked
        } else {
            all().filter(|r| !self.ready.contains_key(r)).collect()
        }
    }

    /// Two members of which one has masked the other, though the attempt leaves
    /// them as they are.
    fn at_odds(&self) -> Option<(Rank, Life)> {
        let proposal = &self.proposal;
        self.ready.iter().find_map(|(rank, ready)| {
            let member = proposal.members.iter().any(|(member, _)| member == rank);
            let masked = ready
                .masked
                .iter()
                .find(|life| proposal.members.contains(life) && !proposal.remakes(*rank, life.0));
            Some((*rank, *masked.filter(|_| member)?))
        })
    }

    /// What whoever collects decides once all are ready.
    fn outcome(&self, me: Rank, alignment: u64) -> Option<Decision> {
        let drop = |why| Decision::Dropped {
            by: me,
            why,
            blame: Vec::new(),
        };
        let mut limit = 0;
        for (rank, _) in self.proposal.everybody() {
            limit = limit.max(self.ready.get(&rank)?.limit.0);
        }
        if let Some((rank, (masked, _))) = self.at_odds() {
            return Some(drop(format!("{rank} has masked {masked} meanwhile")));
        }
        Some(match limit.checked_next_multiple_of(alignment) {
            Some(from) => Decision::Commit { from: Epoch(from) },
            None => drop(format!(
                "promised limit {limit} has no admission epoch beyond it"
            )),
        })
    }
}

impl Protocol {
    pub(super) fn advance(&mut self, attempt: &mut Attempt, now: Duration) -> Option<Action> {
        let number = attempt.number;
        if attempt.asked_until.is_some_and(|until| now < until) {
            return None;
        }
        if let Some((why, blame)) = self.reason_to_drop(attempt, now) {
            attempt.asked_until = Some(now + self.setup.time_out);
            let by = self.setup.me;
            return Some(Action::Decide(number, Decision::Dropped { by, why, blame }));
        }
        match attempt.stage {
            Stage::Proposed => {
                attempt.stage = Stage::Preparing;
                let mut lives = self.counterparts(&attempt.proposal);
                lives.retain(|life| self.step(life.0, ConnectionEvent::Update) == Deed::Reset);
                let ranks = lives.into_iter().map(|(rank, _)| rank).collect();
                Some(Action::Prepare(number, ranks))
            }
            Stage::Prepared => {
                attempt.stage = Stage::Offered;
                let offers = attempt.own_offers.clone()?;
                let everybody = attempt.proposal.changes(self.setup.me);
                Some(Action::PublishOffers {
                    number,
                    offers,
                    everybody,
                })
            }
            Stage::Offered => {
                let mut peers = self.offers_for_me(attempt)?;
                peers.retain(|(card, _)| {
                    self.step(card.rank, ConnectionEvent::Offers) == Deed::Connect
                });
                attempt.stage = Stage::Connecting;
                Some(Action::Connect(number, peers))
            }
            Stage::Connected => {
                attempt.stage = Stage::Waiting;
                Some(Action::PublishLinked(number))
            }
            Stage::Waiting if attempt.go => {
                attempt.stage = Stage::Promising;
                let member = attempt.proposal.members.contains(&self.me());
                Some(Action::Promise { number, member })
            }
            Stage::Waiting if attempt.proposal.collector() == Some(self.me()) => {
                let mut everybody = attempt.proposal.everybody();
                if !everybody.all(|(rank, _)| attempt.linked.contains(&rank)) {
                    return None;
                }
                attempt.go = true;
                Some(Action::PublishGo(number))
            }
            Stage::Promised => {
                attempt.stage = Stage::Ready;
                Some(Action::PublishReady(number, attempt.own_ready.clone()?))
            }
            Stage::Ready if attempt.proposal.collector() == Some(self.me()) => {
                let decision = attempt.outcome(self.setup.me, self.setup.alignment)?;
                attempt.asked_until = Some(now + self.setup.time_out);
                Some(Action::Decide(number, decision))
            }
            _ => None,
        }
    }

    /// To be called when somebody has come or gone, and when an attempt begins.
    pub(super) fn look_who_is_gone(&mut self) {
        let gone = self.attempt.as_ref().and_then(|attempt| {
            let mut card = ascending(self.cards.iter());
            let (members, joining) = (&attempt.proposal.members, &attempt.proposal.joining);
            let member = members
                .iter()
                .find(|life| card(life.0).is_none_or(|card| card.incarnation != life.1));
            member.or_else(|| joining.iter().find(|life| !self.lives(**life)))
        });
        let gone = gone.map(|(rank, _)| *rank);
        if let Some(attempt) = &mut self.attempt {
            attempt.gone = gone;
        }
    }

    /// Why the attempt cannot succeed, and whose fault that is.
    fn reason_to_drop(&self, attempt: &Attempt, now: Duration) -> Option<(String, Vec<Rank>)> {
        if let Some(failure) = &attempt.failure {
            return Some(failure.clone());
        }
        if let Some(rank) = attempt.gone {
            return Some((format!("{rank} is gone"), Vec::new()));
        }
        (now >= attempt.deadline).then(|| {
            let collector = attempt.proposal.collector();
            let silent = match collector {
                Some((rank, _)) if collector != Some(self.me()) => vec![rank],
                _ => attempt.silent(),
            };
            let names: Vec<String> = silent.iter().map(Rank::to_string).collect();
            let time_out = self.setup.time_out;
            let why = format!("not ready within {time_out:?}: {}", names.join(", "));
            (why, silent)
        })
    }

    /// Ranks whose links this rank has to remake in an attempt: a joiner all, a
    /// member those of the joiners and of members that it is to be joined with again.
    pub(super) fn counterparts(&self, proposal: &Proposal) -> Vec<Life> {
        let me = self.me();
        let mut lives: Vec<Life> = if proposal.changes(me.0) {
            let remade = |life: &Life| *life != me && proposal.remakes(me.0, life.0);
            proposal.everybody().filter(remade).collect()
        } else {
            proposal.joining.clone()
        };
        lives.sort_unstable();
        lives
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
}
