//! The account of made-up runs.

use super::account::{Account, account};
use super::drive::{Run, Span};
use super::{Due, Script, file};
use crate::demo::events::{Event, Step, Update};
use crate::demo::plan::{DataPath, Dispatch, Plan, Routing};
use crate::demo::record::{Death, Life, Record};
use crate::demo::store::StoreKind;

const PERIOD: u64 = 1_000;
const DIED_US: u64 = 16 * PERIOD + 300;

/// Ranks 0 and 1, then 5 too, which 1 does not survive, then 5 alone. Each phase has
/// four steps, with some between two phases.
fn script() -> Script {
    Script {
        layer: Plan {
            ranks: 6,
            experts: 6,
            hidden: 8,
            dispatch: Dispatch::Bf16,
            tokens: 4,
            top_k: 2,
            steps: 4,
            routing: Routing::Uniform,
            path: DataPath::Rdma,
            lanes: 2,
            time_out_ms: 100,
            lease_ms: 5_000,
            store: StoreKind::Tcp,
            secret: false,
            seed: 1,
            rejoin: true,
            kills: Vec::new(),
        },
        phases: file::parse("[[0,1],[0,-1,5],[5]]").expect("a good plan"),
        deaths: vec![Due {
            phase: 1,
            rank: 1,
            after: 2,
            delay_us: 0,
        }],
    }
}

/// Who takes part in a step.
fn present(step: u64) -> Vec<u32> {
    match step {
        0..10 => vec![0, 1],
        10..16 => vec![0, 1, 5],
        16..20 => vec![0, 5],
        _ => vec![5],
    }
}

fn life(rank: u32, steps: std::ops::Range<u64>) -> Life {
    let mut life = Life::new(rank, 0, None);
    for number in steps {
        let begin_us = number * PERIOD;
        let answered = present(number);
        let missing = u64::from(answered.len() < 6);
        let step = Step {
            step: number,
            epoch: 2 * number,
            begin_us,
            end_us: begin_us + 600,
            verified: true,
            problem: None,
            rel_err: 0.001,
            missing,
            missing_expected: missing,
            answered,
        };
        life.heard.push((begin_us + 610, Event::Step(step)));
    }
    life
}

fn run() -> Run {
    let mut lives = vec![life(0, 0..20), life(1, 0..16), life(5, 10..28)];
    lives[1].killed = Some(Death {
        kill: 0,
        at_us: DIED_US,
    });
    for survivor in [0, 2] {
        let leaked_objects = Some(0);
        let summary = Event::Summary { leaked_objects };
        lives[survivor].heard.push((40 * PERIOD, summary));
    }
    let update = Update {
        peer: 5,
        attempts: 1,
        commands: 8,
        qps_touched: 2,
        healthy_qps_touched: 0,
        addresses_changed: 0,
        connect_us: 300,
    };
    lives[0].heard.push((9 * PERIOD, Event::Update(update)));
    let span = |begin| Span {
        begin,
        change_us: 500,
    };
    Run {
        record: Record {
            lives,
            problems: Vec::new(),
        },
        spans: vec![span(2), span(13), span(22)],
    }
}

/// The account after `change` was made to the events of life number `life`.
fn changed(life: usize, mut change: impl FnMut(&mut Vec<(u64, Event)>)) -> Account {
    let mut run = run();
    change(&mut run.record.lives[life].heard);
    account(&script(), &run)
}

/// The account after `change` was made to one step.
fn with_step(life: usize, number: u64, mut change: impl FnMut(&mut Step)) -> Account {
    changed(life, |heard| {
        for (_, event) in heard {
            if let Event::Step(step) = event
                && step.step == number
            {
                change(step);
            }
        }
    })
}

fn refused(account: &Account, problem: &str) {
    assert!(!account.verified, "accepted, {problem}");
    assert!(
        account.problems.iter().any(|p| p.contains(problem)),
        "{problem}: {:?}",
        account.problems
    );
}

