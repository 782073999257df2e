//! The steps of one rank: that all are there, in order, and agree with the reference.

use super::checks::{Admissions, Epochs};
use super::events::Step;
use super::plan::Plan;
use super::record::{Life, Record};
use super::units::{median, ms};
use serde::Serialize;
use std::ops::Range;

/// One rank, all its lives together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RankAccount {
    pub(crate) rank: u32,
    pub(crate) lives: usize,
    pub(crate) verified_steps: u64,
    pub(crate) unverified_steps: u64,
    pub(crate) masked_steps: u64,
    pub(crate) median_step_ms: Option<f64>,
    pub(crate) max_rel_err: f64,
}

/// Goes through all steps of `rank`.
pub(crate) fn rank_account(
    plan: &Plan,
    record: &Record,
    rank: u32,
    epochs: &Epochs,
    admissions: &Admissions,
    problems: &mut Vec<String>,
) -> RankAccount {
    let mut account = RankAccount {
        rank,
        lives: 0,
        verified_steps: 0,
        unverified_steps: 0,
        masked_steps: 0,
        median_step_ms: None,
        max_rel_err: 0.0,
    };
    let lives: Vec<&Life> = record.lives.iter().filter(|l| l.rank == rank).collect();
    for life in &lives {
        account.lives += 1;
        let first = match life.replaces {
            None => Some(0),
            // The first step that begins at or after the agreed epoch.
            Some(kill) => admissions.of(kill).and_then(|admitted| {
                let step = epochs.iter().find(|(_, epoch)| **epoch >= admitted);
                step.map(|(step, _)| *step)
            }),
        };
        // A process that was killed owes the steps up to its last one only.
        let end = match (life.killed, life.last_step()) {
            (Some(_), last) => last.map_or(first.unwrap_or(0), |last| last + 1),
            (None, _) => plan.steps,
        };
        // One that was never taken in owes nothing; its absence is a problem already.
        let mut expected = first.map_or(end, |first| first);
        for step in life.steps() {
            if step.step < expected || step.step >= plan.steps {
                problems.push(format!(
                    "rank {rank} reported step {}, expected was {expected}",
                    step.step
                ));
                account.unverified_steps += 1;
                continue;
            }
            absent(&mut account, expected..step.step, problems);
            expected = step.step + 1;
            if let Some(fault) = fault(step) {
                account.unverified_steps += 1;
                problems.push(format!("step {} of rank {rank} {fault}", step.step));
            } else {
                account.verified_steps += 1;
            }
            account.max_rel_err = account.max_rel_err.max(step.rel_err);
            account.masked_steps += u64::from(is_masked(plan, rank, &step.answered));
        }
        absent(&mut account, expected..end, problems);
    }
    if lives.is_empty() {
        absent(&mut account, 0..plan.steps, problems);
    }
    let durations = lives.iter().flat_map(|life| life.steps());
    account.median_step_ms = median(durations.map(|s| ms(s.begin_us, s.end_us)).collect());
    account
}

fn absent(account: &mut RankAccount, steps: Range<u64>, problems: &mut Vec<String>) {
    if steps.is_empty() {
        return;
    }
    account.unverified_steps += steps.end - steps.start;
    problems.push(format!(
        "rank {} never reported steps {} to {}",
        account.rank,
        steps.start,
        steps.end - 1
    ));
}

/// Whether a step of `rank` went on without some other rank.
pub(crate) fn is_masked(plan: &Plan, rank: u32, answered: &[u32]) -> bool {
    (0..plan.ranks).any(|other| other != rank && !answered.contains(&other))
}

/// What is wrong with a step by itself.
pub(super) fn fault(step: &Step) -> Option<String> {
    if !step.verified {
        let what = step.problem.as_deref().unwrap_or("it does not say how");
        Some(format!("differs from the reference: {what}"))
    } else if step.missing != step.missing_expected {
        Some(format!(
            "reported {} missing contributions, the reference {}",
            step.missing, step.missing_expected
        ))
    } else if !step.rel_err.is_finite() {
        Some(format!("has a relative error of {}", step.rel_err))
    } else {
        None
    }
}
