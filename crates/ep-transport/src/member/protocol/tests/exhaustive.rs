//! Everything that can happen to two or three ranks, within a few deaths and losses.
//!
//! A step is: a rank reads what the store has for it, or goes on up to the next thing
//! that others can see, with or without something going wrong in that, or runs an
//! operation, or dies, is started, leaves, gives another one up, loses its lease, or is
//! replaced; or the network between two of them fails; or whoever collects lies, or time
//! passes. Each may come between any two others. What messages may be lost is said in
//! [`super::world`].

mod flaws;
mod model;
mod properties;

use super::world::{Step, World};
use model::{Budget, Reading, explore, explore_what_comes_before};

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
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 4_000);
}

/// The newcomer, who collects, dies at any point, or one that answers does.
#[test]
fn a_newcomer_and_a_death() {
    let budget = Budget {
        kills: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 50_000);
}

#[test]
fn a_newcomer_that_lies() {
    let budget = Budget {
        lies: 1,
        operations: 1,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::AnyTime, budget) > 20_000);
}

/// One that says nothing until the others have stopped waiting for it, or for ever.
#[test]
fn a_newcomer_that_is_late() {
    let budget = Budget {
        waits: 3,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::Before, budget) > 20_000);
}

#[test]
fn a_false_alarm() {
    let budget = Budget {
        give_ups: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(formed(3), Reading::Before, budget) > 20_000);
}

/// Members that are joined again have a member that collects.
#[test]
fn a_false_alarm_and_a_death() {
    let budget = Budget {
        kills: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(apart(), Reading::Before, budget) > 15_000);
}

/// A record that was overwritten or taken away is never seen by who looks late.
#[test]
fn a_newcomer_and_a_death_among_ranks_that_miss_what_does_not_last() {
    let budget = Budget {
        kills: 1,
        waits: 1,
        ..Budget::default()
    };
    let start = with_a_newcomer().last_only();
    assert!(explore(start, Reading::AnyTime, budget) > 50_000);
}

/// What is published comes late, or never if its rank dies.
#[test]
fn a_newcomer_and_a_request_that_is_lost() {
    let budget = Budget {
        losses: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::Before, budget) > 20_000);
}

#[test]
fn a_newcomer_and_a_request_that_is_lost_and_a_death() {
    let budget = Budget {
        losses: 1,
        kills: 1,
        ..Budget::default()
    };
    let start = with_a_newcomer().last_only();
    assert!(explore(start, Reading::Before, budget) > 5_000);
}

/// All that two write to each other is lost: both give up, or only one of them does yet.
#[test]
fn a_network_that_fails_between_two() {
    let budget = Budget {
        cuts: 1,
        operations: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(formed(3), Reading::Before, budget) > 20_000);
}

#[test]
fn a_newcomer_and_commands_that_fail() {
    let budget = Budget {
        failures: 2,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::Before, budget) > 30_000);
}

#[test]
fn a_false_alarm_and_a_command_that_fails() {
    let budget = Budget {
        failures: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(apart(), Reading::Before, budget) > 10_000);
}

/// The newcomer does, or a member, inside the attempt or beside it.
#[test]
fn a_newcomer_and_one_that_leaves() {
    let budget = Budget {
        leaves: 1,
        starts: 1,
        ..Budget::default()
    };
    assert!(explore(with_a_newcomer(), Reading::Before, budget) > 7_000);
}

/// And its rank comes back.
#[test]
fn a_member_that_leaves() {
    let budget = Budget {
        leaves: 1,
        starts: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(formed(3).last_only(), Reading::Before, budget) > 5_000);
}

#[test]
fn a_lost_lease() {
    let budget = Budget {
        leases: 1,
        waits: 1,
        ..Budget::default()
    };
    assert!(explore(formed(3), Reading::Before, budget) > 30_000);
}

/// The others may have seen that it ended, or only that there is another one.
#[test]
fn a_newcomer_and_a_lost_lease_that_some_do_not_hear_of() {
    let budget = Budget {
        leases: 1,
        ..Budget::default()
    };
    let start = with_a_newcomer().last_only();
    assert!(explore(start, Reading::Before, budget) > 20_000);
}

#[test]
fn a_false_alarm_and_a_lost_lease_that_some_do_not_hear_of() {
    let budget = Budget {
        leases: 1,
        ..Budget::default()
    };
    assert!(explore_what_comes_before(apart().last_only(), Reading::Before, budget) > 5_000);
}

/// A process that was frozen, and goes on when another one has its place.
#[test]
fn a_newcomer_and_a_replacement() {
    let budget = Budget {
        replacements: 1,
        ..Budget::default()
    };
    let start = with_a_newcomer().last_only();
    assert!(explore(start, Reading::Before, budget) > 20_000);
}
