//! How long the survivors' steps take while others come in, die, or do neither.
//!
//! A gap is the time from the end of a step to the end of the next, of one process. It is
//! *undisturbed* if all ranks took part in both steps and nothing was done to anybody, no
//! process was starting and no attempt under way; it is an *admission*'s if it overlaps
//! the time from an attempt's proposal until the first step in the new view, of a process
//! that was a member before, and no harm was done; it is a *detection*'s if a rank that
//! took part had died and this process had not masked it yet.

use super::actions::Harm;
use super::drive::Run;
use crate::demo::events::Event;
use crate::demo::record::Life;
use crate::demo::units::ms;
use std::collections::{BTreeMap, BTreeSet};

/// How long after something others may still feel it.
const AFTERMATH_US: u64 = 100_000;

/// The gaps of a run, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    pub(super) undisturbed: Vec<f64>,
    pub(super) admission: Vec<f64>,
    pub(super) detection: Vec<f64>,
    /// Attempts that overlap gaps of admissions.
    pub(super) attempts: u64,
}

/// Times from and until, apart from each other and in order.
#[derive(Debug, Default)]
struct Spans(Vec<(u64, u64)>);

impl Spans {
    fn new(spans: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<(u64, u64)> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (from, until) in sorted {
            match apart.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(until),
                _ => apart.push((from, until)),
            }
        }
        Self(apart)
    }

    fn overlap(&self, from: u64, until: u64) -> bool {
        let next = self.0.partition_point(|(_, end)| *end <= from);
        self.0.get(next).is_some_and(|(begin, _)| *begin < until)
    }
}

/// An attempt to change the view, from the first word of it.
struct Attempt {
    begin_us: u64,
    outcome: Outcome,
    /// Ranks that came in by it, by their own word.
    newcomers: BTreeSet<u32>,
}

enum Outcome {
    /// Nobody who could tell lived long enough.
    Unknown,
    Dropped(u64),
    /// The first epoch of the new view.
    From(u64),
}

impl Attempt {
    /// From the proposal until `life` had done a step in the new view, if it had done
    /// any before; else no time at all.
    fn span(&self, life: &Life) -> (u64, u64) {
        let first = life.steps().next();
        let there = first.is_some_and(|step| step.end_us < self.begin_us);
        let end = match self.outcome {
            _ if !there => None,
            Outcome::Unknown => None,
            Outcome::Dropped(at) => Some(at),
            Outcome::From(epoch) => {
                let inside = life.steps().find(|step| step.epoch >= epoch);
                let last = || life.steps().next_back();
                inside.or_else(last).map(|step| step.end_us)
            }
        };
        (self.begin_us, end.unwrap_or(0).max(self.begin_us))
    }
}

fn attempts(run: &Run) -> BTreeMap<u64, Attempt> {
    let mut attempts: BTreeMap<u64, Attempt> = BTreeMap::new();
    for life in &run.record.lives {
        for (_, event) in &life.heard {
            let (number, at_us) = match event {
                Event::UpdateBegun { attempt, at_us }
                | Event::UpdateDropped { attempt, at_us, .. }
                | Event::Admitted { attempt, at_us, .. } => (*attempt, *at_us),
                _ => continue,
            };
            let attempt = attempts.entry(number).or_insert(Attempt {
                begin_us: at_us,
                outcome: Outcome::Unknown,
                newcomers: BTreeSet::new(),
            });
            attempt.begin_us = attempt.begin_us.min(at_us);
            match event {
                Event::Admitted { rank, epoch, .. } => {
                    attempt.outcome = Outcome::From(*epoch);
                    if *rank == life.rank {
                        attempt.newcomers.insert(*rank);
                    }
                }
                Event::UpdateDropped { .. } => {
                    let last = match attempt.outcome {
                        Outcome::Dropped(last) => last,
                        _ => 0,
                    };
                    attempt.outcome = Outcome::Dropped(last.max(at_us));
                }
                _ => {}
            }
        }
    }
    attempts
}

/// Until when somebody felt what ended at `end_us`: the steps that were under way have
/// ended.
fn felt_until(lives: &[Life], end_us: u64) -> u64 {
    let under_way = lives.iter().filter_map(|life| {
        let step = life.steps().find(|step| step.end_us > end_us)?;
        (step.begin_us <= end_us).then_some(step.end_us)
    });
    under_way.max().unwrap_or(end_us)
}

