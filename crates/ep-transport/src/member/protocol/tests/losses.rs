//! What is lost, and what it costs.

use super::world::{Step, Trouble, World};
use super::*;

fn formed() -> World {
    let mut world = World::new(3);
    world.settle();
    world
}

fn counts(world: &World, a: usize, b: usize) -> bool {
    let life = world.processes[b].as_ref().unwrap().life;
    world.processes[a].as_ref().unwrap().counts(life)
}

/// What it said before has gone with the lease, and nobody may have read it.
#[test]
fn who_does_not_see_its_lease_end_still_says_again_whom_it_does_not_count() {
    let mut world = formed().last_only();
    world.step(&Step::GiveUp(1, 2));
    world.step(&Step::GiveUp(2, 1));
    // Rank 0 reads nothing of it.
    world.frozen[0] = true;
    world.turn(1);
    assert!(world.board.has(Key::Masked(Rank(1))));
    world.step(&Step::LoseLease(1));
    assert!(!world.board.has(Key::Masked(Rank(1))));
    world.step(&Step::Regain(1));
    world.turn(1);
    assert!(world.board.has(Key::Masked(Rank(1))));
    world.frozen[0] = false;
    world.settle();
    assert!(counts(&world, 1, 2) && counts(&world, 2, 1));
}

/// It reads all at once: that the attempt was committed, that its lease has ended, that
/// another has its place, and what is proposed next.
#[test]
fn who_was_replaced_admits_nobody_whatever_was_decided() {
    let mut world = formed();
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    for _ in 0..20 {
        if world.board.decision(2).is_none() {
            (0..3).for_each(|i| {
                world.turn(i);
            });
        }
    }
    assert!(matches!(
        world.board.decision(2),
        Some(Decision::Commit { .. })
    ));
    assert!(!counts(&world, 1, 2), "it has read the decision");
    world.step(&Step::Replace(1));
    world.frozen[3] = true;
    world.settle();
    assert!(world.board.has(Key::Proposal(3)));
    world.frozen[3] = false;
    world.turn(3);
    let old = world.replaced().next().unwrap();
    assert!(old.superseded && old.table.is_empty(), "{:?}", old.table);
    assert_eq!(old.limit, None);
}

/// As long as the network between them fails they are admitted and give each other up
/// again; the third counts both, from the first epoch on.
#[test]
fn a_network_that_fails_between_two_is_of_no_consequence_to_a_third() {
    let mut world = formed();
    let before = world.table_of(0);
    world.step(&Step::Cut(1, 2));
    let mut apart = 0;
    for _ in 0..20 {
        for i in 0..3 {
            world.step(&Step::Run(i));
        }
        apart += usize::from(!counts(&world, 1, 2));
        world.pass_time();
        assert_eq!(world.table_of(0), before);
    }
    assert!(apart > 2, "{apart}");
    assert!(world.board.commits().count() > 2);
    world.mend();
    world.settle();
    (0..3).for_each(|i| world.step(&Step::Run(i)));
    assert!(counts(&world, 1, 2) && counts(&world, 2, 1));
}

/// The answer is refused for want of a lease, and nobody has seen that it ended: the time-out
/// ends the attempt.
#[test]
fn an_answer_that_is_lost_for_good_costs_one_attempt() {
    let mut world = formed();
    world.step(&Step::Kill(2));
    world.settle();
    let mut world = world.last_only();
    world.step(&Step::Start(2));
    (0..2).for_each(|_| {
        world.turn(2);
    });
    world.step(&Step::Read(0));
    assert!(world.fail(0, Trouble::Request));
    world.step(&Step::LoseLease(0));
    world.step(&Step::Regain(0));
    world.turn(1);
    for _ in 0..8 {
        if world.board.decision(2).is_none() {
            world.pass_time();
        }
    }
    let Some(Decision::Dropped { blame, .. }) = world.board.decision(2) else {
        panic!("not dropped");
    };
    assert_eq!(blame[..], [Rank(0)]);
    world.settle();
    assert!(counts(&world, 0, 2) && counts(&world, 2, 0));
}

/// Inside an attempt: it is dropped at once, and the others make another one.
#[test]
fn who_leaves_holds_nobody_up() {
    let mut world = formed();
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    world.turn(2);
    (0..2).for_each(|i| {
        world.turn(i);
    });
    assert!(world.board.has(Key::Offers(2, Rank(1))));
    let then = world.now;
    world.step(&Step::Leave(1));
    world.turn(0);
    assert!(matches!(
        world.board.decision(2),
        Some(Decision::Dropped { .. })
    ));
    assert_eq!(world.now, then);
    // It has not ended yet.
    world.settle();
    assert!(counts(&world, 0, 2) && counts(&world, 2, 0));
    assert!(!counts(&world, 0, 1) && !counts(&world, 2, 1));
    world.step(&Step::Kill(1));
    world.settle();
    assert!(counts(&world, 0, 2));
}
