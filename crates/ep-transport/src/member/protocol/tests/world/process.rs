//! One rank in one of its lives: the protocol, the table, the connections.

use super::super::super::*;
use super::TIME_OUT;
use super::board::{Board, How, Inbox};
use super::flaw::Flaw;
use crate::member::records::{NicAddress, PortAddress};

pub(super) fn card((rank, incarnation): Life) -> Card {
    Card {
        rank,
        incarnation,
        host: String::new(),
        config: String::new(),
        nics: vec![NicAddress {
            port: PortAddress {
                gid: [0; 16],
                lid: 0,
                mtu: 4096,
                ethernet: true,
            },
            // Another one in each life.
            rkey: incarnation.0,
        }],
        region_address: 0,
        window: None,
    }
}

/// What a queue pair writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Target {
    pub(in super::super) life: Life,
    qp: QpOffer,
    rkey: u32,
}

/// This end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Link {
    qp: QpOffer,
    pub(in super::super) to: Option<Target>,
}

/// What goes wrong in what a rank does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) enum Trouble {
    /// A command fails: a connection cannot be reset, or made, or nothing promised.
    Command,
    /// What is published does not reach the store, and is published again.
    Request,
    /// It does, but the rank is not told so, and publishes it again.
    Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Process {
    pub(in super::super) life: Life,
    pub(in super::super) protocol: Protocol,
    pub(in super::super) inbox: Inbox,
    pub(in super::super) epoch: u64,
    pub(in super::super) limit: Option<u64>,
    /// The first epoch that it has not used together with others.
    unshared: u64,
    /// From which epoch this process counts which life.
    pub(in super::super) table: BTreeMap<Rank, (Incarnation, u64)>,
    pub(in super::super) links: BTreeMap<Rank, Link>,
    pub(in super::super) admitted: Option<u64>,
    pub(in super::super) masked: Vec<Life>,
    pub(in super::super) superseded: bool,
    /// It has said that it leaves.
    pub(in super::super) leaving: bool,
    pub(in super::super) has_lease: bool,
    /// What it publishes until it has been told that it is there. It does nothing else.
    pub(super) pending: Option<(How, Event)>,
    /// What is to go wrong next.
    pub(super) trouble: Option<Trouble>,
    /// What it always gets wrong.
    pub(in super::super) flaw: Option<Flaw>,
}

impl Process {
    pub(super) fn start(board: &mut Board, life: Life, initial: u32, last_only: bool) -> Self {
        // The others hear of it; this one finds it with all that is there.
        board.publish(Event::Card(card(life)));
        Self {
            life,
            protocol: Protocol::new(Setup {
                me: life.0,
                incarnation: life.1,
                initial: (0..initial).map(Rank).collect(),
                alignment: 2,
                time_out: TIME_OUT,
            }),
            inbox: Inbox {
                events: board.list(life),
                last_only,
            },
            epoch: 0,
            limit: None,
            unshared: 0,
            table: BTreeMap::new(),
            links: BTreeMap::new(),
            admitted: None,
            masked: Vec::new(),
            superseded: false,
            leaving: false,
            has_lease: true,
            pending: None,
            trouble: None,
            flaw: None,
        }
    }

    /// Whether there is anything to be learned.
    pub(super) fn has_news(&self) -> bool {
        let unseen = |life| !self.counts(life);
        self.pending.is_none() && (self.inbox.len() > 0 || self.protocol.serving().any(unseen))
    }

    pub(in super::super) fn read(&mut self, now: Duration) {
        if self.pending.is_some() {
            return;
        }
        // As the agent does: while nothing is left to be done of what was decided.
        if self.protocol.due.is_empty() {
            let serving: Vec<Life> = self.protocol.serving().collect();
            for life in serving {
                if !self.counts(life) {
                    self.protocol.on(Event::Unanswered(life), now);
                }
            }
        }
        for event in self.inbox.take() {
            self.protocol.on(Flaw::understand(self.flaw, event), now);
        }
        self.protocol.take_moved();
    }

    /// Runs one operation if the promise allows it. Whoever is `cut` off does not answer.
    pub(super) fn run(&mut self, cut: impl Fn(Rank) -> bool) {
        if self.admitted.is_some() && self.limit.is_none_or(|limit| self.epoch < limit) {
            if !self.table.is_empty() {
                self.unshared = self.epoch + 1;
            }
            self.epoch += 1;
            self.table.retain(|rank, _| !cut(*rank));
        }
    }

    pub(in super::super) fn counts(&self, life: Life) -> bool {
        self.table.get(&life.0).is_some_and(|(l, _)| *l == life.1)
    }

    /// Whether what this process writes comes to the memory of another one: each queue
    /// pair is connected to the other, and the key is that of its life.
    pub(in super::super) fn reaches(&self, other: &Self) -> bool {
        let (Some(there), Some(back)) =
            (self.links.get(&other.life.0), other.links.get(&self.life.0))
        else {
            return false;
        };
        let meets = |a: &Link, b: &Link| a.to.is_some_and(|to| to.qp == b.qp);
        meets(there, back)
            && meets(back, there)
            && there.to.is_some_and(|to| to.rkey == other.life.1.0)
    }

    fn fails(&mut self) -> bool {
        self.trouble
            .take_if(|trouble| *trouble == Trouble::Command)
            .is_some()
    }

