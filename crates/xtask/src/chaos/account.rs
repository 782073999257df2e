//! From what the processes said to what it comes to: a pure function.

use super::actions::Harm;
use super::drive::{Run, STEP_BOUND_MS};
use super::gaps::gaps;
use crate::demo::events::{Event, Step};
use crate::demo::record::{Life, Record};
use crate::demo::units::ms;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The outcome of one run. All times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    pub(crate) ranks: u32,
    pub(crate) seed: u64,
    /// Nothing hung, leaked, was stale or unverified, and nothing else went wrong.
    pub(crate) good: bool,
    /// Steps, counted per rank.
    pub(crate) steps: u64,
    pub(crate) verified_steps: u64,
    pub(crate) unverified_steps: u64,
    pub(crate) kills: u64,
    pub(crate) freezes: u64,
    /// Frozen processes that were replaced before they went on.
    pub(crate) ousted: u64,
    pub(crate) losses: u64,
    pub(crate) links_down: u64,
    pub(crate) failing_commands: u64,
    pub(crate) etcd_restarts: u64,
    pub(crate) updates_committed: u64,
    pub(crate) updates_dropped: u64,
    /// Steps and updates beyond their bounds.
    pub(crate) hangs: u64,
    pub(crate) leaked_objects: u64,
    /// Contributions of a rank to a step at which no process of it can have been.
    pub(crate) stale_accepted: u64,
    /// From the beginning of an update until the peer is connected, on each survivor.
    pub(crate) reconnect_ms: Quantiles,
    /// From the end of a step to the end of the next, while an attempt to take somebody in
    /// was under way and no harm was done.
    pub(crate) survivor_gap_ms: Quantiles,
    pub(crate) survivor_gaps: u64,
    /// The attempts in whose times these gaps were.
    pub(crate) survivor_attempts: u64,
    /// The same while all ranks were there, nothing was done to anybody and nobody came.
    pub(crate) step_ms: Quantiles,
    pub(crate) undisturbed_gaps: u64,
    /// 99th percentile of the survivors' gaps to that of the undisturbed ones.
    pub(crate) gap_ratio_p99: Option<f64>,
    /// The same from a death until it was noticed and the step done.
    pub(crate) detection_gap_ms: Quantiles,
    pub(crate) detection_gaps: u64,
    pub(crate) problems: Vec<String>,
}

/// Some of them, or nothing if there were no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Quantiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (values.len() as f64 * share).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied()
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            max: values.last().copied(),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(p50), Some(p99), Some(max)) = (self.p50, self.p99, self.max) else {
            return f.write_str("-");
        };
        write!(
            f,
            "median {p50:.1} ms, 99th percentile {p99:.1} ms, most {max:.1} ms"
        )
    }
}

