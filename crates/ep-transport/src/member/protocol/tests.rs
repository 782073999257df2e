//! Several ranks run the protocol against one store, in every order that chance
//! comes up with, while ranks die.

use super::*;
use crate::member::records::PortAddress;
use proptest::prelude::*;

const TIME_OUT: Duration = Duration::from_secs(1);

fn card(rank: Rank, incarnation: Incarnation) -> Card {
    Card {
        rank,
        incarnation,
        host: "host".into(),
        config: String::new(),
        port: Some(PortAddress {
            gid: [0; 16],
            lid: 0,
            mtu: 4096,
            ethernet: true,
        }),
        region_address: 0,
        rkey: 0,
        window: None,
        leaving: false,
    }
}

/// The store, as the order in which things were published.
#[derive(Default)]
struct Board {
    log: Vec<Event>,
    cards: BTreeMap<Rank, Incarnation>,
}

impl Board {
    fn has_proposal(&self, number: u64) -> bool {
        self.log
            .iter()
            .any(|event| matches!(event, Event::Proposal(n, _) if *n == number))
    }

    fn decision(&self, number: u64) -> Option<&Decision> {
        self.log.iter().find_map(|event| match event {
            Event::Decision(n, decision) if *n == number => Some(decision),
            _ => None,
        })
    }
}

struct Process {
    life: Life,
    protocol: Protocol,
    seen: usize,
    epoch: u64,
    limit: Option<u64>,
    /// From which epoch this process counts which life.
    table: BTreeMap<Rank, (Incarnation, u64)>,
    admitted: Option<u64>,
    masked: Vec<Life>,
    superseded: bool,
}

impl Process {
    fn start(board: &mut Board, rank: Rank, incarnation: Incarnation, initial: u32) -> Self {
        board.cards.insert(rank, incarnation);
        board.log.push(Event::Card(card(rank, incarnation)));
        Self {
            life: (rank, incarnation),
            protocol: Protocol::new(Setup {
                me: rank,
                incarnation,
                initial: (0..initial).map(Rank).collect(),
                alignment: 2,
                time_out: TIME_OUT,
            }),
            seen: 0,
            epoch: 0,
            limit: None,
            table: BTreeMap::new(),
            admitted: None,
            masked: Vec::new(),
            superseded: false,
        }
    }

    fn read(&mut self, board: &Board, now: Duration) {
        if let Some(event) = board.log.get(self.seen) {
            self.seen += 1;
            self.protocol.on(event.clone(), now);
        }
    }

    /// Runs one operation if the promise allows it.
    fn run(&mut self) {
        if self.admitted.is_some() && self.limit.is_none_or(|limit| self.epoch < limit) {
            self.epoch += 1;
        }
    }

    fn counts(&self, life: Life) -> bool {
        self.table.get(&life.0).is_some_and(|(l, _)| *l == life.1)
    }

