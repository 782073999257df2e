//! One run: phase after phase, from what the ranks say to what they are told.

use super::Script;
use crate::demo::process::{Processes, Setup, now_us};
use crate::demo::record::{Life, Record};
use anyhow::Result;
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// After one process failed, how long the others may take to say what they saw.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What one run left behind.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) record: Record,
    /// The phases that came about.
    pub(crate) spans: Vec<Span>,
}

/// When a phase was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first step that counts as the phase's.
    pub(crate) begin: u64,
    /// From when the newcomers were started until the step before that.
    pub(crate) change_us: u64,
}

enum Stage {
    /// Not everybody is in yet.
    Gathering,
    /// Not everybody who has to go has gone.
    Parting,
    Running,
    Done,
}

struct Drive<'a> {
    script: &'a Script,
    processes: Processes<'a>,
    spans: Vec<Span>,
    /// The present phase.
    number: usize,
    stage: Stage,
    changed_us: u64,
    /// When a victim dies, once its step has come.
    dying: Vec<Option<Instant>>,
}

/// Runs `script` to its end or to `limit`. What went wrong is in the record; an
/// error means that processes could not be started at all.
pub(crate) fn run(
    script: &Script,
    setup: &Setup,
    limit: Duration,
    bar: &ProgressBar,
) -> Result<Run> {
    let mut drive = Drive {
        script,
        processes: Processes::new(setup),
        spans: Vec::new(),
        number: 0,
        stage: Stage::Gathering,
        changed_us: now_us(),
        dying: vec![None; script.deaths.len()],
    };
    drive.start_newcomers()?;
    let mut deadline = Instant::now() + limit;
    let mut failed = false;
    while drive.processes.any_left() {
        drive.processes.hear(POLL);
        drive.advance()?;
        bar.set_position(drive.number as u64 * script.layer.steps);
        if !failed && !drive.processes.record.problems.is_empty() {
            failed = true;
            deadline = deadline.min(Instant::now() + LAST_WORDS);
        }
        if Instant::now() >= deadline {
            if !failed {
                let standing = drive.standing();
                let problem = format!("not finished after {} s: {standing}", limit.as_secs());
                drive.processes.record.problems.push(problem);
            }
            break;
        }
    }
    drive.processes.end();
    Ok(Run {
        record: std::mem::take(&mut drive.processes.record),
        spans: drive.spans,
    })
}

impl Drive<'_> {
    fn start_newcomers(&mut self) -> Result<()> {
        let flags: &[&str] = if self.number == 0 { &[] } else { &["--join"] };
        self.changed_us = now_us();
        for rank in self.script.newcomers(self.number) {
            self.processes.spawn(rank, None, flags)?;
        }
        Ok(())
    }

    fn dismiss(&mut self, ranks: &BTreeSet<u32>) {
        for rank in ranks {
            if let Some(index) = self.processes.current(*rank) {
                self.processes.tell(index, "leave");
            }
        }
    }

    fn advance(&mut self) -> Result<()> {
        let Some(phase) = self.script.phases.get(self.number) else {
            return Ok(());
        };
        match self.stage {
            Stage::Gathering => {
                if self
                    .processes
                    .last_steps(&phase.ranks, |s| s.ranks().is_superset(&phase.ranks))
                    .is_some()
                {
                    let leavers = self.script.leavers(self.number);
                    self.dismiss(&leavers);
                    self.stage = Stage::Parting;
                }
            }
            Stage::Parting => {
                let leavers = self.script.leavers(self.number);
                let gone = leavers.iter().all(|r| self.processes.current(*r).is_none());
                let steps = self
                    .processes
                    .last_steps(&phase.ranks, |s| s.ranks() == phase.ranks);
                if let Some(last) = steps.as_ref().and_then(BTreeSet::last).filter(|_| gone) {
                    self.spans.push(Span {
                        begin: last + 1,
                        change_us: now_us() - self.changed_us,
                    });
                    self.stage = Stage::Running;
                }
            }
            Stage::Running => {
                let begin = self.spans.last().map_or(0, |span| span.begin);
                let alive = self.kill(begin)?;
                let survivors = phase.survivors();
                let steps = self
                    .processes
                    .last_steps(&survivors, |s| s.ranks() == survivors);
                let end = begin + self.script.layer.steps;
                let first = steps.as_ref().and_then(BTreeSet::first);
                if !alive && first.is_some_and(|step| step + 1 >= end) {
                    self.number += 1;
                    if self.number < self.script.phases.len() {
                        self.stage = Stage::Gathering;
                        self.start_newcomers()?;
                    } else {
                        self.stage = Stage::Done;
                        self.dismiss(&survivors);
                    }
                }
            }
            Stage::Done => {}
        }
        Ok(())
    }

    /// Kills whose time has come; whether some victim of the phase is still alive.
    fn kill(&mut self, begin: u64) -> Result<bool> {
        let mut left = false;
        for (index, due) in self.script.deaths.iter().enumerate() {
            if due.phase != self.number {
                continue;
            }
            let Some(life) = self.processes.current(due.rank) else {
                continue;
            };
            left = true;
            let last = self
                .processes
                .record
                .lives
                .get(life)
                .and_then(Life::last_step);
            let Some(at) = self.dying.get_mut(index) else {
                continue;
            };
            if last.is_some_and(|last| last + 1 >= begin + due.after) && at.is_none() {
                *at = Some(Instant::now() + Duration::from_micros(due.delay_us));
            }
            if at.is_some_and(|at| at <= Instant::now()) {
                self.processes.kill(life, index)?;
            }
        }
        Ok(left)
    }

    /// Where every living process was, for a run that did not finish.
    fn standing(&self) -> String {
        let what = match self.stage {
            Stage::Gathering => "is gathering",
            Stage::Parting => "waits for those who leave",
            Stage::Running => "runs",
            Stage::Done => "is the last and all were told to leave",
        };
        let number = (self.number + 1).min(self.script.phases.len());
        let processes = super::super::orchestrate::standing(&self.processes.record);
        format!("phase {number} {what}; {processes}")
    }
}
