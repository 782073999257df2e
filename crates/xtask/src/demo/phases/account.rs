//! From what the processes said to what it comes to: a pure function.
//!
//! As for the other runs, the ranks are not taken at their word. Every step of every
//! phase must be there, on every rank of the phase, with exactly those ranks in it;
//! in all other steps too, whoever is said to have answered must have been there.

use super::Script;
use super::drive::{Run, Span};
use super::file::Phase;
use crate::demo::account::excess;
use crate::demo::checks::epochs;
use crate::demo::deaths::UpdateAccount;
use crate::demo::events::{Event, Step};
use crate::demo::ranks::fault;
use crate::demo::record::{Life, Record};
use crate::demo::units::{largest, median, ms};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The outcome of one run. All times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    #[serde(flatten)]
    pub(crate) script: Script,
    /// Whether every step was there and verified, and nothing else went wrong.
    pub(crate) verified: bool,
    /// Steps, counted per rank, that agreed with the reference, those between two
    /// phases included.
    pub(crate) verified_steps: u64,
    /// Steps, counted per rank, that did not, or that a phase lacks.
    pub(crate) unverified_steps: u64,
    pub(crate) max_rel_err: f64,
    pub(crate) median_step_ms: Option<f64>,
    /// On all ranks that were there before, over all updates.
    pub(crate) healthy_qps_touched: u64,
    pub(crate) addresses_changed: u64,
    /// The most commands to the NIC that one changed peer took.
    pub(crate) devx_commands_update: u64,
    /// Objects that processes left behind in their software NICs.
    pub(crate) leaked_objects: u64,
    pub(crate) phases: Vec<PhaseAccount>,
    pub(crate) problems: Vec<String>,
}

/// The outcome of one phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PhaseAccount {
    pub(crate) ranks: BTreeSet<u32>,
    pub(crate) joined: BTreeSet<u32>,
    pub(crate) left: BTreeSet<u32>,
    pub(crate) killed: BTreeSet<u32>,
    /// The first of its steps, if it came about.
    pub(crate) begin: Option<u64>,
    /// From starting who is new until they were in and who left was gone.
    pub(crate) change_ms: Option<f64>,
    /// Its steps, counted per rank.
    pub(crate) verified_steps: u64,
    pub(crate) unverified_steps: u64,
    /// Steps of survivors without a rank that was killed.
    pub(crate) masked_steps: u64,
}

/// Draws up the account of a run of `script`.
pub(crate) fn account(script: &Script, run: &Run) -> Account {
    let record = &run.record;
    let mut problems = record.problems.clone();
    epochs(record, &mut problems);
    let mut verified_steps = 0;
    let mut unverified_steps = 0;
    for life in &record.lives {
        order(life, &mut problems);
        for step in life.steps() {
            match fault(step) {
                None => verified_steps += 1,
                Some(fault) => {
                    unverified_steps += 1;
                    problems.push(format!("step {} of rank {} {fault}", step.step, life.rank));
                }
            }
        }
    }
    impossible(record, &mut problems);
    let phases: Vec<PhaseAccount> = (0..script.phases.len())
        .filter_map(|number| {
            let (phase, span) = (script.phases.get(number)?, run.spans.get(number));
            Some(phase_account(
                script,
                record,
                number,
                phase,
                span,
                &mut problems,
            ))
        })
        .collect();
    // What a phase lacks was not counted above, what it has was.
    unverified_steps += phases.iter().map(|p| p.unverified_steps).sum::<u64>();
    let updates = updates(record);
    for update in &updates {
        problems.extend(excess(&script.layer, update));
    }
    let leaked_objects = leaks(record, &mut problems);
    let steps = || record.lives.iter().flat_map(Life::steps);
    Account {
        verified: unverified_steps == 0 && problems.is_empty(),
        verified_steps,
        unverified_steps,
        max_rel_err: largest(steps().map(|s| s.rel_err)).unwrap_or(0.0),
        median_step_ms: median(steps().map(|s| ms(s.begin_us, s.end_us)).collect()),
        healthy_qps_touched: updates.iter().map(|u| u.healthy_qps_touched).sum(),
        addresses_changed: updates.iter().map(|u| u.addresses_changed).sum(),
        devx_commands_update: updates.iter().map(|u| u.commands).max().unwrap_or(0),
        leaked_objects,
        phases,
        problems,
        script: script.clone(),
    }
}