/// When each of the others masked `victim`, which was killed at `at_us`, by life.
fn noticed(lives: &[Life], victim: &Life, at_us: u64) -> Vec<(usize, u64)> {
    let others = lives.iter().enumerate().filter(|(_, life)| {
        let before = life.steps().take_while(|step| step.end_us < at_us).last();
        let counted = before.is_some_and(|step| step.answered.contains(&victim.rank));
        life.rank != victim.rank && life.alive_at(at_us) && counted
    });
    others
        .filter_map(|(index, life)| Some((index, life.noticed_us(victim.rank, at_us)?)))
        .collect()
}

/// Sorts the gaps of `ranks` ranks by what was going on.
pub(super) fn gaps(ranks: u32, run: &Run) -> Gaps {
    let lives = &run.record.lives;
    let attempts = attempts(run);
    let mut harmed = Vec::new();
    let mut detections: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
    for deed in &run.harms {
        let (begin_us, mut end_us, mut after) = (deed.begin_us, deed.end_us, AFTERMATH_US);
        let victim = deed.victim.and_then(|life| lives.get(life));
        if let (Harm::Kill { .. }, Some(victim)) = (deed.harm, victim) {
            for (life, at_us) in noticed(lives, victim, begin_us) {
                detections.entry(life).or_default().push((begin_us, at_us));
                end_us = end_us.max(at_us);
            }
            // Nothing is left of it then, and a new process may be there soon.
            after = 0;
        }
        harmed.push((begin_us, felt_until(lives, end_us) + after));
    }
    let harmed = Spans::new(harmed);
    // The rest of what an undisturbed gap must not overlap.
    let starting = lives.iter().map(|life| {
        let first = life.steps().next().map(|step| step.end_us);
        (
            life.spawned_us,
            first.unwrap_or(u64::MAX - AFTERMATH_US) + AFTERMATH_US,
        )
    });
    let changing = attempts.values().flat_map(|attempt| {
        let spans = lives.iter().map(|life| attempt.span(life));
        spans.map(|(from, until)| (from, until + AFTERMATH_US))
    });
    let busy = Spans::new(starting.chain(changing));
    let mut found = Gaps::default();
    let mut met = BTreeSet::new();
    for (index, life) in lives.iter().enumerate() {
        let joined: Vec<(u64, (u64, u64))> = attempts
            .iter()
            .filter(|(_, attempt)| !attempt.newcomers.contains(&life.rank))
            .map(|(number, attempt)| (*number, attempt.span(life)))
            .collect();
        let admissions = Spans::new(joined.iter().map(|(_, span)| *span));
        let detected = Spans::new(detections.remove(&index).unwrap_or_default());
        let all = |step: &crate::demo::events::Step| step.ranks().len() == ranks as usize;
        for (before, step) in life.steps().zip(life.steps().skip(1)) {
            let (from, until) = (before.end_us, step.end_us);
            let gap = ms(from, until);
            if detected.overlap(from, until) {
                found.detection.push(gap);
            } else if harmed.overlap(from, until) {
                // Whatever it is, it is not the admission's doing.
            } else if admissions.overlap(from, until) {
                found.admission.push(gap);
                let those = joined.iter().filter(|(_, (a, b))| *a < until && from < *b);
                met.extend(those.map(|(number, _)| *number));
            } else if all(before) && all(step) && !busy.overlap(from, until) {
                found.undisturbed.push(gap);
            }
        }
    }
    found.attempts = met.len() as u64;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_are_one_and_their_ends_are_outside() {
        let spans = Spans::new([(30, 40), (10, 20), (15, 25), (40, 50), (60, 60)]);
        assert_eq!(spans.0, [(10, 25), (30, 50), (60, 60)]);
        for (from, until, expected) in [
            (0, 10, false),
            (0, 11, true),
            (24, 26, true),
            (25, 30, false),
            (12, 13, true),
            (49, 70, true),
            (50, 60, false),
        ] {
            assert_eq!(spans.overlap(from, until), expected, "{from} to {until}");
        }
    }
}
