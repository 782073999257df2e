//! Several ranks run the protocol against one store, in every order that chance
//! comes up with, while ranks die, give each other up and lose their leases.

mod exhaustive;
mod losses;
mod world;

use super::*;
use proptest::prelude::*;
use world::{Key, Step, TIME_OUT, Trouble, World};

fn steps(ranks: usize) -> impl Strategy<Value = Vec<Step>> {
    let troubles = [Trouble::Command, Trouble::Request, Trouble::Answer];
    let trouble = prop::sample::select(troubles.to_vec());
    let one = prop_oneof![
        12 => (0..ranks).prop_map(Step::Read),
        12 => (0..ranks).prop_map(Step::Act),
        4 => (0..ranks).prop_map(Step::Run),
        1 => (0..ranks).prop_map(Step::Kill),
        1 => (0..ranks).prop_map(Step::Start),
        1 => (0..ranks, 0..ranks).prop_map(|(a, b)| Step::GiveUp(a, b)),
        1 => (0..ranks).prop_map(Step::LoseLease),
        1 => (0..ranks).prop_map(Step::Regain),
        1 => (0..ranks).prop_map(Step::Leave),
        1 => (0..ranks, trouble).prop_map(|(i, trouble)| Step::Fail(i, trouble)),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(one, 0..400)
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
    world.step(&Step::Regain(1));
    world.settle();
    for (a, b) in [(0, 1), (2, 1), (1, 0), (1, 2)] {
        let process = world.processes[a].as_ref().unwrap();
        assert!(process.counts((Rank(b), Incarnation(1))), "{a} and {b}");
    }
    world.check_agreement();
}

/// One whose agent answers and whose operations do not: each time it is joined again, the
/// others wait for it in vain.
#[test]
fn a_member_that_is_given_up_again_and_again_is_joined_less_and_less_often() {
    let mut world = World::new(3);
    world.settle();
    let mut joined = Vec::new();
    for _ in 0..4 * 60 {
        world.pass_time();
        let counted = |i: usize| {
            world.processes[i]
                .as_ref()
                .unwrap()
                .counts((Rank(2), Incarnation(1)))
        };
        if counted(0) && counted(1) {
            joined.push(world.now);
            for (a, b) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
                world.step(&Step::GiveUp(a, b));
            }
        }
    }
    let between: Vec<Duration> = joined.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(between[0] < TIME_OUT, "{between:?}");
    assert!(between[between.len() - 1] > 10 * TIME_OUT, "{between:?}");
    assert!((5..=13).contains(&joined.len()), "{between:?}");
    // It is a member as any other once it goes on.
    world.now += 2 * STEADY;
    world.settle();
    world.check_agreement();
    assert!(
        world.processes[0]
            .as_ref()
            .unwrap()
            .counts((Rank(2), Incarnation(1)))
    );
}

/// A rank that stood still while the attempt was decided, and while another one was
/// committed without it.
#[test]
fn an_attempt_whose_decision_is_gone_binds_nobody() {
    let mut world = World::new(3);
    world.settle();
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    let promised = |world: &World| world.processes[0].as_ref().unwrap().limit.is_some();
    for step in (0..100).flat_map(|_| (0..3).flat_map(|i| [Step::Read(i), Step::Act(i)])) {
        if !promised(&world) {
            world.step(&step);
        }
    }
    assert!(promised(&world));
    let (now, process) = (world.now, world.processes[0].as_mut().unwrap());
    let attempt = process.protocol.attempt.clone().unwrap();
    let next = Event::Proposal(attempt.number + 1, attempt.proposal.clone());
    process.protocol.on(next, now);
    let actions = std::iter::from_fn(|| process.protocol.next(now));
    let given_up = |action: Action| match action {
        Action::Forget { attempt, ranks, .. } => Some((attempt, ranks)),
        _ => None,
    };
    let given_up: Vec<_> = actions.take(3).filter_map(given_up).collect();
    assert_eq!(given_up, [(attempt.number, vec![Rank(2)])]);
}