/// A process does one step after the other.
fn order(life: &Life, problems: &mut Vec<String>) {
    for (before, after) in life.steps().zip(life.steps().skip(1)) {
        if after.step != before.step + 1 {
            problems.push(format!(
                "rank {} did step {} after step {}",
                life.rank, after.step, before.step
            ));
        }
    }
}

/// Whoever answered must have been at that step, or have died or gone in it.
fn impossible(record: &Record, problems: &mut Vec<String>) {
    let mut steps: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for life in &record.lives {
        let done = steps.entry(life.rank).or_default();
        done.extend(life.steps().map(|s| s.step));
        // It may have got as far as to send what others need for the next one.
        done.extend(life.last_step().map(|step| step + 1));
    }
    for life in &record.lives {
        for step in life.steps() {
            for peer in &step.answered {
                if !steps
                    .get(peer)
                    .is_some_and(|done| done.contains(&step.step))
                {
                    problems.push(format!(
                        "rank {} did step {} with rank {peer}, which was not there",
                        life.rank, step.step
                    ));
                }
            }
        }
    }
}

fn phase_account(
    script: &Script,
    record: &Record,
    number: usize,
    phase: &Phase,
    span: Option<&Span>,
    problems: &mut Vec<String>,
) -> PhaseAccount {
    let mut account = PhaseAccount {
        ranks: phase.ranks.clone(),
        joined: script.newcomers(number),
        left: script.leavers(number),
        killed: phase.killed.clone(),
        begin: span.map(|span| span.begin),
        change_ms: span.map(|span| ms(0, span.change_us)),
        verified_steps: 0,
        unverified_steps: 0,
        masked_steps: 0,
    };
    let Some(span) = span else {
        problems.push(format!("phase {} did not come about", number + 1));
        account.unverified_steps = script.layer.steps * phase.ranks.len() as u64;
        return account;
    };
    // Those that die in this phase, with the last step that they did and the time.
    let mut deaths = BTreeMap::new();
    for (index, due) in script.deaths.iter().enumerate() {
        if due.phase != number {
            continue;
        }
        match record.victim(index) {
            Some((victim, at)) => {
                deaths.insert(due.rank, (victim.last_step(), at));
            }
            None => problems.push(format!(
                "rank {} was to be killed in phase {} and was not",
                due.rank,
                number + 1
            )),
        }
    }
    let steps = span.begin..span.begin + script.layer.steps;
    for rank in &phase.ranks {
        let lives = record.lives.iter().filter(|life| life.rank == *rank);
        let done: BTreeMap<u64, &Step> = lives.flat_map(Life::steps).map(|s| (s.step, s)).collect();
        for number in steps.clone() {
            let Some(step) = done.get(&number) else {
                let died = deaths.get(rank);
                if !died.is_some_and(|(last, _)| last.is_none_or(|last| number > last)) {
                    account.unverified_steps += 1;
                    problems.push(format!("rank {rank} never reported step {number}"));
                }
                continue;
            };
            account.verified_steps += u64::from(fault(step).is_none());
            let answered: BTreeSet<u32> = step.answered.iter().copied().collect();
            account.masked_steps += u64::from(!answered.is_superset(&phase.ranks));
            for peer in (0..script.capacity()).filter(|peer| peer != rank) {
                let there = answered.contains(&peer);
                let fault = match deaths.get(&peer) {
                    Some((_, at)) if step.end_us > *at => continue,
                    _ if there == phase.ranks.contains(&peer) => continue,
                    _ if there => "with, though not of the phase,",
                    _ => "without, though alive,",
                };
                problems.push(format!("rank {rank} did step {number} {fault} rank {peer}"));
            }
        }
    }
    account
}

fn updates(record: &Record) -> Vec<UpdateAccount> {
    let updates = record.lives.iter().flat_map(|life| {
        life.heard.iter().filter_map(|(_, event)| match event {
            Event::Update(update) => Some(UpdateAccount::new(life.rank, update)),
            _ => None,
        })
    });
    updates.collect()
}

/// Objects left behind; only who leaves on purpose can say.
fn leaks(record: &Record, problems: &mut Vec<String>) -> u64 {
    let mut sum = 0;
    for life in record.lives.iter().filter(|life| life.killed.is_none()) {
        match life.leaked_objects() {
            Some(0) => {}
            Some(leaked) => {
                sum += leaked;
                problems.push(format!("rank {} left {leaked} objects behind", life.rank));
            }
            None => problems.push(format!("rank {} did not end in order", life.rank)),
        }
    }
    sum
}
