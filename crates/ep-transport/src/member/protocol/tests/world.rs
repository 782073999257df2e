//! Ranks, the store between them, and all that can happen to them.

use super::super::*;
use crate::member::records::{NicAddress, PortAddress};

pub(super) const TIME_OUT: Duration = Duration::from_secs(1);

fn card(rank: Rank, incarnation: Incarnation) -> Card {
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
            rkey: 0,
        }],
        region_address: 0,
        window: None,
    }
}

/// Where a record is in the store. The order is that in which a list of what is
/// there comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
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

fn key(event: &Event) -> Option<Key> {
    Some(match event {
        Event::Card(card) => Key::Card((card.rank, card.incarnation)),
        Event::Gone(life) => Key::Card(*life),
        Event::Coming(life, _) => Key::Coming(*life),
        Event::Masked(rank, _) => Key::Masked(*rank),
        Event::Proposal(n, _) => Key::Proposal(*n),
        Event::Offers(n, rank, _) => Key::Offers(*n, *rank),
        Event::Linked(n, rank) => Key::Linked(*n, *rank),
        Event::Go(n) => Key::Go(*n),
        Event::Ready(n, rank, _) => Key::Ready(*n, *rank),
        Event::Decision(n, _) => Key::Decision(*n),
        _ => return None,
    })
}

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Board {
    records: BTreeMap<Key, Event>,
    /// What was published since the processes' inboxes were last filled.
    news: Vec<Event>,
}

impl Board {
    pub(super) fn has(&self, key: Key) -> bool {
        self.records.contains_key(&key)
    }

    pub(super) fn decision(&self, number: u64) -> Option<&Decision> {
        match self.records.get(&Key::Decision(number)) {
            Some(Event::Decision(_, decision)) => Some(decision),
            _ => None,
        }
    }

    fn proposal(&self, number: u64) -> Option<&Proposal> {
        match self.records.get(&Key::Proposal(number)) {
            Some(Event::Proposal(_, proposal)) => Some(proposal),
            _ => None,
        }
    }

    /// Whether what was published is where this life looks.
    fn is_for(&self, life: Life, event: &Event) -> bool {
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
    pub(super) fn commits(&self) -> impl Iterator<Item = (u64, Epoch, &Proposal)> {
        self.records.iter().filter_map(|(key, event)| {
            let (Key::Decision(n), Event::Decision(_, Decision::Commit { from })) = (key, event)
            else {
                return None;
            };
            Some((*n, *from, self.proposal(*n)?))
        })
    }

    pub(super) fn publish(&mut self, event: Event) {
        let Some(key) = key(&event) else { return };
        match &event {
            Event::Gone((rank, _)) => {
                self.records.remove(&key);
                self.records.remove(&Key::Masked(*rank));
            }
            _ => {
                self.records.insert(key, event.clone());
            }
        }
        self.news.push(event);
    }

    /// Says of the newest attempt that all are linked.
    fn lie(&mut self) {
        let proposals = self.records.range(..=Key::Proposal(u64::MAX));
        if let Some((Key::Proposal(n), _)) = proposals.last() {
            let go = Event::Go(*n);
            self.publish_once(go);
        }
    }

    /// The first record under a key stays.
    fn publish_once(&mut self, event: Event) {
        if key(&event).is_some_and(|key| !self.has(key)) {
            self.publish(event);
        }
    }
}

/// Puts an event at the end of an inbox. The order of what different ranks say of
/// one stage of one attempt makes no difference, so it is always the same.
fn deliver(inbox: &mut Vec<Event>, event: Event) {
    let place = |event: &Event| match event {
        Event::Offers(n, rank, _) => Some((*n, 0, *rank)),
        Event::Linked(n, rank) => Some((*n, 1, *rank)),
        Event::Ready(n, rank, _) => Some((*n, 2, *rank)),
        _ => None,
    };
    let mut at = inbox.len();
    if let Some(own) = place(&event) {
        while at > 0 && place(&inbox[at - 1]).is_some_and(|before| before > own) {
            at -= 1;
        }
    }
    inbox.insert(at, event);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) protocol: Protocol,
    pub(super) inbox: Vec<Event>,
    pub(super) epoch: u64,
    pub(super) limit: Option<u64>,
    /// The first epoch that it has not used together with others.
    unshared: u64,
    /// From which epoch this process counts which life.
    pub(super) table: BTreeMap<Rank, (Incarnation, u64)>,
    pub(super) admitted: Option<u64>,
    pub(super) masked: Vec<Life>,
    pub(super) superseded: bool,
}

