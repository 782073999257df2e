//! Ranks, the store between them, and all that can happen to them.
//!
//! Messages are lost in these ways, and no other:
//!
//! - The store keeps the last state of each key. Who looks seldom is told of that only
//!   ([`World::last_only`]): a record that was overwritten or taken away meanwhile is one
//!   that it never hears of, and neither is a lease that ended and was taken anew.
//! - What a rank publishes does not reach the store, or the answer to that is lost. The
//!   agent repeats it and does nothing else until it is done ([`Trouble::Request`],
//!   [`Trouble::Answer`]). If the rank dies meanwhile, or its lease ends on which the
//!   record was to hang, it is lost for good.
//! - Between two ranks all data is lost from some moment on ([`Step::Cut`]), each of the
//!   two gives the other up in its next operation, until the network is mended. One that
//!   gives up the other for once, with or without a reason, is [`Step::GiveUp`].

mod board;
mod flaw;
mod process;
mod shared;

pub(super) use board::{Board, Key};
pub(super) use flaw::Flaw;
pub(super) use process::{Process, Trouble};
pub(super) use shared::fingerprint;

use super::super::*;
use process::card;
use shared::Shared;
use std::sync::Arc;

pub(super) const TIME_OUT: Duration = Duration::from_secs(1);

/// Something that happens. Ranks are named by their places in [`World::processes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Read(usize),
    Act(usize),
    /// A rank goes on, and something goes wrong in that.
    Fail(usize, Trouble),
    Run(usize),
    Kill(usize),
    Start(usize),
    /// The first has waited for the second in vain.
    GiveUp(usize, usize),
    /// What the two write to each other is lost.
    Cut(usize, usize),
    /// The lease of a rank ends although it lives.
    LoseLease(usize),
    /// It takes another one.
    Regain(usize),
    /// A rank says that it leaves; it has yet to end.
    Leave(usize),
    /// The lease of a rank ends, and another process takes its place. The first goes on,
    /// at a place behind all others.
    Replace(usize),
    /// Whoever collects says that all are linked, whether they are or not.
    Lie,
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) board: Shared<Board>,
    /// Of each rank the newest process; behind them those that others took the place of.
    pub(super) processes: Vec<Option<Shared<Process>>>,
    lives: Vec<u32>,
    /// Ranks that do nothing, although they live.
    pub(super) frozen: Vec<bool>,
    pub(super) cut: BTreeSet<(Rank, Rank)>,
    /// Who reads is told of the last state of each key only.
    last_only: bool,
    pub(super) now: Duration,
}

impl World {
    pub(super) fn new(ranks: usize) -> Self {
        let mut world = Self {
            board: Shared::new(Board::default()),
            processes: Vec::new(),
            lives: vec![0; ranks],
            frozen: vec![false; ranks],
            cut: BTreeSet::new(),
            last_only: false,
            now: Duration::ZERO,
        };
        world.processes.resize_with(ranks, || None);
        for rank in 0..ranks {
            world.start(rank);
        }
        world
    }

    /// From here on everybody is told of the last state of each key only.
    pub(super) fn last_only(mut self) -> Self {
        self.last_only = true;
        for process in self.processes.iter_mut().flatten() {
            process.inbox.last_only = true;
        }
        self
    }

    /// The newest process of each rank, where there is one.
    pub(super) fn living(&self) -> impl Iterator<Item = &Process> {
        let newest = self.processes.iter().take(self.lives.len());
        newest.flatten().map(|process| &**process)
    }

    pub(super) fn ranks(&self) -> usize {
        self.lives.len()
    }

    /// Processes whose place others have taken.
    pub(super) fn replaced(&self) -> impl Iterator<Item = &Process> {
        let old = self.processes.iter().skip(self.lives.len());
        old.flatten().map(|process| &**process)
    }

    pub(super) fn start(&mut self, rank: usize) {
        if self.processes[rank].is_none() {
            self.lives[rank] += 1;
            let life = (Rank(rank as u32), Incarnation(self.lives[rank]));
            let initial = self.lives.len() as u32;
            let process = Process::start(&mut self.board, life, initial, self.last_only);
            self.deliver();
            self.processes[rank] = Some(Shared::new(process));
        }
    }