#[test]
fn a_good_run_is_verified_and_counted() {
    let account = account(&script(), &run());
    assert_eq!(account.problems, Vec::<String>::new());
    assert!(account.verified);
    assert_eq!((account.verified_steps, account.unverified_steps), (54, 0));
    assert_eq!(account.devx_commands_update, 8);
    let counts: Vec<(u64, u64)> = account
        .phases
        .iter()
        .map(|phase| (phase.verified_steps, phase.masked_steps))
        .collect();
    // Of the second phase, rank 1 does three steps and the others one without it.
    assert_eq!(counts, [(8, 0), (11, 2), (4, 0)]);
    assert_eq!(Vec::from_iter(&account.phases[1].joined), [&5]);
    assert_eq!(Vec::from_iter(&account.phases[2].left), [&0]);
}

#[test]
fn a_step_that_differs_is_noticed_also_between_two_phases() {
    for number in [3, 8, 24] {
        let life = if number == 24 { 2 } else { 0 };
        let account = with_step(life, number, |step| step.verified = false);
        refused(&account, &format!("step {number} of rank"));
        assert_eq!(account.unverified_steps, 1);
        let account = with_step(life, number, |step| step.missing += 1);
        refused(&account, "missing contributions, the reference");
    }
}

#[test]
fn an_absent_step_is_noticed() {
    let without = |heard: &mut Vec<(u64, Event)>| {
        heard.retain(|(_, event)| !matches!(event, Event::Step(step) if step.step == 14));
    };
    let account = changed(2, without);
    refused(&account, "rank 5 never reported step 14");
    refused(&account, "rank 5 did step 15 after step 13");
    assert_eq!(account.unverified_steps, 1);
}

#[test]
fn exactly_the_ranks_of_a_phase_take_part_in_it() {
    let account = with_step(0, 14, |step| step.answered = vec![0, 1]);
    refused(&account, "rank 0 did step 14 without, though alive, rank 5");
    let account = with_step(0, 3, |step| step.answered.push(5));
    refused(&account, "with, though not of the phase, rank 5");
    refused(&account, "with rank 5, which was not there");
}

#[test]
fn nobody_answers_after_death_or_departure() {
    // It may have sent what others need for the step after its last one.
    let account = with_step(0, 16, |step| step.answered.push(1));
    assert!(account.verified, "{:?}", account.problems);
    let account = with_step(0, 17, |step| step.answered.push(1));
    refused(
        &account,
        "rank 0 did step 17 with rank 1, which was not there",
    );
    let account = with_step(2, 26, |step| step.answered.push(0));
    refused(
        &account,
        "rank 5 did step 26 with rank 0, which was not there",
    );
}

#[test]
fn what_was_planned_has_to_happen() {
    let mut unhurt = run();
    unhurt.record.lives[1].killed = None;
    let summary = Event::Summary {
        leaked_objects: Some(0),
    };
    unhurt.record.lives[1].heard.push((1, summary));
    refused(
        &account(&script(), &unhurt),
        "rank 1 was to be killed in phase 2 and was not",
    );
    let mut short = run();
    short.spans.pop();
    let account = account(&script(), &short);
    refused(&account, "phase 3 did not come about");
    assert_eq!(account.unverified_steps, 4);
}

#[test]
fn what_is_left_behind_or_touched_too_much_is_noticed() {
    let account = changed(2, |heard| {
        for (_, event) in heard {
            if let Event::Summary { leaked_objects } = event {
                *leaked_objects = Some(3);
            }
        }
    });
    refused(&account, "rank 5 left 3 objects behind");
    let account = changed(0, |heard| {
        heard.retain(|(_, event)| !matches!(event, Event::Summary { .. }));
    });
    refused(&account, "rank 0 did not end in order");
    for (attempts, good) in [(1, false), (2, true)] {
        let account = changed(0, |heard| {
            for (_, event) in heard {
                if let Event::Update(update) = event {
                    (update.commands, update.attempts) = (16, attempts);
                }
            }
        });
        assert_eq!(account.verified, good, "{:?}", account.problems);
    }
}
