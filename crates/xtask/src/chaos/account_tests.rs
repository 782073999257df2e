//! The account of made-up runs.

use super::Args;
use super::account::{Account, account};
use super::actions::{Action, Harm, draw};
use super::drive::{Deed, Run};
use crate::demo::events::{Event, Step, Update};
use crate::demo::record::{Death, Life, Record};
use crate::demo::store::StoreKind;
use std::ops::Range;

const PERIOD: u64 = 10_000;

fn life(rank: u32, steps: Range<u64>, answered: impl Fn(u64) -> Vec<u32>) -> Life {
    let mut life = Life::new(rank, 0, None);
    for number in steps {
        let begin_us = number * PERIOD;
        let step = Step {
            step: number,
            epoch: 2 * number,
            begin_us,
            end_us: begin_us + 6_000,
            verified: true,
            problem: None,
            rel_err: 0.001,
            missing: 0,
            missing_expected: 0,
            answered: answered(number),
        };
        life.heard.push((begin_us + 6_100, Event::Step(step)));
    }
    life
}

fn deed(harm: Harm, life: usize, begin_us: u64, end_us: u64) -> Deed {
    Deed {
        harm,
        victim: Some(life),
        begin_us,
        end_us,
    }
}

/// Three ranks; 2 is killed in step 40, and a new process of it does steps from 70 on.
fn run() -> Run {
    let present = |step: u64| {
        if (40..70).contains(&step) {
            vec![0, 1]
        } else {
            vec![0, 1, 2]
        }
    };
    let mut lives = vec![
        life(0, 0..100, present),
        life(1, 0..100, present),
        life(2, 0..40, present),
        life(2, 70..100, present),
    ];
    let killed_us = 40 * PERIOD + 100;
    lives[2].killed = Some(Death {
        kill: 0,
        at_us: killed_us,
    });
    lives[3].spawned_us = 45 * PERIOD;
    lives[3].heard.insert(0, (60 * PERIOD, Event::Ready {}));
    for life in [0, 1, 3] {
        let leaked_objects = Some(0);
        let summary = Event::Summary { leaked_objects };
        lives[life].heard.push((101 * PERIOD, summary));
    }
    let admitted = Event::Admitted {
        attempt: 3,
        rank: 2,
        epoch: 140,
        at_us: 65 * PERIOD,
    };
    let update = Update {
        peer: 2,
        attempts: 1,
        commands: 8,
        qps_touched: 2,
        healthy_qps_touched: 0,
        addresses_changed: 0,
        connect_us: 2_000,
    };
    let begun = Event::UpdateBegun {
        attempt: 3,
        at_us: 62 * PERIOD,
    };
    for life in &mut lives[..2] {
        life.heard.push((65 * PERIOD, begun.clone()));
        life.heard.push((65 * PERIOD, admitted.clone()));
        life.heard
            .push((65 * PERIOD, Event::Update(update.clone())));
    }
    Run {
        record: Record {
            lives,
            problems: Vec::new(),
        },
        harms: vec![deed(Harm::Kill { back_ms: 50 }, 2, killed_us, killed_us)],
        hangs: Vec::new(),
        ops_per_step: 2,
    }
}

/// The account after `change` was made to one step of a life.
fn with_step(life: usize, number: u64, change: impl Fn(&mut Step)) -> Account {
    let mut run = run();
    for (_, event) in &mut run.record.lives[life].heard {
        if let Event::Step(step) = event
            && step.step == number
        {
            change(step);
        }
    }
    account(3, 1, &run)
}

fn refused(account: &Account, problem: &str) {
    assert!(!account.good, "accepted, {problem}");
    let found = account.problems.iter().any(|p| p.contains(problem));
    assert!(found, "{problem}: {:?}", account.problems);
}

#[test]
fn a_good_run_is_counted_and_measured() {
    let account = account(3, 1, &run());
    assert_eq!(account.problems, Vec::<String>::new());
    assert!(account.good);
    assert_eq!((account.steps, account.verified_steps), (270, 270));
    assert_eq!((account.kills, account.freezes), (1, 0));
    assert_eq!((account.updates_committed, account.updates_dropped), (1, 0));
    assert_eq!(account.reconnect_ms.p99, Some(2.0));
    // Steps 10 to 39 and 80 to 99 on three ranks: a while after something began or ended,
    // and before the next thing.
    assert_eq!(account.undisturbed_gaps, 3 * (29 + 19));
    assert_eq!(account.step_ms.p50, Some(10.0));
    // From the proposal until the first step in the new view: steps 61 to 70, on two ranks.
    assert_eq!(account.survivor_gaps, 2 * 9);
    assert_eq!(account.survivor_attempts, 1);
    assert_eq!(account.survivor_gap_ms.max, Some(10.0));
    assert_eq!(account.gap_ratio_p99, Some(1.0));
    // Step 40, at whose beginning the process died, on the two others.
    assert_eq!(account.detection_gaps, 2);
}