    fn publish(&mut self, board: &mut Board, how: How, event: Event) {
        if how == How::Leased && !self.has_lease {
            // Refused, and not repeated.
            return;
        }
        let request = Trouble::Request;
        if let Some(trouble) = self.trouble.take_if(|trouble| *trouble >= request) {
            self.pending = Some((how, event.clone()));
            if trouble == request {
                return;
            }
        }
        board.write(how, event);
    }

    pub(in super::super) fn act(&mut self, board: &mut Board, now: Duration) -> bool {
        let acted = self.perform(board, now);
        self.protocol.take_moved();
        acted
    }

    fn perform(&mut self, board: &mut Board, now: Duration) -> bool {
        if let Some((how, event)) = self.pending.take() {
            board.write(how, event);
            return true;
        }
        let Some(action) = self.protocol.next(now) else {
            return false;
        };
        let me = self.life.0;
        match action {
            Action::Mask(life, _) => {
                self.masked.push(life);
                if self.counts(life) {
                    self.table.remove(&life.0);
                }
            }
            Action::TellMasked(masked) => {
                self.publish(board, How::Leased, Event::Masked(me, masked));
            }
            Action::Superseded(_) => {
                self.superseded = true;
                self.limit = None;
                self.table.clear();
                self.protocol.over = self.flaw != Some(Flaw::GoesOn);
            }
            Action::Propose(number, proposal) => {
                self.publish(board, How::Once, Event::Proposal(number, proposal));
            }
            Action::Prepare(number, ranks) => {
                let outcome = self.prepare(number, &ranks);
                self.protocol.on(outcome, now);
            }
            Action::PublishOffers { number, offers, .. } => {
                self.publish(board, How::Leased, Event::Offers(number, me, offers));
            }
            Action::Connect(number, peers) => {
                let outcome = self.connect(number, peers);
                self.protocol.on(outcome, now);
            }
            Action::PublishLinked(number) => {
                self.publish(board, How::Leased, Event::Linked(number, me));
            }
            Action::PublishGo(number) => self.publish(board, How::Free, Event::Go(number)),
            Action::Promise { number, member } => {
                let outcome = self.promise(number, member);
                self.protocol.on(outcome, now);
            }
            Action::PublishReady(number, ready) => {
                self.publish(board, How::Leased, Event::Ready(number, me, ready));
            }
            Action::Decide(number, decision) => {
                self.publish(board, How::Once, Event::Decision(number, decision));
            }
            Action::Admit {
                attempt,
                from,
                ranks,
                own,
            } => {
                self.admit(from, ranks, own);
                board.tidy(me, attempt);
                if own {
                    board.forget_before(attempt);
                }
            }
            Action::Forget { attempt, ranks, .. } => {
                self.limit = None;
                self.links.retain(|rank, _| !ranks.contains(rank));
                board.tidy(me, attempt);
            }
        }
        true
    }

    /// How a step that failed is told; it may have been half done.
    fn failed(&self, number: u64) -> Event {
        Event::Failed(number, format!("{}: refused", self.life.0), None)
    }

    fn keeps(&self, rank: Rank) -> bool {
        let connected = self.links.get(&rank).is_some_and(|link| link.to.is_some());
        connected && self.flaw == Some(Flaw::KeepsConnections)
    }

    fn prepare(&mut self, number: u64, ranks: &[Rank]) -> Event {
        self.table.retain(|rank, _| !ranks.contains(rank));
        let (rank, incarnation) = self.life;
        let qp = QpOffer {
            qpn: rank.0 | incarnation.0 << 8,
            psn: number as u32,
        };
        let fails = self.fails();
        for rank in ranks.iter().take(if fails { 1 } else { ranks.len() }) {
            if !self.keeps(*rank) {
                self.links.insert(*rank, Link { qp, to: None });
            }
        }
        if fails {
            return self.failed(number);
        }
        let qp_to = |rank: &Rank| self.links.get(rank).map_or(qp, |link| link.qp);
        let offers = ranks.iter().map(|rank| (*rank, vec![qp_to(rank)]));
        let offers = offers.collect();
        Event::Prepared(number, Offers(offers))
    }

    fn connect(&mut self, number: u64, peers: Vec<(Card, Vec<QpOffer>)>) -> Event {
        let fails = self.fails();
        let some = if fails { 1 } else { peers.len() };
        for (card, offers) in peers.into_iter().take(some) {
            let qp = offers[0];
            if self.keeps(card.rank) {
                continue;
            }
            if let Some(link) = self.links.get_mut(&card.rank) {
                link.to = Some(Target {
                    life: (Rank(qp.qpn & 0xff), Incarnation(qp.qpn >> 8)),
                    qp,
                    rkey: card.nics[0].rkey,
                });
            }
        }
        if fails {
            return self.failed(number);
        }
        Event::Connected(number)
    }

    fn promise(&mut self, number: u64, member: bool) -> Event {
        if self.fails() {
            return self.failed(number);
        }
        let limit = if member {
            self.epoch + 3
        } else {
            self.unshared
        };
        self.limit = member.then_some(limit);
        let ready = Ready {
            limit: Epoch(limit),
            masked: self.protocol.masked(),
        };
        Event::Promised(number, ready)
    }

    fn admit(&mut self, from: Epoch, ranks: Vec<Life>, own: bool) {
        self.limit = None;
        if own {
            self.admitted = Some(from.0);
            self.epoch = from.0;
        }
        assert!(self.epoch <= from.0, "admitted at an epoch that is over");
        assert!(self.unshared <= from.0, "an epoch is used again");
        for (rank, incarnation) in ranks {
            self.table.insert(rank, (incarnation, from.0));
        }
    }
}