    pub(super) fn table_of(&self, rank: usize) -> Vec<(Rank, (Incarnation, u64))> {
        let process = self.processes[rank].as_ref().unwrap();
        process.table.iter().map(|(k, v)| (*k, *v)).collect()
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Read(i) => {
                if let Some(process) = self.processes[i].as_mut().filter(|p| p.has_news()) {
                    process.read(self.now);
                }
            }
            Step::Act(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.act(&mut self.board, self.now);
                }
            }
            Step::Fail(i, trouble) => {
                self.fail(i, trouble);
            }
            Step::Run(i) => self.run(i),
            Step::Kill(i) => {
                self.lose_lease(i);
                self.processes[i] = None;
            }
            Step::Start(i) => self.start(i),
            Step::GiveUp(i, j) => {
                if let Some(process) = &mut self.processes[i] {
                    process.table.remove(&Rank(j as u32));
                }
            }
            Step::Cut(i, j) => {
                let (a, b) = (Rank(i as u32), Rank(j as u32));
                self.cut.extend([(a, b), (b, a)]);
            }
            Step::LoseLease(i) => self.lose_lease(i),
            Step::Regain(i) => self.regain_lease(i),
            Step::Leave(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.leaving = true;
                    self.board.publish(Event::Left(process.life));
                }
            }
            Step::Replace(i) => {
                self.lose_lease(i);
                let old = self.processes[i].take();
                self.processes.push(old);
                self.frozen.push(false);
                self.start(i);
            }
            Step::Lie => self.board.lie(),
            Step::Wait => self.now += TIME_OUT / 2,
        }
        self.deliver();
    }

    fn run(&mut self, rank: usize) {
        if let Some(process) = &mut self.processes[rank] {
            let me = process.life.0;
            let cut = &self.cut;
            process.run(|other| cut.contains(&(me, other)));
        }
    }

    pub(super) fn lose_lease(&mut self, rank: usize) {
        if let Some(process) = self.processes[rank].as_mut().filter(|p| p.has_lease) {
            process.has_lease = false;
            // What was to hang on it is refused.
            process
                .pending
                .take_if(|(how, _)| *how == board::How::Leased);
            self.board.publish(Event::Gone(process.life));
        }
        self.deliver();
    }

    pub(super) fn regain_lease(&mut self, rank: usize) {
        if let Some(process) = self.processes[rank].as_mut().filter(|p| !p.has_lease) {
            process.has_lease = true;
            self.board.publish(Event::Card(card(process.life)));
        }
        self.deliver();
    }

    /// Networks carry again what is sent, and leases are taken anew.
    pub(super) fn mend(&mut self) {
        self.cut.clear();
        (0..self.lives.len()).for_each(|rank| self.regain_lease(rank));
    }

    /// Brings what was published to everybody.
    fn deliver(&mut self) {
        if self.board.news.is_empty() {
            return;
        }
        for (key, event) in std::mem::take(&mut self.board.news) {
            for process in self.processes.iter_mut().flatten() {
                let is_for = |event: &Arc<Event>| self.board.is_for(process.life, event);
                let event = event.clone().filter(is_for);
                if event.is_some() || process.inbox.knows_of(key) {
                    process.inbox.deliver(key, event);
                }
            }
        }
    }

    /// A rank goes on up to the first thing that the others can see.
    pub(super) fn act_visibly(&mut self, rank: usize) {
        if let Some(process) = &mut self.processes[rank] {
            let quiet = |process: &Process| process.pending.is_none();
            while !self.board.is_heard() && process.act(&mut self.board, self.now) {
                if !quiet(process) {
                    break;
                }
            }
        }
        self.deliver();
    }

    /// The same, while something goes wrong. Whether anything did.
    pub(super) fn fail(&mut self, rank: usize, trouble: Trouble) -> bool {
        let Some(process) = &mut self.processes[rank] else {
            return false;
        };
        process.trouble = Some(trouble);
        self.act_visibly(rank);
        let process = self.processes[rank].as_mut();
        process.is_some_and(|process| process.trouble.take().is_none())
    }

    /// A rank reads everything and does everything. Whether there was anything to do.
    pub(super) fn turn(&mut self, rank: usize) -> bool {
        let mut busy = false;
        let Some(process) = self.processes[rank].as_mut().filter(|_| !self.frozen[rank]) else {
            return false;
        };
        // What it was busy with keeps it from reading.
        if process.pending.is_some() {
            process.act(&mut self.board, self.now);
        }
        if process.has_news() {
            process.read(self.now);
        }
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
        let living: Vec<&Process> = self.living().collect();
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