/// Draws up the account of `run`.
pub(crate) fn account(ranks: u32, seed: u64, run: &Run) -> Account {
    let record = &run.record;
    let mut problems = record.problems.clone();
    problems.extend(run.hangs.iter().cloned());
    let mut unverified_steps = 0;
    let mut hangs = run.hangs.len() as u64;
    for life in &record.lives {
        for step in life.steps() {
            if !good(step) {
                unverified_steps += 1;
                problems.push(format!(
                    "step {} of rank {}: {}, {} contributions missing, {} by the reference",
                    step.step,
                    life.rank,
                    step.problem.as_deref().unwrap_or("wrong"),
                    step.missing,
                    step.missing_expected
                ));
            }
        }
    }
    for (index, life) in record.lives.iter().enumerate() {
        for (from, until) in life.steps().map(|s| (s.begin_us, s.end_us)) {
            let frozen: u64 = run
                .harms
                .iter()
                .filter(|deed| {
                    deed.victim == Some(index)
                        && matches!(deed.harm, Harm::Freeze { .. } | Harm::Oust)
                })
                .map(|deed| {
                    deed.end_us
                        .min(until)
                        .saturating_sub(deed.begin_us.max(from))
                })
                .sum();
            if until - from > frozen + STEP_BOUND_MS * 1_000 {
                hangs += 1;
                problems.push(format!(
                    "a step of rank {} took {:.0} ms",
                    life.rank,
                    ms(from, until)
                ));
            }
        }
        if life.ousted
            && life.killed.is_none()
            && !life
                .heard
                .iter()
                // Before its first step that is what its last words are about.
                .any(|(_, e)| matches!(e, Event::Superseded {} | Event::Error { .. }))
        {
            problems.push(format!(
                "rank {} was not told of its replacement",
                life.rank
            ));
        }
    }
    let stale_accepted = stale(run, &mut problems);
    let leaked_objects = leaks(record, &mut problems);
    let steps = record
        .lives
        .iter()
        .map(|life| life.steps().count() as u64)
        .sum();
    let count =
        |wanted: fn(&Harm) -> bool| run.harms.iter().filter(|d| wanted(&d.harm)).count() as u64;
    let heard = || record.lives.iter().flat_map(|life| &life.heard);
    let attempts = |wanted: fn(&Event) -> Option<u64>| {
        let numbers: BTreeSet<u64> = heard().filter_map(|(_, event)| wanted(event)).collect();
        numbers.len() as u64
    };
    let reconnects = heard().filter_map(|(_, event)| match event {
        Event::Update(update) if update.connect_us > 0 => Some(update.connect_us as f64 / 1e3),
        _ => None,
    });
    let gaps = gaps(ranks, run);
    let counts = [&gaps.admission, &gaps.undisturbed, &gaps.detection].map(|g| g.len() as u64);
    let [survivor_gaps, undisturbed_gaps, detection_gaps] = counts;
    let survivor_gap_ms = Quantiles::of(gaps.admission);
    let step_ms = Quantiles::of(gaps.undisturbed);
    let p99 = survivor_gap_ms.p99.zip(step_ms.p99);
    Account {
        ranks,
        seed,
        good: unverified_steps == 0 && hangs == 0 && problems.is_empty(),
        steps,
        verified_steps: steps - unverified_steps,
        unverified_steps,
        kills: count(|harm| matches!(harm, Harm::Kill { .. })),
        freezes: count(|harm| matches!(harm, Harm::Freeze { .. } | Harm::Oust)),
        ousted: count(|harm| matches!(harm, Harm::Oust)),
        losses: count(|harm| matches!(harm, Harm::Lose { .. })),
        links_down: count(|harm| matches!(harm, Harm::LinkDown { .. })),
        failing_commands: count(|harm| matches!(harm, Harm::FailCommand { .. })),
        etcd_restarts: count(|harm| matches!(harm, Harm::EtcdRestart { .. })),
        updates_committed: attempts(|event| match event {
            Event::Admitted { attempt, .. } => Some(*attempt),
            _ => None,
        }),
        updates_dropped: attempts(|event| match event {
            Event::UpdateDropped { attempt, .. } => Some(*attempt),
            _ => None,
        }),
        hangs,
        leaked_objects,
        stale_accepted,
        reconnect_ms: Quantiles::of(reconnects.collect()),
        survivor_gap_ms,
        survivor_gaps,
        survivor_attempts: gaps.attempts,
        step_ms,
        undisturbed_gaps,
        gap_ratio_p99: p99.map(|(during, quiet)| during / quiet),
        detection_gap_ms: Quantiles::of(gaps.detection),
        detection_gaps,
        problems,
    }
}

/// What the step reports as missing is what the reference lacks, and all else is right.
fn good(step: &Step) -> bool {
    step.verified && step.missing == step.missing_expected && step.rel_err.is_finite()
}

/// Contributions to steps at which no process of the rank can have been.
fn stale(run: &Run, problems: &mut Vec<String>) -> u64 {
    let record = &run.record;
    let mut steps: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for life in &record.lives {
        let done = steps.entry(life.rank).or_default();
        done.extend(life.steps().map(|s| s.step));
        // It may have got as far as to send what others need for the next one; a new
        // process may have done so before it said anything.
        done.extend(life.last_step().map(|step| step + 1));
        done.extend(
            life.first_epoch()
                .map(|epoch| epoch / run.ops_per_step.max(1)),
        );
    }
    let mut count = 0;
    for life in &record.lives {
        for step in life.steps() {
            for peer in &step.answered {
                if !steps
                    .get(peer)
                    .is_some_and(|done| done.contains(&step.step))
                {
                    count += 1;
                    problems.push(format!(
                        "rank {} did step {} with rank {peer}, which was not there",
                        life.rank, step.step
                    ));
                }
            }
        }
    }
    count
}

/// Objects left behind, of all that left on purpose.
fn leaks(record: &Record, problems: &mut Vec<String>) -> u64 {
    let mut sum = 0;
    let lives = record.lives.iter();
    for life in lives.filter(|life| life.killed.is_none() && !life.ousted) {
        match life.leaked_objects() {
            Some(leaked) => sum += leaked,
            None => problems.push(format!(
                "a process of rank {} did not end in order",
                life.rank
            )),
        }
    }
    if sum > 0 {
        problems.push(format!("{sum} objects were left behind"));
    }
    sum
}

impl Life {
    /// From which epoch on this process was itself a member, by its own word.
    fn first_epoch(&self) -> Option<u64> {
        self.heard.iter().find_map(|(_, event)| match event {
            Event::Admitted { rank, epoch, .. } if *rank == self.rank => Some(*epoch),
            _ => None,
        })
    }
}
