//! One run: harm is done, who is gone is replaced, and nobody may hang.

mod harm;

use super::TIME_OUT_MS;
use super::actions::{Action, Harm};
use crate::demo::events::Event;
use crate::demo::process::{Processes, Setup, now_us};
use crate::demo::record::Record;
use crate::demo::store::Meeting;
use anyhow::Result;
use indicatif::ProgressBar;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(5);
/// A step may take three time-outs and wait for a decision (4 s); the rest is what a
/// machine with fewer cores than ranks needs.
pub(crate) const STEP_BOUND_MS: u64 = 3 * TIME_OUT_MS + 4_000 + 5_000;
/// Until all ranks count all others again.
const SETTLE_BOUND_MS: u64 = 60_000;

/// What one run left behind.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) record: Record,
    pub(crate) harms: Vec<Deed>,
    pub(crate) hangs: Vec<String>,
    /// Operations of what the ranks call a step.
    pub(crate) ops_per_step: u64,
}

/// What was done to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed {
    pub(crate) harm: Harm,
    /// Which life; none if it was done to the store.
    pub(crate) victim: Option<usize>,
    pub(crate) begin_us: u64,
    pub(crate) end_us: u64,
}

enum Stage {
    /// Nobody is harmed yet; the ranks were last seen together at this time.
    Quiet(u64),
    /// Waits for the time of an action.
    Before {
        action: usize,
        since_us: u64,
    },
    /// Nobody is harmed any more; `seen_us` as above.
    Last {
        since_us: u64,
        seen_us: u64,
        from: Option<u64>,
    },
    Leaving,
}

struct Drive<'a> {
    ranks: BTreeSet<u32>,
    rng: ChaCha8Rng,
    actions: &'a [Action],
    /// Steps before the first harm and after the last.
    quiet_steps: u64,
    processes: Processes<'a>,
    run: Run,
    stage: Stage,
    /// Ranks to start a new process for, and when.
    due: BTreeMap<u32, u64>,
    /// Frozen lives: when they go on, or with which life's first step.
    frozen: BTreeMap<usize, (u64, Option<usize>)>,
    thawed_us: BTreeMap<usize, u64>,
    meeting: &'a mut Meeting,
    /// When the etcd is started again.
    meeting_due: Option<u64>,
    hung: BTreeSet<usize>,
    over: bool,
}

pub(crate) fn run(
    ranks: u32,
    seed: u64,
    (actions, quiet_steps): (&[Action], u64),
    (setup, meeting): (&Setup, &mut Meeting),
    limit: Duration,
    bar: &ProgressBar,
) -> Result<Run> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX - 1);
    let mut drive = Drive {
        ranks: (0..ranks).collect(),
        rng,
        actions,
        quiet_steps,
        processes: Processes::new(setup),
        run: Run::default(),
        stage: Stage::Quiet(now_us()),
        due: BTreeMap::new(),
        frozen: BTreeMap::new(),
        thawed_us: BTreeMap::new(),
        meeting,
        meeting_due: None,
        hung: BTreeSet::new(),
        over: false,
    };
    for rank in 0..ranks {
        drive.processes.spawn(rank, None, &[])?;
    }
    let deadline = now_us() + limit.as_micros() as u64;
    while drive.processes.any_left() && !drive.over {
        drive.processes.hear(POLL);
        drive.restore()?;
        drive.advance(bar)?;
        drive.watch();
        if now_us() >= deadline {
            let problem = format!("not finished after {} s", limit.as_secs());
            drive.processes.record.problems.push(problem);
            break;
        }
    }
    drive.processes.end();
    drive.run.record = std::mem::take(&mut drive.processes.record);
    Ok(drive.run)
}