impl Process {
    fn start(board: &mut Board, rank: Rank, incarnation: Incarnation, initial: u32) -> Self {
        // The others hear of it; this one finds it with all that is there.
        board.publish(Event::Card(card(rank, incarnation)));
        let there = board.records.values();
        let inbox = there.filter(|event| board.is_for((rank, incarnation), event));
        Self {
            life: (rank, incarnation),
            protocol: Protocol::new(Setup {
                me: rank,
                incarnation,
                initial: (0..initial).map(Rank).collect(),
                alignment: 2,
                time_out: TIME_OUT,
            }),
            inbox: inbox.cloned().collect(),
            epoch: 0,
            limit: None,
            unshared: 0,
            table: BTreeMap::new(),
            admitted: None,
            masked: Vec::new(),
            superseded: false,
        }
    }

    pub(super) fn read(&mut self, now: Duration) {
        // As the agent does: while nothing is left to be done of what was decided.
        if self.protocol.due.is_empty() {
            let serving: Vec<Life> = self.protocol.serving().collect();
            for life in serving {
                if !self.counts(life) {
                    self.protocol.on(Event::Unanswered(life), now);
                }
            }
        }
        for event in std::mem::take(&mut self.inbox) {
            self.protocol.on(event, now);
        }
    }

    /// Runs one operation if the promise allows it.
    pub(super) fn run(&mut self) {
        if self.admitted.is_some() && self.limit.is_none_or(|limit| self.epoch < limit) {
            if !self.table.is_empty() {
                self.unshared = self.epoch + 1;
            }
            self.epoch += 1;
        }
    }

    pub(super) fn counts(&self, life: Life) -> bool {
        self.table.get(&life.0).is_some_and(|(l, _)| *l == life.1)
    }

    pub(super) fn act(&mut self, board: &mut Board, now: Duration) -> bool {
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
            Action::TellMasked(masked) => board.publish(Event::Masked(me, masked)),
            Action::Superseded(_) => {
                self.superseded = true;
                self.table.clear();
            }
            Action::Propose(number, proposal) => {
                board.publish_once(Event::Proposal(number, proposal));
            }
            Action::Prepare(number, ranks) => {
                self.table.retain(|rank, _| !ranks.contains(rank));
                let offers = ranks
                    .iter()
                    .map(|rank| (*rank, vec![QpOffer { qpn: me.0, psn: 0 }]))
                    .collect();
                self.protocol
                    .on(Event::Prepared(number, Offers(offers)), now);
            }
            Action::PublishOffers { number, offers, .. } => {
                board.publish(Event::Offers(number, me, offers));
            }
            Action::Connect(number, peers) => {
                for (card, offers) in peers {
                    assert_eq!(offers[0].qpn, card.rank.0, "offers of another rank");
                }
                self.protocol.on(Event::Connected(number), now);
            }
            Action::PublishLinked(number) => board.publish(Event::Linked(number, me)),
            Action::PublishGo(number) => board.publish(Event::Go(number)),
            Action::Promise { number, member } => {
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
                self.protocol.on(Event::Promised(number, ready), now);
            }
            Action::PublishReady(number, ready) => {
                board.publish(Event::Ready(number, me, ready));
            }
            Action::Decide(number, decision) => {
                board.publish_once(Event::Decision(number, decision));
            }
            Action::Admit {
                from, ranks, own, ..
            } => {
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
            Action::Forget { .. } => self.limit = None,
        }
        true
    }
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Read(usize),
    Act(usize),
    Run(usize),
    Kill(usize),
    Start(usize),
    /// The first has waited for the second in vain.
    GiveUp(usize, usize),
    /// The lease of a rank ends although it lives, and it takes another one.
    LoseLease(usize),
    /// Whoever collects says that all are linked, whether they are or not.
    Lie,
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) board: Board,
    pub(super) processes: Vec<Option<Process>>,
    lives: Vec<u32>,
    /// Ranks that do nothing, although they live.
    pub(super) frozen: Vec<bool>,
    pub(super) now: Duration,
}