    fn act(&mut self, board: &mut Board, now: Duration) -> bool {
        let serving: Vec<Life> = self.protocol.serving().collect();
        for life in serving {
            if !self.counts(life) {
                self.protocol.on(Event::Unanswered(life), now);
            }
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
            Action::TellMasked(masked) => board.log.push(Event::Masked(me, masked)),
            Action::Superseded(_) => {
                self.superseded = true;
                self.table.clear();
            }
            Action::Propose(number, proposal) => {
                if !board.has_proposal(number) {
                    board.log.push(Event::Proposal(number, proposal));
                }
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
            Action::PublishOffers(number, offers) => {
                board.log.push(Event::Offers(number, me, offers));
            }
            Action::Connect(number, peers) => {
                for (card, offers) in peers {
                    assert_eq!(offers[0].qpn, card.rank.0, "offers of another rank");
                }
                self.protocol.on(Event::Connected(number), now);
            }
            Action::PublishLinked(number) => board.log.push(Event::Linked(number, me)),
            Action::Promise { number, member } => {
                let limit = if member { self.epoch + 3 } else { 0 };
                self.limit = member.then_some(limit);
                let ready = Ready {
                    limit: Epoch(limit),
                    masked: self.protocol.masked(),
                };
                self.protocol.on(Event::Promised(number, ready), now);
            }
            Action::PublishReady(number, ready) => {
                board.log.push(Event::Ready(number, me, ready));
            }
            Action::Decide(number, decision) => {
                if board.decision(number).is_none() {
                    board.log.push(Event::Decision(number, decision));
                }
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
                for (rank, incarnation) in ranks {
                    self.table.insert(rank, (incarnation, from.0));
                }
            }
            Action::Forget { .. } => self.limit = None,
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize),
    Act(usize),
    Run(usize),
    Kill(usize),
    Start(usize),
    /// The first has waited for the second in vain.
    GiveUp(usize, usize),
    /// The lease of a rank ends although it lives, and it takes another one.
    LoseLease(usize),
    Wait,
}

fn steps(ranks: usize) -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        12 => (0..ranks).prop_map(Step::Read),
        12 => (0..ranks).prop_map(Step::Act),
        4 => (0..ranks).prop_map(Step::Run),
        1 => (0..ranks).prop_map(Step::Kill),
        1 => (0..ranks).prop_map(Step::Start),
        1 => (0..ranks, 0..ranks).prop_map(|(a, b)| Step::GiveUp(a, b)),
        1 => (0..ranks).prop_map(Step::LoseLease),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(one, 0..400)
}

struct World {
    board: Board,
    processes: Vec<Option<Process>>,
    lives: Vec<u32>,
    now: Duration,
}

impl World {
    fn new(ranks: usize) -> Self {
        let mut world = Self {
            board: Board::default(),
            processes: Vec::new(),
            lives: vec![0; ranks],
            now: Duration::ZERO,
        };
        world.processes.resize_with(ranks, || None);
        for rank in 0..ranks {
            world.start(rank);
        }
        world
    }

    fn start(&mut self, rank: usize) {
        if self.processes[rank].is_none() {
            self.lives[rank] += 1;
            let initial = self.processes.len() as u32;
            self.processes[rank] = Some(Process::start(
                &mut self.board,
                Rank(rank as u32),
                Incarnation(self.lives[rank]),
                initial,
            ));
        }
    }

    fn table_of(&self, rank: usize) -> Vec<(Rank, (Incarnation, u64))> {
        let process = self.processes[rank].as_ref().unwrap();
        process.table.iter().map(|(k, v)| (*k, *v)).collect()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Read(i) => {
                if let Some(process) = &mut self.processes[i] {
                    process.read(&self.board, self.now);
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
                    self.board.cards.remove(&process.life.0);
                    self.board.log.push(Event::Gone(process.life));
                }
            }
            Step::Start(i) => self.start(i),
            Step::GiveUp(i, j) => {
                if let Some(process) = &mut self.processes[i] {
                    process.table.remove(&Rank(j as u32));
                }
            }
            Step::LoseLease(i) => {
                if let Some(process) = &mut self.processes[i] {
                    let (rank, incarnation) = process.life;
                    self.board.log.push(Event::Gone(process.life));
                    self.board.log.push(Event::Card(card(rank, incarnation)));
                }
            }
            Step::Wait => self.now += TIME_OUT / 2,
        }
    }