impl Drive<'_> {
    /// Starts processes and lets them go on, as it is due; replaces those that failed.
    fn restore(&mut self) -> Result<()> {
        let now = now_us();
        let ready: Vec<u32> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(r, _)| *r)
            .collect();
        for rank in ready {
            self.due.remove(&rank);
            self.processes.spawn(rank, None, &["--join"])?;
        }
        if self.meeting_due.is_some_and(|at| at <= now) {
            self.meeting_due = None;
            self.meeting.restart()?;
        }
        if !matches!(self.stage, Stage::Leaving) {
            for rank in self.ranks.clone() {
                if self.processes.current(rank).is_none() && !self.due.contains_key(&rank) {
                    // It failed; that was noted, and the others go on.
                    self.due.insert(rank, now + 100_000);
                }
            }
        }
        let record = &self.processes.record;
        let served = |life: usize| {
            record
                .lives
                .get(life)
                .is_some_and(|l| l.steps().next().is_some())
        };
        let over: Vec<usize> = self
            .frozen
            .iter()
            .filter(|(_, (until, by))| *until <= now || by.is_some_and(served))
            .map(|(life, _)| *life)
            .collect();
        for life in over {
            self.frozen.remove(&life);
            self.thawed_us.insert(life, now);
            // It may have been killed meanwhile.
            let _ = self.processes.signal(life, Signal::CONT);
            for harm in &mut self.run.harms {
                let stopped = matches!(harm.harm, Harm::Freeze { .. } | Harm::Oust);
                if stopped && harm.victim == Some(life) {
                    harm.end_us = now;
                }
            }
        }
        Ok(())
    }

    /// The last steps of all ranks, if all were begun after `since_us` and are complete.
    fn settled(&self, since_us: u64) -> Option<BTreeSet<u64>> {
        if !self.due.is_empty() || !self.frozen.is_empty() || self.meeting_due.is_some() {
            return None;
        }
        let complete = |step: &crate::demo::events::Step| {
            step.begin_us > since_us && step.ranks() == self.ranks
        };
        self.processes.last_steps(&self.ranks, complete)
    }

    fn advance(&mut self, bar: &ProgressBar) -> Result<()> {
        let now = now_us();
        match self.stage {
            Stage::Quiet(seen_us) => match self.settled(0) {
                None => self.overdue(0, seen_us),
                Some(steps) if steps.first() >= Some(&self.quiet_steps) => self.next(0),
                Some(_) => self.stage = Stage::Quiet(now),
            },
            Stage::Before { action, since_us } => {
                let Some(what) = self.actions.get(action) else {
                    self.stage = Stage::Last {
                        since_us: now,
                        seen_us: now,
                        from: None,
                    };
                    return Ok(());
                };
                if what.settled && self.settled(since_us).is_none() {
                    self.overdue(action, since_us);
                    return Ok(());
                }
                if now < since_us + what.delay_us {
                    return Ok(());
                }
                if self.harm(what.harm)? {
                    bar.set_position(action as u64 + 1);
                    bar.set_message(format!("{:?}", what.harm));
                    self.next(action + 1);
                } else {
                    self.overdue(action, since_us);
                }
            }
            Stage::Last {
                since_us,
                seen_us,
                from,
            } => match self.settled(since_us) {
                None => self.overdue(self.actions.len(), seen_us),
                Some(steps) => {
                    let from = from.or(steps.last().copied());
                    let until = from.map(|step| step + self.quiet_steps);
                    if steps.first().copied() >= until {
                        self.dismiss();
                    } else {
                        self.stage = Stage::Last {
                            since_us,
                            seen_us: now,
                            from,
                        };
                    }
                }
            },
            Stage::Leaving => {}
        }
        Ok(())
    }

    /// Everybody is to leave.
    fn dismiss(&mut self) {
        for rank in self.ranks.clone() {
            if let Some(life) = self.processes.current(rank) {
                self.processes.tell(life, "leave");
            }
        }
        self.stage = Stage::Leaving;
    }

    fn next(&mut self, action: usize) {
        self.stage = Stage::Before {
            action,
            since_us: now_us(),
        };
    }

    /// Ends the run if the group has not come together for too long.
    fn overdue(&mut self, action: usize, since_us: u64) {
        if now_us() < since_us + SETTLE_BOUND_MS * 1_000 {
            return;
        }
        let record = &self.processes.record;
        let standing = self.ranks.iter().map(|rank| {
            let life = self
                .processes
                .current(*rank)
                .and_then(|life| record.lives.get(life));
            match life.and_then(|life| life.steps().next_back()) {
                Some(step) => format!("rank {rank}: step {} with {:?}", step.step, step.answered),
                None => format!("rank {rank}: no step"),
            }
        });
        let standing: Vec<String> = standing.collect();
        self.run.hangs.push(format!(
            "before action {action} the group did not come together within {} s: {}",
            SETTLE_BOUND_MS / 1_000,
            standing.join(", ")
        ));
        self.over = true;
    }

    /// Notes who has been silent for longer than a step may take.
    fn watch(&mut self) {
        let now = now_us();
        for rank in &self.ranks {
            let Some(index) = self.processes.current(*rank) else {
                continue;
            };
            let Some(life) = self.processes.record.lives.get(index) else {
                continue;
            };
            // One that waits to be taken in is silent with good reason.
            if self.frozen.contains_key(&index) || life.steps().next().is_none() {
                continue;
            }
            let heard = life
                .heard
                .iter()
                .rev()
                .map(|(at, _)| *at)
                .next()
                .unwrap_or(0);
            let ended = life
                .heard
                .iter()
                .rev()
                .any(|(_, e)| matches!(e, Event::Summary { .. }));
            let since = heard.max(self.thawed_us.get(&index).copied().unwrap_or(0));
            if now > since + STEP_BOUND_MS * 1_000 && !ended && self.hung.insert(index) {
                self.run.hangs.push(format!(
                    "rank {rank} has said nothing for {STEP_BOUND_MS} ms, after its step {:?}",
                    life.last_step()
                ));
            }
        }
    }
}
