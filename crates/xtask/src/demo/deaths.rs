//! One death, and how a new process took the dead one's place, in figures.

use super::events::Update;
use super::plan::Kill;
use super::record::{Life, Record};
use super::units::{largest, ms};
use serde::Serialize;
use std::collections::BTreeSet;

/// One death and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DeathAccount {
    /// Its place among the plan's kills.
    pub(crate) kill: usize,
    pub(crate) rank: u32,
    /// The last step that the process had finished.
    pub(crate) last_step: Option<u64>,
    /// From the first step of the run to SIGKILL.
    pub(crate) at_ms: f64,
    pub(crate) detect_first_ms: Option<f64>,
    pub(crate) detect_ms: Option<f64>,
    /// Steps (not counted per rank) in which a survivor went on without it.
    pub(crate) masked_steps: u64,
    /// Longest time between two ends of steps on survivors around the death...
    pub(crate) gap_at_death_ms: Option<f64>,
    /// ... and while the new process was taken in.
    pub(crate) gap_at_rejoin_ms: Option<f64>,
    pub(crate) rejoin: Option<Rejoin>,
}

/// How a new process took the dead one's place.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rejoin {
    /// From SIGKILL until the new process was started.
    pub(crate) spawned_after_ms: f64,
    /// From its start until it was ready to be taken in.
    pub(crate) start_ms: Option<f64>,
    /// From its start until the last survivor counted it in.
    pub(crate) admitted_ms: f64,
    pub(crate) admitted_epoch: u64,
    /// The first step with everybody in it.
    pub(crate) first_complete_step: Option<u64>,
    /// From SIGKILL until that step was done everywhere.
    pub(crate) complete_after_ms: Option<f64>,
    pub(crate) updates: Vec<UpdateAccount>,
}

/// What an update cost one survivor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UpdateAccount {
    pub(crate) survivor: u32,
    /// Attempts that it took, dropped ones included.
    pub(crate) attempts: u64,
    pub(crate) commands: u64,
    pub(crate) qps_touched: u64,
    pub(crate) healthy_qps_touched: u64,
    pub(crate) addresses_changed: u64,
    pub(crate) connect_ms: f64,
}

impl UpdateAccount {
    pub(crate) fn new(survivor: u32, update: &Update) -> Self {
        Self {
            survivor,
            attempts: update.attempts,
            commands: update.commands,
            qps_touched: update.qps_touched,
            healthy_qps_touched: update.healthy_qps_touched,
            addresses_changed: update.addresses_changed,
            connect_ms: update.connect_us as f64 / 1e3,
        }
    }
}

impl DeathAccount {
    /// What of the rejoin that was planned did not happen.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let rank = self.rank;
        match &self.rejoin {
            None => Some(format!("rank {rank} was not taken in again")),
            Some(rejoin) if rejoin.first_complete_step.is_none() => Some(format!(
                "rank {rank} was taken in from epoch {} on and did no step: \
                 the run may be too short for it, see --steps",
                rejoin.admitted_epoch
            )),
            Some(_) => None,
        }
    }
}

/// The account of kill number `index`, or `None` if it did not happen.
pub(crate) fn death(
    record: &Record,
    index: usize,
    kill: Kill,
    admitted: Option<u64>,
    origin: u64,
) -> Option<DeathAccount> {
    let (victim, at) = record.victim(index)?;
    let noticed: Vec<u64> = record
        .survivors(index)
        .filter_map(|life| life.noticed_us(kill.rank, at))
        .collect();
    let replacement = record.replacement(index);
    let rejoin = replacement
        .zip(admitted)
        .map(|(life, epoch)| rejoin(record, index, at, life, epoch));
    let complete = rejoin.as_ref().and_then(|r| r.first_complete_step);
    let before = |step: u64| complete.is_none_or(|complete| step < complete);
    let masked: BTreeSet<u64> = record
        .survivors(index)
        .flat_map(Life::steps)
        .filter(|s| s.end_us > at && before(s.step) && !s.answered.contains(&kill.rank))
        .map(|s| s.step)
        .collect();
    let last_noticed = noticed.iter().copied().max();
    let complete_us = complete.and_then(|step| done_everywhere_us(record, step));
    let gaps = |from: Option<u64>, until: Option<u64>| {
        let (from, until) = from.zip(until)?;
        let crossing = survivor_gaps(record).filter(move |(a, b)| *b > from && *a < until);
        largest(crossing.map(|(a, b)| ms(a, b)))
    };
    Some(DeathAccount {
        kill: index,
        rank: kill.rank,
        last_step: victim.last_step(),
        at_ms: ms(origin, at),
        detect_first_ms: noticed.iter().min().map(|t| ms(at, *t)),
        detect_ms: last_noticed.map(|t| ms(at, t)),
        masked_steps: masked.len() as u64,
        gap_at_death_ms: gaps(Some(at), last_noticed),
        gap_at_rejoin_ms: gaps(replacement.map(|life| life.spawned_us), complete_us),
        rejoin,
    })
}

fn rejoin(record: &Record, index: usize, died: u64, life: &Life, epoch: u64) -> Rejoin {
    let admitted = record
        .survivors(index)
        .filter_map(|s| s.admitted(life.rank, life.spawned_us))
        .map(|(_, at)| at)
        .max();
    let first_complete_step = life.steps().find(|s| s.epoch >= epoch).map(|s| s.step);
    let mut updates: Vec<UpdateAccount> = record
        .survivors(index)
        .flat_map(|survivor| {
            let until = life.killed.map_or(u64::MAX, |death| death.at_us);
            survivor
                .updates(life.rank, life.spawned_us, until)
                .map(|(_, update)| UpdateAccount::new(survivor.rank, update))
        })
        .collect();
    updates.sort_by_key(|update| update.survivor);
    Rejoin {
        spawned_after_ms: ms(died, life.spawned_us),
        start_ms: life.ready_us().map(|at| ms(life.spawned_us, at)),
        admitted_ms: admitted.map_or(0.0, |at| ms(life.spawned_us, at)),
        admitted_epoch: epoch,
        first_complete_step,
        complete_after_ms: first_complete_step
            .and_then(|step| done_everywhere_us(record, step))
            .map(|at| ms(died, at)),
        updates,
    }
}

/// When the last rank had finished `step`.
pub(crate) fn done_everywhere_us(record: &Record, step: u64) -> Option<u64> {
    let all = record.lives.iter().flat_map(Life::steps);
    all.filter(|s| s.step == step).map(|s| s.end_us).max()
}

/// Pairs of ends of steps in a row, of processes that were not killed.
pub(crate) fn survivor_gaps(record: &Record) -> impl Iterator<Item = (u64, u64)> {
    let survivors = record.lives.iter().filter(|life| life.killed.is_none());
    survivors.flat_map(|life| {
        let ends = || life.steps().map(|s| s.end_us);
        ends().zip(ends().skip(1))
    })
}
