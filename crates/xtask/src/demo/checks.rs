//! What must be true of a run, whatever the ranks say of themselves.

use super::events::Step;
use super::plan::Plan;
use super::record::{Life, Record};
use std::collections::{BTreeMap, BTreeSet};

/// The epoch of each step's first operation.
pub(crate) type Epochs = BTreeMap<u64, u64>;

/// For each of the plan's kills: from which epoch on the new process counts.
pub(crate) struct Admissions(Vec<Option<u64>>);

impl Admissions {
    /// Gathers what survivors said; they must agree.
    pub(crate) fn new(plan: &Plan, record: &Record, problems: &mut Vec<String>) -> Self {
        let kills = 0..plan.kills.len();
        Self(
            kills
                .map(|kill| admission(plan, record, kill, problems))
                .collect(),
        )
    }

    /// The epoch for kill number `kill`, if its replacement was taken in.
    pub(crate) fn of(&self, kill: usize) -> Option<u64> {
        self.0.get(kill).copied().flatten()
    }
}

/// Which epoch each step begins with; all ranks must agree.
pub(crate) fn epochs(record: &Record, problems: &mut Vec<String>) -> Epochs {
    let mut epochs = BTreeMap::new();
    for life in &record.lives {
        for step in life.steps() {
            let epoch = *epochs.entry(step.step).or_insert(step.epoch);
            if epoch != step.epoch {
                problems.push(format!(
                    "rank {} did step {} at epoch {}, others at epoch {epoch}",
                    life.rank, step.step, step.epoch
                ));
            }
        }
    }
    epochs
}

/// The epoch from which on the replacement for kill number `kill` counts.
fn admission(plan: &Plan, record: &Record, kill: usize, problems: &mut Vec<String>) -> Option<u64> {
    let rank = plan.kills.get(kill)?.rank;
    if !plan.rejoin {
        return None;
    }
    record.victim(kill)?;
    let Some(life) = record.replacement(kill) else {
        problems.push(format!("no new process was started for rank {rank}"));
        return None;
    };
    let mut agreed = None;
    for survivor in record.survivors(kill) {
        let Some((epoch, _)) = survivor.admitted(rank, life.spawned_us) else {
            // A survivor that died itself before the decision owes none.
            if survivor.killed.is_none() {
                problems.push(format!(
                    "rank {} did not admit rank {rank} again",
                    survivor.rank
                ));
            }
            continue;
        };
        match agreed {
            None => agreed = Some(epoch),
            Some(other) if other != epoch => problems.push(format!(
                "rank {} admitted rank {rank} at epoch {epoch}, another at epoch {other}",
                survivor.rank
            )),
            Some(_) => {}
        }
    }
    agreed
}

/// Holds who answered against who was alive and admitted.
pub(crate) fn answers(
    plan: &Plan,
    record: &Record,
    admissions: &Admissions,
    problems: &mut Vec<String>,
) {
    // One line for each pair of ranks is enough to see what is wrong.
    let mut told = BTreeSet::new();
    for life in &record.lives {
        for step in life.steps() {
            let mut whole = true;
            for peer in (0..plan.ranks).filter(|p| *p != life.rank) {
                let answered = step.answered.contains(&peer);
                whole &= answered;
                let fault = match standing(plan, record, admissions, life, step, peer) {
                    Standing::Counts if !answered => "without, though alive,",
                    Standing::Dead if answered => "with, though known to be dead,",
                    _ => continue,
                };
                if told.insert((life.rank, peer, fault)) {
                    let why = life.why_lost(peer, step.begin_us);
                    let why = why.map_or_else(String::new, |why| format!(": {why}"));
                    problems.push(format!(
                        "rank {} did step {} {fault} rank {peer}{why}",
                        life.rank, step.step
                    ));
                }
            }
            if whole && step.missing != 0 {
                problems.push(format!(
                    "everybody answered in step {} of rank {}, yet {} contributions are missing",
                    step.step, life.rank, step.missing
                ));
            }
        }
    }
}

enum Standing {
    /// It lived through the step and counted from its beginning.
    Counts,
    /// It was known to be dead before the step began and nobody had taken its place.
    Dead,
    /// It died, or was noticed to be dead, in between.
    Either,
}

fn standing(
    plan: &Plan,
    record: &Record,
    admissions: &Admissions,
    life: &Life,
    step: &Step,
    peer: u32,
) -> Standing {
    // The peer's life that the step has to do with is the last one that counted.
    let counted = record.lives.iter().rfind(|other| {
        other.rank == peer
            && match other.replaces {
                None => true,
                Some(kill) => admissions.of(kill).is_some_and(|epoch| epoch <= step.epoch),
            }
    });
    let Some(counted) = counted else {
        return Standing::Either;
    };
    match counted.killed {
        None => Standing::Counts,
        Some(death) if step.end_us <= death.at_us => Standing::Counts,
        Some(death) => {
            let noticed = life.noticed_us(peer, death.at_us);
            let undecided = plan.rejoin && admissions.of(death.kill).is_none();
            if !undecided && noticed.is_some_and(|at| at <= step.begin_us) {
                Standing::Dead
            } else {
                Standing::Either
            }
        }
    }
}
