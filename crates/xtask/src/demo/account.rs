//! From what the processes said to what it comes to: a pure function.
//!
//! The account does not take the ranks' word for it alone. Each step that a rank
//! should have done must be there, once, in order; who answered must agree with
//! who was alive; and all ranks must name the same epoch for an admission.

use super::checks::{Admissions, answers, epochs};
use super::deaths::{DeathAccount, UpdateAccount, death, survivor_gaps};
use super::events::Event;
use super::plan::{DataPath, Plan};
use super::ranks::{RankAccount, rank_account};
use super::record::{Life, Record};
use super::units::{largest, median, ms};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Reset, Init, RTR, RTS: an update may not need more for one queue pair.
const COMMANDS_PER_QP: u64 = 4;

/// The outcome of one run. All times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    #[serde(flatten)]
    pub(crate) plan: Plan,
    /// Whether every step of every rank was there and verified, and nothing else
    /// went wrong.
    pub(crate) verified: bool,
    /// Steps, counted per rank, that agreed with the reference.
    pub(crate) verified_steps: u64,
    /// Steps, counted per rank, that did not, or that were never reported.
    pub(crate) unverified_steps: u64,
    /// Steps, counted per rank, that went on without some rank.
    pub(crate) masked_steps: u64,
    pub(crate) max_rel_err: f64,
    /// The first rank that was killed.
    pub(crate) killed_rank: Option<u32>,
    pub(crate) missing_contributions_reported: u64,
    pub(crate) missing_contributions_expected: u64,
    /// On survivors, over all updates.
    pub(crate) healthy_qps_touched: u64,
    /// Of buffer, tables and rings on survivors, over all updates.
    pub(crate) addresses_changed: u64,
    /// From SIGKILL until the last survivor had noticed; the longest of all deaths.
    pub(crate) detect_ms: Option<f64>,
    /// Connecting to a new process, on the slowest survivor.
    pub(crate) rejoin_connect_ms: Option<f64>,
    pub(crate) median_step_ms: Option<f64>,
    /// The longest time between the ends of two steps in a row of a rank that
    /// was not killed.
    pub(crate) longest_survivor_gap_ms: Option<f64>,
    /// The same, in the middle: a step and the check of its results.
    pub(crate) median_survivor_gap_ms: Option<f64>,
    /// Commands to the NIC for an update: one number for each survivor, its
    /// largest.
    pub(crate) devx_commands_update: Vec<u64>,
    /// One entry for each kill, in the order of the plan.
    pub(crate) deaths: Vec<DeathAccount>,
    pub(crate) rank_accounts: Vec<RankAccount>,
    /// Attempts to take a rank in that were given up and made again.
    pub(crate) dropped_attempts: Vec<String>,
    pub(crate) problems: Vec<String>,
}

/// Draws up the account of `record`, a run of `plan`.
pub(crate) fn account(plan: &Plan, record: &Record) -> Account {
    let mut problems = record.problems.clone();
    let epochs = epochs(record, &mut problems);
    let origin = origin_us(record);
    let admissions = Admissions::new(plan, record, &mut problems);
    let rank_accounts: Vec<RankAccount> = (0..plan.ranks)
        .map(|rank| rank_account(plan, record, rank, &epochs, &admissions, &mut problems))
        .collect();
    answers(plan, record, &admissions, &mut problems);
    let deaths: Vec<DeathAccount> = plan
        .kills
        .iter()
        .enumerate()
        .filter_map(|(index, kill)| {
            let death = death(record, index, *kill, admissions.of(index), origin);
            if death.is_none() {
                problems.push(format!(
                    "rank {} was to be killed at step {} and was not",
                    kill.rank, kill.step
                ));
            }
            death
        })
        .collect();
    if plan.rejoin {
        problems.extend(deaths.iter().filter_map(DeathAccount::unfinished));
    }
    let updates: Vec<&UpdateAccount> = deaths
        .iter()
        .filter_map(|d| d.rejoin.as_ref())
        .flat_map(|r| &r.updates)
        .collect();
    for update in &updates {
        problems.extend(excess(plan, update));
    }
    let mut commands = BTreeMap::new();
    for update in &updates {
        let most = commands.entry(update.survivor).or_insert(0);
        *most = update.commands.max(*most);
    }
    let steps = || record.lives.iter().flat_map(Life::steps);
    let unverified_steps = rank_accounts.iter().map(|r| r.unverified_steps).sum();
    Account {
        verified: unverified_steps == 0 && problems.is_empty(),
        verified_steps: rank_accounts.iter().map(|r| r.verified_steps).sum(),
        unverified_steps,
        masked_steps: rank_accounts.iter().map(|r| r.masked_steps).sum(),
        max_rel_err: largest(steps().map(|s| s.rel_err)).unwrap_or(0.0),
        killed_rank: plan.kills.first().map(|kill| kill.rank),
        missing_contributions_reported: steps().map(|s| s.missing).sum(),
        missing_contributions_expected: steps().map(|s| s.missing_expected).sum(),
        healthy_qps_touched: updates.iter().map(|u| u.healthy_qps_touched).sum(),
        addresses_changed: updates.iter().map(|u| u.addresses_changed).sum(),
        detect_ms: largest(deaths.iter().filter_map(|d| d.detect_ms)),
        rejoin_connect_ms: largest(updates.iter().map(|u| u.connect_ms)),
        median_step_ms: median(steps().map(|s| ms(s.begin_us, s.end_us)).collect()),
        longest_survivor_gap_ms: largest(survivor_gaps(record).map(|(a, b)| ms(a, b))),
        median_survivor_gap_ms: median(survivor_gaps(record).map(|(a, b)| ms(a, b)).collect()),
        devx_commands_update: commands.into_values().collect(),
        deaths,
        rank_accounts,
        dropped_attempts: dropped_attempts(record),
        problems,
        plan: plan.clone(),
    }
}

/// What an update did that it must not do.
pub(super) fn excess(plan: &Plan, update: &UpdateAccount) -> Option<String> {
    let limit = match plan.path {
        DataPath::Rdma => COMMANDS_PER_QP * u64::from(plan.lanes) * update.attempts,
        DataPath::Window => 0,
    };
    let survivor = update.survivor;
    if update.healthy_qps_touched > 0 || update.addresses_changed > 0 {
        return Some(format!(
            "an update on rank {survivor} touched {} healthy queue pairs and moved {} addresses",
            update.healthy_qps_touched, update.addresses_changed
        ));
    }
    (update.commands > limit).then(|| {
        format!(
            "an update on rank {survivor} took {} commands, the limit is {limit}",
            update.commands
        )
    })
}

/// Every rank tells of every attempt that was dropped; once is enough.
fn dropped_attempts(record: &Record) -> Vec<String> {
    let heard = record.lives.iter().flat_map(|life| &life.heard);
    let told: BTreeSet<String> = heard
        .filter_map(|(_, event)| match event {
            Event::UpdateDropped { by, why, .. } => Some(format!("by rank {by}: {why}")),
            _ => None,
        })
        .collect();
    told.into_iter().collect()
}

/// The beginning of the first step: where the time line starts.
pub(crate) fn origin_us(record: &Record) -> u64 {
    let steps = record.lives.iter().flat_map(Life::steps);
    let first = steps.map(|step| step.begin_us).min();
    first.unwrap_or_else(|| record.lives.first().map_or(0, |life| life.spawned_us))
}
