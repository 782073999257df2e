//! What has to be true in every state.

use super::super::world::{Process, World, fingerprint};
use super::model::{Everything, State};
use crate::ids::Rank;
use stateright::Property;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

pub(super) const COMES_TRUE: &str = "an update is committed";
pub(super) const OWN_LIVES: &str = "two that count each other hold each other's own life";
pub(super) const OLD_LIVES: &str =
    "nothing of a life that is over comes in once the new one counts";
pub(super) const COUNTS_NOBODY: &str = "who was told that its place is taken counts nobody";

pub(super) fn all() -> Vec<Property<Everything>> {
    vec![
        Property::always(
            "two that count each other do so from one epoch",
            |_: &Everything, state: &State| agree(&state.world),
        ),
        Property::always(OWN_LIVES, |_: &Everything, state: &State| {
            hold_own_lives(&state.world)
        }),
        Property::always(
            "who is counted is connected, in the life that is counted",
            |_: &Everything, state: &State| counted_are_connected(&state.world),
        ),
        Property::always(OLD_LIVES, |_: &Everything, state: &State| {
            old_lives_are_refused(&state.world)
        }),
        Property::always(COUNTS_NOBODY, |_: &Everything, state: &State| {
            superseded_count_nobody(&state.world)
        }),
        Property::always(
            "nobody is past an epoch that it has yet to admit somebody at",
            |_: &Everything, state: &State| nobody_is_late(&state.world),
        ),
        Property::always(
            "whoever stays alive comes together again",
            |model: &Everything, state: &State| model.known.has_a_way_out(&state.world),
        ),
        Property::sometimes(COMES_TRUE, |_: &Everything, state: &State| {
            let mut living = state.world.living();
            living.any(|process| process.protocol.last_commit > 1)
        }),
    ]
}

fn pairs(world: &World) -> impl Iterator<Item = (&Process, &Process)> {
    world
        .living()
        .flat_map(move |a| world.living().map(move |b| (a, b)))
        .filter(|(a, b)| a.life != b.life)
}

fn agree(world: &World) -> bool {
    pairs(world).all(|(a, b)| {
        let (Some(there), Some(back)) = (a.table.get(&b.life.0), b.table.get(&a.life.0)) else {
            return true;
        };
        there.1 == back.1
    })
}

/// The incarnation that each holds is the other's own.
fn hold_own_lives(world: &World) -> bool {
    pairs(world).all(|(a, b)| {
        let each = a.table.contains_key(&b.life.0) && b.table.contains_key(&a.life.0);
        !each || a.counts(b.life) && b.counts(a.life)
    })
}

/// Queue pairs are those of the life that is counted; where both count each other, each
/// writes to the other's memory.
fn counted_are_connected(world: &World) -> bool {
    let rows_are = |process: &Process| {
        let connected = |rank: &Rank| process.links.get(rank).and_then(|link| link.to);
        let mut rows = process.table.iter();
        rows.all(|(rank, (life, _))| connected(rank).is_some_and(|to| to.life == (*rank, *life)))
    };
    world.living().all(rows_are)
        && pairs(world).all(|(a, b)| !(a.counts(b.life) && b.counts(a.life)) || a.reaches(b))
}

/// A process whose place was taken, and that does not know it yet, may still write.
fn old_lives_are_refused(world: &World) -> bool {
    world.replaced().all(|old| {
        world.living().all(|process| {
            let row = process.table.get(&old.life.0);
            row.is_none_or(|(life, _)| *life == old.life.1) || !old.reaches(process)
        })
    })
}

fn superseded_count_nobody(world: &World) -> bool {
    let mut told = world.replaced().filter(|process| process.superseded);
    told.all(|process| process.table.is_empty())
}

/// A view that was decided, and is active on one rank, is possible on all others.
fn nobody_is_late(world: &World) -> bool {
    world.board.commits().all(|(number, from, proposal)| {
        world.living().all(|process| {
            let member = proposal.members.contains(&process.life);
            let knows = process.protocol.last_commit >= number;
            !member || knows || process.epoch <= from.0
        })
    })
}

/// Those who stay count each other and nobody who leaves, no promise holds anybody up,
/// and who was replaced knows it.
fn together(world: &World) -> bool {
    let stay = |process: &&Process| !process.leaving;
    world.living().filter(stay).all(|a| {
        let mut others = world.living().filter(|b| b.life != a.life);
        a.limit.is_none() && others.all(|b| a.counts(b.life) != b.leaving)
    }) && world.replaced().all(|process| process.superseded)
}

/// Worlds from which everybody comes together if nothing else happens.
#[derive(Default)]
pub(super) struct Known(Mutex<HashSet<u64>>);

impl Known {
    /// Networks are mended and leases taken anew; those who leave need not end.
    pub(super) fn has_a_way_out(&self, world: &World) -> bool {
        let mut world = world.clone();
        world.mend();
        let mut on_the_way = Vec::new();
        // As long as ten attempts take.
        for _ in 0..40 {
            world.pass_time();
            let here = fingerprint(&world);
            let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known().contains(&here) || together(&world) && agree(&world) {
                on_the_way.push(here);
                known().extend(on_the_way);
                return true;
            }
            on_the_way.push(here);
        }
        false
    }
}

mod tests {
    use super::*;
    use crate::ids::{Incarnation, Rank};
    use crate::member::protocol::tests::world::Step;

    fn formed() -> World {
        let mut world = World::new(3);
        world.settle();
        assert!(hold_own_lives(&world) && counted_are_connected(&world));
        world
    }

    #[test]
    fn a_row_of_another_life_is_seen() {
        let mut world = formed();
        let process = world.processes[0].as_mut().unwrap();
        process.table.insert(Rank(1), (Incarnation(2), 0));
        assert!(!hold_own_lives(&world) && !counted_are_connected(&world));
    }

    #[test]
    fn a_row_without_a_connection_is_seen() {
        let mut world = formed();
        let process = world.processes[1].as_mut().unwrap();
        process.links.remove(&Rank(2));
        assert!(hold_own_lives(&world) && !counted_are_connected(&world));
    }

    #[test]
    fn a_new_life_on_the_connection_of_the_old_one_is_seen() {
        let mut world = formed();
        world.step(&Step::Replace(2));
        assert!(old_lives_are_refused(&world));
        let process = world.processes[1].as_mut().unwrap();
        process.table.insert(Rank(2), (Incarnation(2), 0));
        assert!(!old_lives_are_refused(&world));
    }

    #[test]
    fn who_counts_again_after_it_was_told_is_seen() {
        let mut world = formed();
        world.step(&Step::Replace(2));
        world.turn(3);
        assert!(superseded_count_nobody(&world));
        let old = world.processes[3].as_mut().unwrap();
        assert!(old.superseded);
        old.table.insert(Rank(1), (Incarnation(1), 0));
        assert!(!superseded_count_nobody(&world));
    }
}
