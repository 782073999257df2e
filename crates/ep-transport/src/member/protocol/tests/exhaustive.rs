//! Everything that can happen to two or three ranks, within a few deaths and losses.
//!
//! A step is: a rank reads what the store has for it, or goes on up to the next thing
//! that others can see, or runs an operation, or dies, is started, gives another one
//! up, or loses its lease; or whoever collects lies, or time passes. Each may come between any two others.

use super::world::{Process, Step, World};

use stateright::{Checker, Model, Property};

const COMES_TRUE: &str = "an update is committed";

/// What may happen, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    kills: u8,
    starts: u8,
    give_ups: u8,
    leases: u8,
    lies: u8,
    operations: u8,
    waits: u8,
}

const NOTHING: Budget = Budget {
    kills: 0,
    starts: 0,
    give_ups: 0,
    leases: 0,
    lies: 0,
    operations: 0,
    waits: 0,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    left: Budget,
}

struct Everything {
    start: World,
    budget: Budget,
    reading: Reading,
}

/// When ranks read what the store has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// At any time, so that what they do may rest on what was true a while ago.
    AnyTime,
    /// Just before they do something. Far fewer states.
    Before,
}

impl Budget {
    /// What is left after the step, if there was enough.
    fn spend(mut self, step: &Step) -> Option<Self> {
        let item = match step {
            Step::Read(_) | Step::Act(_) => return Some(self),
            Step::Kill(_) => &mut self.kills,
            Step::Start(_) => &mut self.starts,
            Step::GiveUp(..) => &mut self.give_ups,
            Step::LoseLease(_) => &mut self.leases,
            Step::Lie => &mut self.lies,
            Step::Run(_) => &mut self.operations,
            Step::Wait => &mut self.waits,
        };
        *item = item.checked_sub(1)?;
        Some(self)
    }
}

impl Model for Everything {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            world: self.start.clone(),
            left: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let world = &state.world;
        for (i, process) in world.processes.iter().enumerate() {
            match process {
                Some(process) => {
                    if self.reading == Reading::AnyTime && !process.inbox.is_empty() {
                        actions.push(Step::Read(i));
                    }
                    actions.extend([
                        Step::Act(i),
                        Step::Run(i),
                        Step::Kill(i),
                        Step::LoseLease(i),
                    ]);
                    let others = (0..world.processes.len()).filter(|j| *j != i);
                    actions.extend(others.map(|j| Step::GiveUp(i, j)));
                }
                None => actions.push(Step::Start(i)),
            }
        }
        actions.extend([Step::Lie, Step::Wait]);
        actions.retain(|step| state.left.spend(step).is_some());
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let left = state.left.spend(&step)?;
        let mut world = state.world.clone();
        match step {
            // What nobody else sees needs no step of its own.
            Step::Act(i) => {
                if self.reading == Reading::Before {
                    world.step(&Step::Read(i));
                }
                world.act_visibly(i);
            }
            other => world.step(&other),
        }
        let next = State { world, left };
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "two that count each other do so from one epoch",
                |_: &Self, state: &State| agree(&state.world),
            ),
            Property::always(
                "nobody is past an epoch that it has yet to admit somebody at",
                |_: &Self, s: &State| nobody_is_late(&s.world),
            ),
            Property::always(
                "whoever stays alive comes together again",
                |_: &Self, state: &State| has_a_way_out(&state.world),
            ),
            Property::sometimes(COMES_TRUE, |_: &Self, state: &State| {
                living(&state.world).any(|process| process.protocol.last_commit > 1)
            }),
        ]
    }
}

fn living(world: &World) -> impl Iterator<Item = &Process> {
    world.processes.iter().flatten()
}

fn agree(world: &World) -> bool {
    living(world).all(|a| {
        living(world).all(|b| {
            let (Some(there), Some(back)) = (a.table.get(&b.life.0), b.table.get(&a.life.0)) else {
                return true;
            };
            // Where one of the two is a life that is over, nothing is accepted.
            there.0 != b.life.1 || back.0 != a.life.1 || there.1 == back.1
        })
    })
}

/// A view that was decided, and is active on one rank, is possible on all others.
fn nobody_is_late(world: &World) -> bool {
    world.board.commits().all(|(number, from, proposal)| {
        living(world).all(|process| {
            let member = proposal.members.contains(&process.life);
            let knows = process.protocol.last_commit >= number;
            !member || knows || process.epoch <= from.0
        })
    })
}

fn together(world: &World) -> bool {
    living(world).all(|a| living(world).all(|b| a.life == b.life || a.counts(b.life)))
}

fn has_a_way_out(world: &World) -> bool {
    let mut world = world.clone();
    // As long as ten attempts take.
    let found = (0..40).any(|_| {
        world.pass_time();
        together(&world)
    });
    found && agree(&world)
}

/// Explores everything, and says how much that was.
fn explore(start: World, reading: Reading, budget: Budget) -> usize {
    let model = Everything {
        start,
        budget,
        reading,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    for (property, path) in checker.discoveries() {
        assert_eq!(property, COMES_TRUE, "{:#?}", path.into_actions());
    }
    assert!(checker.discovery(COMES_TRUE).is_some());
    assert!(checker.is_done());
    eprintln!(
        "{budget:?}, {reading:?}: {} states",
        checker.unique_state_count()
    );
    checker.unique_state_count()
}

/// Ranks that have formed a group.
fn formed(ranks: usize) -> World {
    let mut world = World::new(ranks);
    world.settle();
    world
}

/// Two members, and a third that begins when everything else does.
fn with_a_newcomer() -> World {
    let mut world = formed(3);
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    world
}

/// Three members of which two have given each other up.
fn apart() -> World {
    let mut world = formed(3);
    world.step(&Step::GiveUp(1, 2));
    world.step(&Step::GiveUp(2, 1));
    world
}

#[test]
fn a_newcomer_while_survivors_run() {
    let budget = Budget {
        operations: 2,
        ..NOTHING
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 4_000);
}

/// The newcomer, who collects, dies at any point, or one that answers does.
#[test]
fn a_newcomer_and_a_death() {
    let budget = Budget {
        kills: 1,
        waits: 1,
        ..NOTHING
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 50_000);
}

#[test]
fn a_newcomer_that_lies() {
    let budget = Budget {
        lies: 1,
        operations: 1,
        ..NOTHING
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 20_000);
}

/// One that says nothing until the others have stopped waiting for it, or for ever.
#[test]
fn a_newcomer_that_is_late() {
    let budget = Budget {
        waits: 3,
        ..NOTHING
    };
    assert!(explore(with_a_newcomer(), Reading::Before, budget) > 20_000);
}

#[test]
fn a_false_alarm() {
    let budget = Budget {
        give_ups: 1,
        waits: 1,
        ..NOTHING
    };
    assert!(explore(formed(3), Reading::Before, budget) > 20_000);
}

/// Members that are joined again have a member that collects.
#[test]
fn a_false_alarm_and_a_death() {
    let budget = Budget {
        kills: 1,
        waits: 1,
        ..NOTHING
    };
    assert!(explore(apart(), Reading::Before, budget) > 20_000);
}

#[test]
fn a_lost_lease() {
    let budget = Budget {
        leases: 1,
        operations: 2,
        waits: 1,
        ..NOTHING
    };
    assert!(explore(formed(2), Reading::Before, budget) > 1_000);
}
