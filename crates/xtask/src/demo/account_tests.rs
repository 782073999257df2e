//! The account of made-up runs.

use super::account::{Account, account};
use super::events::{Event, Step, Update};
use super::plan::{DataPath, Dispatch, Kill, Plan, Routing};
use super::record::{Death, Life, Record};
use super::store::StoreKind;

const PERIOD: u64 = 1_000;
const STEPS: u64 = 20;
const KILLED_AT: u64 = 6;
const BACK_AT: u64 = 12;
const VICTIM: u32 = 2;

fn plan() -> Plan {
    Plan {
        ranks: 3,
        experts: 6,
        hidden: 8,
        dispatch: Dispatch::Bf16,
        tokens: 4,
        top_k: 2,
        steps: STEPS,
        routing: Routing::Uniform,
        path: DataPath::Rdma,
        lanes: 2,
        time_out_ms: 100,
        lease_ms: 5_000,
        store: StoreKind::Tcp,
        secret: false,
        seed: 1,
        rejoin: true,
        kills: vec![Kill {
            rank: VICTIM,
            step: KILLED_AT,
            delay_us: 0,
        }],
    }
}

/// A step takes the first 600 us of its period.
fn step(number: u64, answered: &[u32]) -> (u64, Event) {
    let begin_us = number * PERIOD;
    let missing = 3 - answered.len() as u64;
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
        answered: answered.to_vec(),
    };
    (begin_us + 610, Event::Step(step))
}

fn survivor(rank: u32) -> Life {
    let mut life = Life::new(rank, 0, None);
    for number in 0..STEPS {
        match number {
            KILLED_AT => life.heard.push((
                6_250,
                Event::PeerLost {
                    rank: VICTIM,
                    how: "process ended".to_owned(),
                    at_us: 6_200 + u64::from(rank) * 10,
                },
            )),
            BACK_AT => {
                let update = Update {
                    peer: VICTIM,
                    attempts: 1,
                    commands: 8,
                    qps_touched: 2,
                    healthy_qps_touched: 0,
                    addresses_changed: 0,
                    connect_us: 300 + u64::from(rank),
                };
                life.heard.push((11_000, Event::Update(update)));
                let admitted = Event::Admitted {
                    attempt: 1,
                    rank: VICTIM,
                    epoch: 2 * BACK_AT,
                    at_us: 11_100,
                };
                life.heard.push((11_150, admitted));
            }
            _ => {}
        }
        let alone = (KILLED_AT..BACK_AT).contains(&number);
        let answered: &[u32] = if alone { &[0, 1] } else { &[0, 1, 2] };
        life.heard.push(step(number, answered));
    }
    life
}

/// Rank 2 dies in step 6 and is back in step 12.
fn record() -> Record {
    let mut victim = Life::new(VICTIM, 0, None);
    victim.heard = (0..KILLED_AT).map(|n| step(n, &[0, 1, 2])).collect();
    victim.killed = Some(Death {
        kill: 0,
        at_us: 6_100,
    });
    let mut new = Life::new(VICTIM, 7_000, Some(0));
    new.heard.push((10_000, Event::Ready {}));
    new.heard
        .extend((BACK_AT..STEPS).map(|n| step(n, &[0, 1, 2])));
    Record {
        lives: vec![survivor(0), survivor(1), victim, new],
        problems: Vec::new(),
    }
}

/// The account after `change` was made to the events of life number `life`.
fn changed(life: usize, mut change: impl FnMut(&mut Vec<(u64, Event)>)) -> Account {
    let mut record = record();
    change(&mut record.lives[life].heard);
    account(&plan(), &record)
}