    /// Everybody alive reads everything and does everything, time goes on.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.now += TIME_OUT / 4;
            let mut busy = true;
            while busy {
                busy = false;
                for process in self.processes.iter_mut().flatten() {
                    while process.seen < self.board.log.len() {
                        process.read(&self.board, self.now);
                    }
                    while process.act(&mut self.board, self.now) {
                        busy = true;
                    }
                }
            }
        }
    }

    /// Two living ranks that count each other do so from one epoch, in these lives.
    fn check_agreement(&self) {
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

#[test]
fn ranks_form_a_group_and_take_a_newcomer_in() {
    let mut world = World::new(3);
    world.settle();
    for process in world.processes.iter().flatten() {
        assert_eq!(process.admitted, Some(0));
        assert_eq!(process.table.len(), 2);
    }
    for _ in 0..5 {
        (0..3).for_each(|i| world.step(&Step::Run(i)));
    }
    world.step(&Step::Kill(2));
    world.settle();
    let masked = |i: usize| world.processes[i].as_ref().unwrap().masked.clone();
    assert_eq!(masked(0), [(Rank(2), Incarnation(1))]);
    assert_eq!(masked(1), [(Rank(2), Incarnation(1))]);
    world.step(&Step::Start(2));
    world.settle();
    let newcomer = world.processes[2].as_ref().unwrap();
    // The largest promise is 5 + 3; admissions are at even epochs.
    assert_eq!(newcomer.admitted, Some(8));
    for i in 0..2 {
        let survivor = world.processes[i].as_ref().unwrap();
        assert_eq!(survivor.table[&Rank(2)], (Incarnation(2), 8));
        assert_eq!(survivor.table[&Rank(1 - i as u32)].1, 0);
    }
    world.check_agreement();
}

#[test]
fn two_that_gave_each_other_up_are_joined_again_and_nobody_else_is_touched() {
    let mut world = World::new(4);
    world.settle();
    let before: Vec<_> = world.table_of(3);
    for _ in 0..5 {
        (0..4).for_each(|i| world.step(&Step::Run(i)));
    }
    world.step(&Step::GiveUp(1, 2));
    world.settle();
    // The largest promise is 5 + 3.
    for (a, b) in [(1, 2), (2, 1)] {
        let row = world.processes[a].as_ref().unwrap().table[&Rank(b)];
        assert_eq!(row, (Incarnation(1), 8));
    }
    assert_eq!(world.table_of(3), before);
    let gave_up = &world.processes[2].as_ref().unwrap().masked;
    assert_eq!(*gave_up, [(Rank(1), Incarnation(1))]);
    world.check_agreement();
}

#[test]
fn a_rank_that_ran_ahead_alone_comes_back_to_where_the_others_are() {
    let mut world = World::new(3);
    world.settle();
    for i in [0, 1] {
        world.step(&Step::GiveUp(i, 2));
        world.step(&Step::GiveUp(2, i));
    }
    for _ in 0..1000 {
        world.step(&Step::Run(2));
    }
    (0..4).for_each(|_| (0..2).for_each(|i| world.step(&Step::Run(i))));
    world.settle();
    // 4 + 3, rounded up; not anywhere near 1,000.
    assert_eq!(world.processes[2].as_ref().unwrap().epoch, 8);
    for (a, b) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        let row = world.processes[a].as_ref().unwrap().table[&Rank(b)];
        assert_eq!(row, (Incarnation(1), 8));
    }
    assert_eq!(world.processes[0].as_ref().unwrap().table[&Rank(1)].1, 0);
}

#[test]
fn a_rank_whose_lease_ended_is_taken_in_again() {
    let mut world = World::new(3);
    world.settle();
    world.step(&Step::LoseLease(1));
    world.settle();
    for (a, b) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
        let process = world.processes[a].as_ref().unwrap();
        assert!(process.counts((Rank(b), Incarnation(1))), "{a} and {b}");
    }
    world.check_agreement();
}

/// It may be dead, with a lease that has not run out.
#[test]
fn a_rank_that_others_gave_up_and_that_says_nothing_holds_up_no_newcomer() {
    let mut world = World::new(4);
    world.settle();
    world.step(&Step::Kill(3));
    // Rank 2 hangs: it neither reads nor acts from here on.
    let mut frozen = world.processes[2].take();
    for i in [0, 1] {
        world.step(&Step::GiveUp(i, 2));
    }
    world.settle();
    world.step(&Step::Start(3));
    world.settle();
    let newcomer = world.processes[3].as_ref().unwrap();
    assert!(newcomer.admitted.is_some());
    assert!(!newcomer.counts((Rank(2), Incarnation(1))));
    // It comes back, and is a newcomer itself.
    world.processes[2] = frozen.take();
    world.settle();
    for other in [0, 1, 3] {
        let process = world.processes[other].as_ref().unwrap();
        assert!(process.counts((Rank(2), Incarnation(1))), "{other}");
    }
    world.check_agreement();
}

