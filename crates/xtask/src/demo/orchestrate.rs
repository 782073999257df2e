//! One run: start the ranks, kill at the right moment, start the replacement.

use super::plan::Plan;
use super::process::{Processes, Setup, now_us};
use super::record::{Life, Record};
use anyhow::Result;
use indicatif::ProgressBar;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// After one process failed, how long the others may take to say what they saw.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where one of the plan's kills stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Waiting,
    /// The victim has begun its step; it dies at this time.
    Due(Instant),
    Dead(Instant),
    Replaced,
    Over,
}

/// Runs `plan` to its end or to `limit`; rank 0 serves the store if there is none. What went wrong is in the record; an
/// error means that processes could not be started at all.
pub(crate) fn run(
    plan: &Plan,
    setup: &Setup,
    serve_store: bool,
    limit: Duration,
    bar: &ProgressBar,
) -> Result<Record> {
    let mut processes = Processes::new(setup);
    for rank in 0..plan.ranks {
        let flags: &[&str] = match rank {
            0 if serve_store => &["--serve-store"],
            _ => &[],
        };
        processes.spawn(rank, None, flags)?;
    }
    let mut deadline = Instant::now() + limit;
    let mut failed = false;
    let mut stages = vec![Stage::Waiting; plan.kills.len()];
    while processes.any_left() {
        processes.hear(POLL);
        for (kill, stage) in stages.iter_mut().enumerate() {
            *stage = advance(plan, &mut processes, kill, *stage, bar)?;
        }
        let done = processes.record.lives.first().and_then(Life::last_step);
        bar.set_position(done.map_or(0, |step| step + 1));
        if !failed && !processes.record.problems.is_empty() {
            failed = true;
            deadline = deadline.min(Instant::now() + LAST_WORDS);
        }
        if Instant::now() >= deadline {
            if !failed {
                let standing = standing(&processes.record);
                let problem = format!("not finished after {} s: {standing}", limit.as_secs());
                processes.record.problems.push(problem);
            }
            break;
        }
    }
    processes.end();
    Ok(std::mem::take(&mut processes.record))
}

fn advance(
    plan: &Plan,
    processes: &mut Processes<'_>,
    index: usize,
    stage: Stage,
    bar: &ProgressBar,
) -> Result<Stage> {
    let Some(kill) = plan.kills.get(index) else {
        return Ok(Stage::Over);
    };
    Ok(match stage {
        Stage::Waiting => {
            let victim = processes
                .current(kill.rank)
                .and_then(|life| processes.record.lives.get(life));
            let begun = victim.and_then(Life::last_step);
            if begun.is_some_and(|step| step + 1 >= kill.step) {
                Stage::Due(Instant::now() + Duration::from_micros(kill.delay_us))
            } else {
                Stage::Waiting
            }
        }
        Stage::Due(at) if Instant::now() < at => stage,
        Stage::Due(_) => match processes.current(kill.rank) {
            Some(life) => {
                processes.kill(life, index)?;
                bar.set_message(format!("rank {} killed", kill.rank));
                Stage::Dead(Instant::now())
            }
            None => Stage::Over,
        },
        Stage::Dead(_) if !plan.rejoin => Stage::Over,
        Stage::Dead(at) => {
            let waited = at.elapsed() >= Duration::from_millis(plan.time_out_ms);
            let noticed = processes.record.victim(index).is_some_and(|(_, died)| {
                let mut survivors = processes.record.survivors(index);
                survivors.all(|life| life.noticed_us(kill.rank, died).is_some())
            });
            if noticed || waited {
                processes.spawn(kill.rank, Some(index), &["--join"])?;
                bar.set_message(format!("rank {} started anew", kill.rank));
                Stage::Replaced
            } else {
                stage
            }
        }
        Stage::Replaced => {
            let back = processes.record.replacement(index);
            if back.is_some_and(|life| life.steps().next().is_some()) {
                bar.set_message(format!("rank {} is back", kill.rank));
                Stage::Over
            } else {
                stage
            }
        }
        Stage::Over => stage,
    })
}

/// Where every living process was, for a run that did not finish.
pub(super) fn standing(record: &Record) -> String {
    let now = now_us();
    let living = record.lives.iter().filter(|life| life.alive_at(now));
    let parts: Vec<String> = living
        .map(|life| match life.last_step() {
            Some(step) => format!("rank {} had done step {step}", life.rank),
            None if life.ready_us().is_some() => format!("rank {} was ready", life.rank),
            None => format!("rank {} was not ready", life.rank),
        })
        .collect();
    parts.join(", ")
}