#[test]
fn a_long_step_counts_for_what_went_on_in_it() {
    let longest = |number| {
        let account = with_step(0, number, |step| step.end_us += 3_000);
        let all = [
            account.step_ms,
            account.survivor_gap_ms,
            account.detection_gap_ms,
        ];
        all.map(|quantiles| quantiles.max)
    };
    let (usual, long) = (Some(10.0), Some(13.0));
    assert_eq!(longest(20), [long, usual, usual]);
    assert_eq!(longest(70), [usual, long, usual]);
    assert_eq!(longest(40), [usual, usual, long]);
    // After the death, before the new process is proposed; and just after it came in.
    assert_eq!(longest(55), [usual; 3]);
    assert_eq!(longest(75), [usual; 3]);
}

#[test]
fn harm_during_an_admission_is_not_the_admissions() {
    let mut harmed = run();
    let (from, until) = (63 * PERIOD, 64 * PERIOD);
    let harm = Harm::Lose { percent: 9, ms: 10 };
    harmed.harms.push(deed(harm, 0, from, until));
    // Steps 61 and 62 were before it; what is after it was over before it was forgotten.
    assert_eq!(account(3, 1, &harmed).survivor_gaps, 2);
}

#[test]
fn an_attempt_that_is_dropped_takes_time_too() {
    let mut dropped = run();
    let event = Event::UpdateDropped {
        attempt: 2,
        by: 0,
        why: String::new(),
        at_us: 58 * PERIOD,
    };
    let begun = Event::UpdateBegun {
        attempt: 2,
        at_us: 56 * PERIOD,
    };
    dropped.record.lives[1].heard.push((58 * PERIOD, begun));
    dropped.record.lives[1].heard.push((58 * PERIOD, event));
    let account = account(3, 1, &dropped);
    assert_eq!(account.survivor_gaps, 2 * (9 + 3));
    assert_eq!(account.survivor_attempts, 2);
}

#[test]
fn the_json_has_the_keys_that_other_programs_read() -> Result<(), serde_json::Error> {
    let value = serde_json::to_value(account(3, 1, &run()))?;
    for key in [
        "steps",
        "verified_steps",
        "unverified_steps",
        "kills",
        "freezes",
        "updates_committed",
        "updates_dropped",
        "hangs",
        "leaked_objects",
        "stale_accepted",
        "survivor_gaps",
        "undisturbed_gaps",
        "detection_gaps",
    ] {
        assert!(value[key].is_u64(), "{key}");
    }
    for key in [
        "reconnect_ms",
        "survivor_gap_ms",
        "step_ms",
        "detection_gap_ms",
    ] {
        for share in ["p50", "p99", "max"] {
            assert!(value[key][share].is_f64(), "{key} {share}");
        }
    }
    Ok(())
}

#[test]
fn a_step_that_is_wrong_is_counted() {
    let account = with_step(1, 50, |step| step.verified = false);
    refused(&account, "step 50 of rank 1");
    assert_eq!(account.unverified_steps, 1);
    let account = with_step(1, 50, |step| step.missing = 1);
    refused(&account, "1 contributions missing, 0 by the reference");
}

#[test]
fn a_contribution_of_nobody_is_stale() {
    // It may have sent what others need for the step in which it died.
    let account = with_step(0, 40, |step| step.answered.push(2));
    assert!(account.good, "{:?}", account.problems);
    for number in [41, 69] {
        let account = with_step(0, number, |step| step.answered.push(2));
        refused(&account, "with rank 2, which was not there");
        assert_eq!(account.stale_accepted, 1);
    }
}

#[test]
fn a_step_beyond_its_bound_hangs_unless_its_process_was_stopped() {
    let long = |step: &mut Step| step.end_us += 60_000_000;
    let account = with_step(3, 99, long);
    refused(&account, "a step of rank 2 took 60006 ms");
    assert_eq!(account.hangs, 1);
    let mut frozen = run();
    if let Some((_, Event::Step(step))) = frozen.record.lives[3].heard.iter_mut().rev().nth(1) {
        long(step);
    }
    let (from, until) = (99 * PERIOD, 99 * PERIOD + 60_000_000);
    let freeze = Harm::Freeze { ms: 60_000 };
    frozen.harms.push(deed(freeze, 3, from, until));
    assert_eq!(self::account(3, 1, &frozen).hangs, 0);
}

#[test]
fn leaks_and_processes_that_fail_are_noticed() {
    let mut leaky = run();
    if let Some((_, Event::Summary { leaked_objects })) = leaky.record.lives[3].heard.last_mut() {
        *leaked_objects = Some(4);
    }
    refused(&account(3, 1, &leaky), "4 objects were left behind");
    let mut failed = run();
    failed.record.lives[3].heard.pop();
    refused(
        &account(3, 1, &failed),
        "a process of rank 2 did not end in order",
    );
    let mut ousted = run();
    ousted.record.lives[2].ousted = true;
    ousted.record.lives[2].killed = None;
    refused(
        &account(3, 1, &ousted),
        "rank 2 was not told of its replacement",
    );
}

#[test]
fn the_short_run_is_a_command_line_like_any_other() {
    let args = Args::short(StoreKind::Etcd);
    assert_eq!(
        (args.meeting.store, args.meeting.secret),
        (StoreKind::Etcd, true)
    );
    let restarts = |args: &Args| {
        let actions = draw(args, 1).into_iter();
        let restart = |action: &Action| matches!(action.harm, Harm::EtcdRestart { .. });
        actions.filter(restart).count()
    };
    assert_eq!(restarts(&args), 3);
    assert_eq!(restarts(&Args::short(StoreKind::Tcp)), 0);
}
