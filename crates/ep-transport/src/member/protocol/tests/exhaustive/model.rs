//! What may happen, how often, and how much of it there was.

use super::super::world::{Process, Step, Trouble, World};
use super::properties::{self, Known};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// What may happen, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Budget {
    pub(super) kills: u8,
    pub(super) starts: u8,
    pub(super) replacements: u8,
    pub(super) give_ups: u8,
    pub(super) cuts: u8,
    pub(super) leases: u8,
    pub(super) leaves: u8,
    /// Commands that fail.
    pub(super) failures: u8,
    /// Requests to the store, or answers, that are lost.
    pub(super) losses: u8,
    pub(super) lies: u8,
    pub(super) operations: u8,
    pub(super) waits: u8,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            ("kills", self.kills),
            ("starts", self.starts),
            ("replacements", self.replacements),
            ("give-ups", self.give_ups),
            ("cuts", self.cuts),
            ("leases", self.leases),
            ("leaves", self.leaves),
            ("failures", self.failures),
            ("losses", self.losses),
            ("lies", self.lies),
            ("operations", self.operations),
            ("waits", self.waits),
        ];
        let some = all.iter().filter(|(_, times)| *times > 0);
        f.debug_map().entries(some.copied()).finish()
    }
}

impl Budget {
    /// What is left after the step, if there was enough.
    fn spend(mut self, step: &Step, world: &World) -> Option<Self> {
        let leaving = |i: usize| world.processes[i].as_ref().is_some_and(|p| p.leaving);
        let item = match step {
            Step::Read(_) | Step::Act(_) | Step::Regain(_) => return Some(self),
            // It has to end some time.
            Step::Kill(i) if leaving(*i) => return Some(self),
            Step::Kill(_) => &mut self.kills,
            Step::Start(_) => &mut self.starts,
            Step::Replace(_) => &mut self.replacements,
            Step::GiveUp(..) => &mut self.give_ups,
            Step::Cut(..) => &mut self.cuts,
            Step::LoseLease(_) => &mut self.leases,
            Step::Leave(_) => &mut self.leaves,
            Step::Fail(_, Trouble::Command) => &mut self.failures,
            Step::Fail(..) => &mut self.losses,
            Step::Lie => &mut self.lies,
            Step::Run(_) => &mut self.operations,
            Step::Wait => &mut self.waits,
        };
        *item = item.checked_sub(1)?;
        Some(self)
    }
}

/// When ranks read what the store has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// At any time, so that what they do may rest on what was true a while ago.
    AnyTime,
    /// Just before they do something. Far fewer states.
    Before,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) world: World,
    left: Budget,
}

pub(super) struct Everything {
    start: World,
    budget: Budget,
    reading: Reading,
    /// Worlds that are known to have a way out.
    pub(super) known: Known,
}

impl Everything {
    fn steps_of(&self, world: &World, i: usize, process: &Process, steps: &mut Vec<Step>) {
        let is_newest = world.living().any(|other| other.life == process.life);
        if self.reading == Reading::AnyTime && process.inbox.len() > 0 {
            steps.push(Step::Read(i));
        }
        steps.extend([Step::Act(i), Step::Run(i)]);
        let troubles = [Trouble::Command, Trouble::Request, Trouble::Answer];
        steps.extend(troubles.map(|trouble| Step::Fail(i, trouble)));
        if !is_newest {
            return;
        }
        steps.push(Step::Kill(i));
        if !process.leaving {
            steps.extend([Step::LoseLease(i), Step::Replace(i), Step::Leave(i)]);
        }
        if !process.has_lease {
            steps.push(Step::Regain(i));
        }
        let others = (0..world.ranks()).filter(|j| *j != i);
        steps.extend(others.clone().map(|j| Step::GiveUp(i, j)));
        steps.extend(others.filter(|j| *j > i).map(|j| Step::Cut(i, j)));
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

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let world = &state.world;
        for (i, process) in world.processes.iter().enumerate() {
            match process {
                Some(process) => self.steps_of(world, i, process, steps),
                None => steps.push(Step::Start(i)),
            }
        }
        steps.extend([Step::Lie, Step::Wait]);
        steps.retain(|step| state.left.spend(step, world).is_some());
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let left = state.left.spend(&step, &state.world)?;
        let mut world = state.world.clone();
        if let Step::Act(i) | Step::Fail(i, _) = step
            && self.reading == Reading::Before
        {
            world.step(&Step::Read(i));
        }
        match step {
            // What nobody else sees needs no step of its own.
            Step::Act(i) => world.act_visibly(i),
            Step::Fail(i, trouble) => {
                if !world.fail(i, trouble) {
                    return None;
                }
            }
            other => world.step(&other),
        }
        let next = State { world, left };
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// Explores everything, and says how much that was. Some update must succeed.
pub(super) fn explore(start: World, reading: Reading, budget: Budget) -> usize {
    let (states, committed) = search(start, reading, budget);
    assert!(committed, "no update was committed");
    states
}

/// The same where there is no time for an update: what can happen before one.
pub(super) fn explore_what_comes_before(start: World, reading: Reading, budget: Budget) -> usize {
    let (states, committed) = search(start, reading, budget);
    assert!(!committed, "an update was committed");
    states
}

/// Explores until this property has failed; it must.
pub(super) fn finds(start: World, reading: Reading, budget: Budget, property: &'static str) {
    let model = Everything {
        start,
        budget,
        reading,
        known: Known::default(),
    };
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(2).finish_when(found);
    let checker = checker.spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property);
    let steps = path.map(|path| path.into_actions());
    eprintln!("{property}: fails within {states} states: {steps:?}");
    assert!(steps.is_some(), "{property}: holds in {states} states");
}

fn search(start: World, reading: Reading, budget: Budget) -> (usize, bool) {
    let ranks = start.ranks();
    let model = Everything {
        start,
        budget,
        reading,
        known: Known::default(),
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    for (property, path) in checker.discoveries() {
        let steps = || path.clone().into_actions();
        assert_eq!(property, properties::COMES_TRUE, "{:#?}", steps());
    }
    assert!(checker.is_done());
    let states = checker.unique_state_count();
    eprintln!("{ranks} ranks, {budget:?}, {reading:?}: {states} states");
    let committed = checker.discovery(properties::COMES_TRUE).is_some();
    (states, committed)
}