/// A newcomer does not begin a group of its own beside them, and they do not use the
/// epochs that lie behind them again.
#[test]
fn members_whose_leases_have_all_ended_are_waited_for() {
    let mut world = World::new(3);
    world.settle();
    (0..40).for_each(|_| (0..3).for_each(|i| world.step(&Step::Run(i))));
    world.step(&Step::Kill(2));
    (0..2).for_each(|i| world.lose_lease(i));
    world.step(&Step::Start(2));
    (0..2).for_each(|_| world.pass_time());
    assert!(!world.board.has(Key::Proposal(2)));
    (0..2).for_each(|i| world.regain_lease(i));
    world.settle();
    for (a, b, life) in [(0, 1, 1), (1, 0, 1), (0, 2, 2), (2, 1, 2)] {
        let row = world.processes[a].as_ref().unwrap().table[&Rank(b)];
        assert!(row.0 <= Incarnation(life) && row.1 >= 40, "{a} {b} {row:?}");
    }
    world.check_agreement();
    // If they are dead, it goes on without them.
    world.step(&Step::Kill(0));
    world.step(&Step::Kill(1));
    world.step(&Step::Kill(2));
    world.step(&Step::Start(2));
    world.settle();
    assert!(world.processes[2].as_ref().unwrap().admitted.is_some());
}

/// It may be dead, with a lease that has not run out.
#[test]
fn a_rank_that_others_gave_up_and_that_says_nothing_holds_up_no_newcomer() {
    let mut world = World::new(4);
    world.settle();
    world.step(&Step::Kill(3));
    // Rank 2 hangs: it neither reads nor acts from here on.
    world.frozen[2] = true;
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
    world.frozen[2] = false;
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
    // The survivor learns of the proposal but its first command fails.
    let survivor = world.processes[0].as_ref().unwrap();
    let number = survivor.protocol.last_number + 1;
    world.turn(1);
    world.step(&Step::Read(0));
    world.step(&Step::Fail(0, Trouble::Command));
    let dropped = Decision::Dropped {
        by: Rank(0),
        why: "rank 0: refused".to_owned(),
        blame: vec![Rank(1), Rank(0)],
    };
    assert_eq!(world.board.decision(number), Some(&dropped));
    world.settle();
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
            world.turn(i);
        }
    }
    let survivor = world.processes[0].as_ref().unwrap();
    assert_eq!(
        survivor.limit, None,
        "promised although rank 1 does not answer"
    );
    // It waits for rank 1's offers or links, and serves meanwhile.
    assert!(!world.board.has(Key::Ready(2, Rank(0))));
    assert!(world.board.has(Key::Offers(2, Rank(0))));
}

#[test]
fn a_rank_that_says_nothing_lets_the_attempt_time_out() {
    let mut world = World::new(2);
    world.settle();
    world.step(&Step::Kill(1));
    world.settle();
    world.step(&Step::Start(1));
    // The survivor is frozen: only the newcomer runs.
    for _ in 0..8 {
        world.now += TIME_OUT / 4;
        world.turn(1);
    }
    let Some(Decision::Dropped { by, why, blame }) = world.board.decision(2) else {
        panic!("not dropped");
    };
    assert_eq!((*by, &blame[..]), (Rank(1), &[Rank(0)][..]));
    assert!(why.contains("rank 0"), "{why}");
}

/// A group that goes on with rank 2 dead, and its next life before it has done anything.
fn with_a_newcomer(ranks: usize) -> World {
    let mut world = World::new(ranks);
    world.settle();
    world.step(&Step::Kill(2));
    world.settle();
    world.step(&Step::Start(2));
    world
}

/// Two members, and two that are started together: the second has no card yet.
fn with_two_coming() -> World {
    let mut world = World::new(4);
    world.settle();
    (2..4).for_each(|i| world.step(&Step::Kill(i)));
    world.settle();
    for life in [(Rank(2), Incarnation(2)), (Rank(3), Incarnation(2))] {
        world.board.publish(Event::Coming(life, true));
    }
    world.step(&Step::Start(2));
    (0..3).for_each(|i| {
        world.turn(i);
    });
    assert!(!world.board.has(Key::Proposal(2)));
    world
}

#[test]
fn newcomers_that_are_started_together_come_in_together() {
    let mut world = with_two_coming();
    world.now += GATHER / 2;
    world.step(&Step::Start(3));
    while world.board.decision(2).is_none() {
        (0..4).for_each(|i| {
            world.turn(i);
        });
    }
    let (_, from, proposal) = world.board.commits().last().unwrap();
    assert_eq!(proposal.joining.len(), 2, "{proposal:?} at {from}");
}