fn each_step(heard: &mut [(u64, Event)], mut change: impl FnMut(&mut Step)) {
    for (_, event) in heard {
        if let Event::Step(step) = event {
            change(step);
        }
    }
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
fn a_good_run_is_verified_and_measured() {
    let account = account(&plan(), &record());
    assert_eq!(account.problems, Vec::<String>::new());
    assert!(account.verified);
    assert_eq!(account.verified_steps, 20 + 20 + 6 + 8);
    assert_eq!(account.unverified_steps, 0);
    assert_eq!(account.masked_steps, 12);
    assert_eq!(account.killed_rank, Some(VICTIM));
    assert_eq!(account.missing_contributions_reported, 12);
    assert_eq!(account.missing_contributions_expected, 12);
    assert_eq!(account.detect_ms, Some(0.11));
    assert_eq!(account.rejoin_connect_ms, Some(0.301));
    assert_eq!(account.median_step_ms, Some(0.6));
    assert_eq!(account.longest_survivor_gap_ms, Some(1.0));
    assert_eq!(account.median_survivor_gap_ms, Some(1.0));
    assert_eq!(account.devx_commands_update, [8, 8]);
    let death = &account.deaths[0];
    assert_eq!((death.masked_steps, death.last_step), (6, Some(5)));
    assert_eq!(death.detect_first_ms, Some(0.1));
    let rejoin = death.rejoin.as_ref().expect("the rank came back");
    assert_eq!(rejoin.first_complete_step, Some(BACK_AT));
    assert_eq!(rejoin.spawned_after_ms, 0.9);
    assert_eq!(rejoin.start_ms, Some(3.0));
    assert_eq!(rejoin.complete_after_ms, Some(12.6 - 6.1));
}

#[test]
fn a_step_that_differs_is_noticed() {
    let account = changed(1, |heard| {
        each_step(heard, |s| {
            if s.step == 9 {
                s.verified = false;
                s.problem = Some("row 3 of expert 1".to_owned());
            }
        });
    });
    refused(
        &account,
        "step 9 of rank 1 differs from the reference: row 3 of expert 1",
    );
    assert_eq!(account.unverified_steps, 1);
    assert_eq!(account.verified_steps, 53);
}

#[test]
fn an_absent_step_is_noticed_wherever_it_is() {
    for (life, step, rank) in [(0, 0, 0), (1, 7, 1), (1, 19, 1), (2, 3, 2), (3, 12, 2)] {
        let account = changed(life, |heard| {
            heard.retain(|(_, event)| !matches!(event, Event::Step(s) if s.step == step));
        });
        let expected = format!("rank {rank} never reported steps {step} to {step}");
        refused(&account, &expected);
        assert_eq!(account.unverified_steps, 1, "step {step} of life {life}");
    }
}

#[test]
fn a_rank_that_says_nothing_is_noticed() {
    let mut record = record();
    record.lives.remove(1);
    refused(
        &account(&plan(), &record),
        "rank 1 never reported steps 0 to 19",
    );
}

#[test]
fn a_step_told_twice_does_not_count_twice() {
    let account = changed(0, |heard| {
        let last = heard.last().cloned();
        heard.extend(last);
    });
    refused(&account, "rank 0 reported step 19, expected was 20");
    assert_eq!(account.verified_steps, 54);
}

#[test]
fn missing_contributions_must_be_those_of_the_reference() {
    let account = changed(0, |heard| {
        each_step(heard, |s| s.missing += u64::from(s.step == 8));
    });
    refused(
        &account,
        "step 8 of rank 0 reported 2 missing contributions, the reference 1",
    );
}

#[test]
fn nothing_may_be_missing_while_everybody_answers() {
    let account = changed(0, |heard| {
        each_step(heard, |s| {
            let more = u64::from(s.step == 2);
            s.missing += more;
            s.missing_expected += more;
        });
    });
    refused(&account, "everybody answered in step 2 of rank 0");
}

#[test]
fn a_living_rank_must_answer() {
    let account = changed(0, |heard| {
        each_step(heard, |s| {
            if s.step == 15 {
                s.answered = vec![0, 2];
            }
        });
        let lost = Event::PeerLost {
            rank: 1,
            how: "no answer for 100 ms".to_owned(),
            at_us: 15_500,
        };
        heard.push((15_700, lost));
    });
    refused(
        &account,
        "rank 0 did step 15 without, though alive, rank 1: no answer for 100 ms",
    );
}

#[test]
fn a_dead_rank_must_not_answer() {
    let account = changed(1, |heard| {
        each_step(heard, |s| {
            if s.step == 9 {
                s.answered = vec![0, 1, 2];
                (s.missing, s.missing_expected) = (0, 0);
            }
        });
    });
    refused(
        &account,
        "rank 1 did step 9 with, though known to be dead, rank 2",
    );
}

#[test]
fn all_must_name_the_same_epoch() {
    let account = changed(1, |heard| {
        for (_, event) in heard {
            if let Event::Admitted { epoch, .. } = event {
                *epoch += 2;
            }
        }
    });
    refused(
        &account,
        "rank 1 admitted rank 2 at epoch 26, another at epoch 24",
    );
    let account = changed(1, |heard| each_step(heard, |s| s.epoch += s.step / 19));
    refused(&account, "rank 1 did step 19 at epoch 39");
}

#[test]
fn a_rank_that_does_not_come_back_is_noticed() {
    let mut short = record();
    short.lives.pop();
    refused(
        &account(&plan(), &short),
        "no new process was started for rank 2",
    );
    let account = changed(0, |heard| {
        heard.retain(|(_, event)| !matches!(event, Event::Admitted { .. }));
    });
    refused(&account, "rank 0 did not admit rank 2 again");
}

#[test]
fn a_rank_taken_in_after_the_last_step_is_noticed() {
    let mut record = record();
    for life in &mut record.lives {
        let rank = life.rank;
        for (_, event) in &mut life.heard {
            match event {
                Event::Admitted { epoch, .. } => *epoch = 2 * STEPS,
                Event::Step(s) if s.step >= BACK_AT && rank != VICTIM => s.answered = vec![0, 1],
                _ => {}
            }
        }
        if life.replaces.is_some() {
            life.heard.truncate(1);
        }
    }
    refused(&account(&plan(), &record), "and did no step");
}

#[test]
fn nobody_need_come_back_if_nobody_was_to() {
    let plan = Plan {
        rejoin: false,
        ..plan()
    };
    let mut record = record();
    record.lives.pop();
    for life in &mut record.lives {
        let survives = life.killed.is_none();
        each_step(&mut life.heard, |s| {
            if s.step >= KILLED_AT && survives {
                s.answered = vec![0, 1];
                (s.missing, s.missing_expected) = (1, 1);
            }
        });
    }
    let account = account(&plan, &record);
    assert_eq!(account.problems, Vec::<String>::new());
    assert_eq!(account.verified_steps, 46);
    assert_eq!(account.masked_steps, 28);
}

#[test]
fn a_dropped_attempt_is_told_once_and_no_fault() {
    let mut record = record();
    for life in &mut record.lives[..2] {
        let why = "rank 1 could not connect".to_owned();
        life.heard.push((
            9_000,
            Event::UpdateDropped {
                attempt: 1,
                by: 1,
                why,
                at_us: 9_000,
            },
        ));
    }
    let account = account(&plan(), &record);
    assert!(account.verified);
    assert_eq!(
        account.dropped_attempts,
        ["by rank 1: rank 1 could not connect"]
    );
}

#[test]
fn an_update_that_does_too_much_is_noticed() {
    let with = |change: fn(&mut Update)| {
        changed(1, |heard| {
            for (_, event) in heard {
                if let Event::Update(update) = event {
                    change(update);
                }
            }
        })
    };
    refused(&with(|u| u.commands = 9), "took 9 commands, the limit is 8");
    refused(
        &with(|u| u.healthy_qps_touched = 1),
        "touched 1 healthy queue pairs",
    );
    let moved = with(|u| u.addresses_changed = 3);
    refused(&moved, "moved 3 addresses");
    assert_eq!(moved.addresses_changed, 3);
}

#[test]
fn a_kill_that_did_not_happen_is_noticed() {
    let mut record = record();
    record.lives[2].killed = None;
    refused(
        &account(&plan(), &record),
        "rank 2 was to be killed at step 6 and was not",
    );
}

#[test]
fn what_went_wrong_outside_is_kept() {
    let mut record = record();
    record
        .problems
        .push("rank 1 ended with exit status: 1".to_owned());
    refused(&account(&plan(), &record), "rank 1 ended with");
}

#[test]
fn the_json_has_the_keys_that_other_programs_read() -> serde_json::Result<()> {
    let json = serde_json::to_value(account(&plan(), &record()))?;
    for key in [
        "ranks",
        "steps",
        "seed",
        "verified",
        "verified_steps",
        "unverified_steps",
        "masked_steps",
        "max_rel_err",
        "killed_rank",
        "missing_contributions_reported",
        "missing_contributions_expected",
        "healthy_qps_touched",
        "addresses_changed",
        "detect_ms",
        "rejoin_connect_ms",
        "median_step_ms",
        "longest_survivor_gap_ms",
        "devx_commands_update",
        "deaths",
    ] {
        assert!(json.get(key).is_some_and(|v| !v.is_null()), "{key}");
    }
    Ok(())
}

#[test]
fn the_picture_has_a_lane_for_each_rank_and_marks_the_return() {
    let (plan, record) = (plan(), record());
    let svg = super::timeline::draw(&plan, &record, &account(&plan, &record));
    for text in [
        "rank 0",
        "rank 1",
        "rank 2",
        "SIGKILL rank 2",
        "is back in step 12",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    // In the whole run and in the panel of the death, on three lanes, and the legend.
    assert_eq!(svg.matches("#1f6f3a").count(), 7);
    assert_eq!(svg.matches("#d62728").count(), 1);
}
