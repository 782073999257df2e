//! Each property that is about lives is seen to fail when a rank does not tell them apart.

use super::super::world::{Flaw, Step, World};
use super::model::{Budget, Reading, finds};
use super::{formed, properties, with_a_newcomer};

/// The rank has this flaw from now on, in its present life.
fn flawed(mut world: World, rank: usize, flaw: Flaw) -> World {
    let process = world.processes[rank].as_mut().unwrap();
    process.flaw = Some(flaw);
    world
}

#[test]
fn who_goes_on_in_a_place_that_is_taken_is_found() {
    let budget = Budget {
        replacements: 1,
        ..Budget::default()
    };
    let start = flawed(with_a_newcomer().last_only(), 2, Flaw::GoesOn);
    finds(start, Reading::Before, budget, properties::COUNTS_NOBODY);
}

#[test]
fn who_takes_a_new_life_for_the_old_one_is_found() {
    let start = flawed(with_a_newcomer(), 1, Flaw::MixesLives);
    let budget = Budget::default();
    finds(start, Reading::Before, budget, properties::OWN_LIVES);
}

#[test]
fn who_keeps_the_connection_of_an_old_life_for_the_new_one_is_found() {
    let mut start = flawed(formed(3), 1, Flaw::KeepsConnections);
    start.step(&Step::Replace(2));
    let budget = Budget::default();
    finds(start, Reading::Before, budget, properties::OLD_LIVES);
}