#[test]
fn a_failed_step_drops_the_attempt_and_a_later_one_succeeds() {
    let mut world = World::new(2);
    world.settle();
    world.step(&Step::Kill(1));
    world.settle();
    world.step(&Step::Start(1));
    let process = world.processes[0].as_mut().unwrap();
    // The survivor learns of the proposal but its first connection fails.
    let number = process.protocol.last_number + 1;
    let newcomer = world.processes[1].as_mut().unwrap();
    while newcomer.seen < world.board.log.len() {
        newcomer.read(&world.board, world.now);
    }
    while newcomer.act(&mut world.board, world.now) {}
    let survivor = world.processes[0].as_mut().unwrap();
    while survivor.seen < world.board.log.len() {
        survivor.read(&world.board, world.now);
    }
    let why = "rank 0: INIT2RTR refused".to_owned();
    survivor
        .protocol
        .on(Event::Failed(number, why.clone()), world.now);
    world.settle();
    let dropped = Decision::Dropped {
        by: Rank(0),
        why,
        blame: vec![Rank(0)],
    };
    assert_eq!(world.board.decision(number), Some(&dropped));
    assert!(world.processes[1].as_ref().unwrap().admitted.is_some());
    world.check_agreement();
}

#[test]
fn a_member_that_hangs_holds_nobody_up() {
    let mut world = World::new(3);
    world.settle();
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    // Rank 1 is frozen; the others do all they can, short of the time-out.
    for _ in 0..20 {
        for i in [0, 2] {
            let process = world.processes[i].as_mut().unwrap();
            while process.seen < world.board.log.len() {
                process.read(&world.board, world.now);
            }
            while process.act(&mut world.board, world.now) {}
        }
    }
    let survivor = world.processes[0].as_ref().unwrap();
    let linked = |e: &Event| matches!(e, Event::Linked(2, Rank(0)));
    assert_eq!(
        survivor.limit, None,
        "promised although rank 1 does not answer"
    );
    // It waits for rank 1's offers or links, and serves meanwhile.
    assert!(
        !world
            .board
            .log
            .iter()
            .any(|e| matches!(e, Event::Ready(2, ..)))
    );
    assert!(world.board.log.iter().filter(|e| linked(e)).count() <= 1);
}

#[test]
fn a_rank_that_says_nothing_lets_the_attempt_time_out() {
    let mut world = World::new(2);
    world.settle();
    world.step(&Step::Kill(1));
    world.settle();
    world.step(&Step::Start(1));
    // The survivor is frozen: only the newcomer runs.
    let newcomer = world.processes[1].as_mut().unwrap();
    for _ in 0..8 {
        world.now += TIME_OUT / 4;
        while newcomer.seen < world.board.log.len() {
            newcomer.read(&world.board, world.now);
        }
        while newcomer.act(&mut world.board, world.now) {}
    }
    let Some(Decision::Dropped { by, why, blame }) = world.board.decision(2) else {
        panic!("not dropped");
    };
    assert_eq!((*by, &blame[..]), (Rank(1), &[Rank(0)][..]));
    assert!(why.contains("rank 0"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_everybody_alive_is_a_member_in_the_end(steps in steps(3)) {
        let mut world = World::new(3);
        for step in &steps {
            world.step(step);
            world.check_agreement();
        }
        (0..3).for_each(|i| world.start(i));
        world.settle();
        world.check_agreement();
        for process in world.processes.iter().flatten() {
            prop_assert!(process.admitted.is_some(), "{:?} never came in", process.life);
            for other in world.processes.iter().flatten().filter(|o| o.life != process.life) {
                prop_assert_eq!(
                    process.table.get(&other.life.0).map(|(life, _)| *life),
                    Some(other.life.1)
                );
            }
        }
    }
}