#[test]
fn a_newcomer_does_not_wait_long_for_one_that_does_not_come() {
    let mut world = with_two_coming();
    let now = world.now;
    let process = world.processes[2].as_ref().unwrap();
    assert_eq!(process.protocol.holds_back(now), GATHER);
    world.now += GATHER;
    world.turn(2);
    assert!(world.board.has(Key::Proposal(2)));
    // One that is gone is not waited for at all.
    let mut world = with_two_coming();
    let life = (Rank(3), Incarnation(2));
    world.board.publish(Event::Coming(life, false));
    world.step(&Step::Read(2));
    world.turn(2);
    assert!(world.board.has(Key::Proposal(2)));
}

#[test]
fn what_a_survivor_is_told_does_not_grow_with_the_group() {
    let [few, many] = [3, 24].map(|ranks| {
        let mut world = with_a_newcomer(ranks);
        let mut heard = [0; 3];
        while !world.board.has(Key::Decision(2)) {
            for rank in 0..ranks {
                if let Some(heard) = heard.get_mut(rank) {
                    *heard += world.processes[rank].as_ref().unwrap().inbox.len();
                }
                world.turn(rank);
            }
        }
        heard
    });
    // The card, the proposal, the newcomer's offers, go; the decision is yet to be read.
    assert_eq!((few[0], few[1]), (4, 4));
    assert_eq!((many[0], many[1]), (4, 4));
    assert!(many[2] > few[2] + 3 * 20, "{few:?} {many:?}");
}

/// Members that have promised are let go, and the next life comes in.
#[test]
fn a_collector_that_dies_after_go_leaves_nobody_waiting() {
    let mut world = with_a_newcomer(3);
    while !world.board.has(Key::Go(2)) {
        (0..3).for_each(|i| {
            world.turn(i);
        });
    }
    (0..2).for_each(|i| {
        world.turn(i);
    });
    assert!(world.processes[0].as_ref().unwrap().limit.is_some());
    world.step(&Step::Kill(2));
    (0..2).for_each(|i| {
        world.turn(i);
    });
    (0..2).for_each(|i| {
        world.turn(i);
    });
    assert!(matches!(
        world.board.decision(2),
        Some(Decision::Dropped { .. })
    ));
    assert_eq!(world.processes[0].as_ref().unwrap().limit, None);
    world.step(&Step::Start(2));
    world.settle();
    assert!(world.processes[2].as_ref().unwrap().admitted.is_some());
    world.check_agreement();
}

/// It is blamed for that by those who do not know what the others have answered.
#[test]
fn a_collector_that_hangs_is_given_up_by_the_others() {
    let mut world = with_a_newcomer(4);
    world.turn(2);
    world.frozen[2] = true;
    (0..6).for_each(|_| world.pass_time());
    let Some(Decision::Dropped { blame, .. }) = world.board.decision(2) else {
        panic!("not dropped");
    };
    assert_eq!(blame[..], [Rank(2)]);
    for i in [0, 1, 3] {
        let process = world.processes[i].as_ref().unwrap();
        assert_eq!((process.limit, process.table.len()), (None, 2));
    }
    world.frozen[2] = false;
    world.settle();
    assert!(world.processes[2].as_ref().unwrap().admitted.is_some());
    world.check_agreement();
}

/// A member that is not linked does not promise, whatever it is told.
#[test]
fn a_collector_that_lies_admits_nobody_who_is_not_linked() {
    let mut world = with_a_newcomer(3);
    world.turn(2);
    world.step(&Step::Lie);
    // Rank 0 waits for offers that have not come.
    world.turn(0);
    let process = world.processes[0].as_ref().unwrap();
    assert!(process.protocol.attempt.as_ref().unwrap().go);
    assert_eq!(process.limit, None);
    world.settle();
    assert!(world.processes[2].as_ref().unwrap().admitted.is_some());
    world.check_agreement();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_everybody_alive_is_a_member_in_the_end(
        steps in steps(3),
        last_only in any::<bool>(),
    ) {
        let mut world = World::new(3);
        if last_only {
            world = world.last_only();
        }
        for step in &steps {
            world.step(step);
            world.check_agreement();
        }
        world.mend();
        for i in 0..3 {
            if world.processes[i].as_ref().is_some_and(|process| process.leaving) {
                world.step(&Step::Kill(i));
            }
            world.start(i);
        }
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
