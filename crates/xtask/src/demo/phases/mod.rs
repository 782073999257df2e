//! `cargo xtask demo --plan FILE`: ranks come, leave and die as a file says.
//!
//! The file is a JSON array of phases, each an array of the ranks that take part in
//! it. A rank that is missing from the next phase leaves on purpose, after those that
//! are new there have come in; a negative number is a rank that gets SIGKILL in the
//! middle of the phase (`-0` for rank 0). The rendezvous store is served from here, so
//! that any rank may go.

mod account;
#[cfg(test)]
mod account_tests;
mod drive;
mod file;
mod report;

use super::plan::{Args, KillArg, Plan};
use super::process::Setup;
use super::store::Meeting;
use super::{logs, plan, progress, write};
use anyhow::{Context, Result, ensure};
use file::Phase;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// One run, every choice made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Script {
    /// The layer, for as many ranks as the capacity is.
    #[serde(flatten)]
    layer: Plan,
    #[serde(rename = "plan")]
    phases: Vec<Phase>,
    /// In the order of the phases.
    deaths: Vec<Due>,
}

/// A death that the file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Due {
    phase: usize,
    rank: u32,
    /// Steps of the phase before the one in which it dies.
    after: u64,
    /// How far into the step.
    delay_us: u64,
}

impl Script {
    fn new(args: &Args, phases: Vec<Phase>, seed: u64) -> Result<Self> {
        let ranks = phases.iter().flat_map(|phase| &phase.ranks);
        let mut shape = args.clone();
        shape.ranks = ranks.max().map_or(0, |rank| rank + 1);
        shape.kill = vec![KillArg::Nobody];
        let layer = Plan::new(&shape, seed)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut deaths = Vec::new();
        for (number, phase) in phases.iter().enumerate() {
            for rank in &phase.killed {
                ensure!(
                    layer.steps >= 2,
                    "--steps {}: phase {} has no step before and after the death of rank {rank}: at least 2",
                    layer.steps,
                    number + 1
                );
                let half = (layer.steps / 2).max(2);
                deaths.push(Due {
                    phase: number,
                    rank: *rank,
                    after: rng.random_range(1..half),
                    delay_us: rng.random_range(0..3_000),
                });
            }
        }
        Ok(Self {
            layer,
            phases,
            deaths,
        })
    }

    fn capacity(&self) -> u32 {
        self.layer.ranks
    }

    /// Who takes part in phase `number` and not in the one before.
    fn newcomers(&self, number: usize) -> BTreeSet<u32> {
        let Some(phase) = self.phases.get(number) else {
            return BTreeSet::new();
        };
        let before = number.checked_sub(1).and_then(|n| self.phases.get(n));
        let stayed = before.map_or_else(BTreeSet::new, Phase::survivors);
        phase.ranks.difference(&stayed).copied().collect()
    }

    /// Who lived through the phase before `number` and is not in it.
    fn leavers(&self, number: usize) -> BTreeSet<u32> {
        let before = number.checked_sub(1).and_then(|n| self.phases.get(n));
        let lived = before.map_or_else(BTreeSet::new, Phase::survivors);
        match self.phases.get(number) {
            Some(phase) => lived.difference(&phase.ranks).copied().collect(),
            None => lived,
        }
    }

    fn arguments(&self, store: &str) -> Vec<String> {
        let first = self.phases.first().into_iter().flat_map(|p| &p.ranks);
        let initial: Vec<String> = first.map(u32::to_string).collect();
        let mut arguments = self.layer.arguments(store);
        arguments.push(format!("--initial={}", initial.join(",")));
        arguments.push("--orders".to_owned());
        arguments
    }
}

/// Runs the phases of `file`; whether everything was verified.
pub(crate) fn run(args: &Args, file: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the plan {}", file.display()))?;
    let phases = file::parse(&text).with_context(|| format!("the plan {}", file.display()))?;
    let seed = args.seed.unwrap_or_else(plan::seed_from_clock);
    let script = Script::new(args, phases, seed)?;
    let program = args.meeting.program(args.program.as_ref())?;
    let (_scratch, logs) = logs(args, 0)?;
    let meeting = Meeting::serve(&args.meeting, args.store_port)?;
    let mut arguments = script.arguments(meeting.address());
    arguments.extend(meeting.arguments());
    let setup = Setup {
        program,
        logs,
        arguments,
    };
    let bar = progress(script.layer.steps * script.phases.len() as u64)?;
    let limit = Duration::from_secs(args.deadline_s);
    let run = drive::run(&script, &setup, limit, &bar);
    bar.finish_and_clear();
    let account = account::account(&script, &run?);
    report::print(&account);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&account);
        write(path, &text.context("the account does not fit into JSON")?)?;
    }
    Ok(account.verified)
}