impl World {
    pub(super) fn new(ranks: usize) -> Self {
        let mut world = Self {
            board: Board::default(),
            processes: Vec::new(),
            lives: vec![0; ranks],
            frozen: vec![false; ranks],
            now: Duration::ZERO,
        };
        world.processes.resize_with(ranks, || None);
        for rank in 0..ranks {
            world.start(rank);
        }
        world
    }

    pub(super) fn start(&mut self, rank: usize) {
        if self.processes[rank].is_none() {
            self.lives[rank] += 1;
            let initial = self.processes.len() as u32;
            let process = Process::start(
                &mut self.board,
                Rank(rank as u32),
                Incarnation(self.lives[rank]),
                initial,
            );
            self.deliver();
            self.processes[rank] = Some(process);
        }
    }

    pub(super) fn table_of(&self, rank: usize) -> Vec<(Rank, (Incarnation, u64))> {
        let process = self.processes[rank].as_ref().unwrap();
        process.table.iter().map(|(k, v)| (*k, *v)).collect()
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Read(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.read(self.now);
                }
            }
            Step::Act(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.act(&mut self.board, self.now);
                }
            }
            Step::Run(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.run();
                }
            }
            Step::Kill(i) => {
                if let Some(process) = self.processes[i].take() {
                    self.board.publish(Event::Gone(process.life));
                }
            }
            Step::Start(i) => self.start(i),
            Step::GiveUp(i, j) => {
                if let Some(process) = &mut self.processes[i] {
                    process.table.remove(&Rank(j as u32));
                }
            }
            Step::LoseLease(i) => {
                self.lose_lease(i);
                self.regain_lease(i);
            }
            Step::Lie => self.board.lie(),
            Step::Wait => self.now += TIME_OUT / 2,
        }
        self.deliver();
    }

    pub(super) fn lose_lease(&mut self, rank: usize) {
        if let Some(process) = &self.processes[rank] {
            self.board.publish(Event::Gone(process.life));
        }
        self.deliver();
    }

    pub(super) fn regain_lease(&mut self, rank: usize) {
        if let Some(process) = &self.processes[rank] {
            let (rank, incarnation) = process.life;
            self.board.publish(Event::Card(card(rank, incarnation)));
        }
        self.deliver();
    }

    /// Brings what was published to everybody.
    fn deliver(&mut self) {
        for event in std::mem::take(&mut self.board.news) {
            let for_whom = |process: &&mut Process| self.board.is_for(process.life, &event);
            for process in self.processes.iter_mut().flatten().filter(for_whom) {
                deliver(&mut process.inbox, event.clone());
            }
        }
    }

    /// A rank goes on up to the first thing that the others can see.
    pub(super) fn act_visibly(&mut self, rank: usize) {
        if let Some(process) = &mut self.processes[rank] {
            while self.board.news.is_empty() && process.act(&mut self.board, self.now) {}
        }
        self.deliver();
    }

    /// A rank reads everything and does everything. Whether there was anything to do.
    pub(super) fn turn(&mut self, rank: usize) -> bool {
        let mut busy = false;
        let Some(process) = self.processes[rank].as_mut().filter(|_| !self.frozen[rank]) else {
            return false;
        };
        process.read(self.now);
        while process.act(&mut self.board, self.now) {
            busy = true;
        }
        self.deliver();
        busy
    }

    /// Time goes on; everybody alive reads everything and does everything.
    pub(super) fn pass_time(&mut self) {
        self.now += TIME_OUT / 4;
        let all = 0..self.processes.len();
        while all.clone().map(|i| self.turn(i)).fold(false, |a, b| a | b) {}
    }

    pub(super) fn settle(&mut self) {
        (0..40).for_each(|_| self.pass_time());
    }

    /// Two living ranks that count each other do so from one epoch, in these lives.
    pub(super) fn check_agreement(&self) {
        let living: Vec<&Process> = self.processes.iter().flatten().collect();
        for a in &living {
            for b in &living {
                if let Some((life, from)) = a.table.get(&b.life.0)
                    && *life == b.life.1
                    && let Some((back, from_back)) = b.table.get(&a.life.0)
                    && *back == a.life.1
                {
                    assert_eq!(from, from_back, "{:?} and {:?}", a.life, b.life);
                }
            }
        }
    }
}
