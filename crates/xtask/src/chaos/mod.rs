//! `cargo xtask chaos`: processes are killed, frozen and cut off at random points while
//! they run the layer, every step of which is checked; then the account of it.

mod account;
#[cfg(test)]
mod account_tests;
mod actions;
mod drive;
mod gaps;
mod report;

use crate::demo::plan::{self, DataPath, KillArg, Plan};
use crate::demo::process::Setup;
use crate::demo::store::{Meeting, StoreArgs, StoreKind};
use crate::features;
use account::account;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::time::Duration;

/// How long a step waits for a peer that gives no sign of life.
const TIME_OUT_MS: u64 = 1_000;
/// How long the store waits for a process that gives no sign of life.
const LEASE_MS: u64 = 2_000;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Processes in the group
    #[arg(long, default_value_t = 4)]
    ranks: u32,
    /// How many processes get SIGKILL; a new one takes the place of each
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// How many are stopped for a while; half as many as killed by default. A third of
    /// them find a new process in their place when they go on
    #[arg(long)]
    freezes: Option<u32>,
    /// How often a software NIC loses packets, has its link down, or fails a command
    /// for a while; each half as often as there are kills by default
    #[arg(long)]
    faults: Option<u32>,
    /// How often the etcd is killed and started again; half as often as there are kills
    /// by default
    #[arg(long)]
    etcd_restarts: Option<u32>,
    #[command(flatten)]
    meeting: StoreArgs,
    /// Undisturbed steps before the first harm, and as many after the last; what is
    /// between two harms, when all ranks are there again, is measured with them
    #[arg(long, default_value_t = 1000)]
    quiet_steps: u64,
    /// Seed of everything that happens by chance; from the clock by default
    #[arg(long)]
    seed: Option<u64>,
    /// How data travels: through queue pairs, or through shared memory
    #[arg(long, value_enum, default_value_t = DataPath::Rdma)]
    path: DataPath,
    /// Tokens of each rank and step
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// End the run, as failed, after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    deadline_s: u64,
    /// Write the account here, for machines
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep what every process printed in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
    /// Run this program as the ranks' process in place of building `moe_layer`
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Args {
    /// A run short enough for a test of everything.
    pub(crate) fn short(meeting: StoreKind) -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let flags = [
            "chaos",
            "--seed=1",
            "--quiet-steps=100",
            "--deadline-s=120",
            "--secret",
        ];
        let mut args = Alone::parse_from(flags).args;
        args.meeting.store = meeting;
        args
    }

    /// Processes are killed, and no other harm is done.
    pub(crate) fn only_kills(ranks: u32, kills: u32, tokens: u32) -> Self {
        let mut args = Self::short(StoreKind::Tcp);
        (args.ranks, args.kills, args.tokens) = (ranks, kills, tokens);
        (args.freezes, args.faults) = (Some(0), Some(0));
        (args.path, args.deadline_s) = (DataPath::Window, 1800);
        args
    }

    /// Why this machine cannot run it, if it cannot.
    pub(crate) fn missing(&self) -> Result<Option<String>> {
        if let Some(what) = self.meeting.missing() {
            return Ok(Some(what.to_owned()));
        }
        match self.meeting.store {
            StoreKind::Etcd => features::missing(),
            StoreKind::Tcp => Ok(None),
        }
    }
}

/// The layer that the ranks run.
pub(crate) fn layer(args: &Args, seed: u64) -> Result<Plan> {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        args: plan::Args,
    }
    let mut shape = Defaults::parse_from(["chaos"]).args;
    (shape.ranks, shape.tokens, shape.path) = (args.ranks, args.tokens, args.path);
    shape.time_out_ms = TIME_OUT_MS;
    shape.kill = vec![KillArg::Nobody];
    shape.meeting = args.meeting.clone();
    let mut layer = Plan::new(&shape, seed)?;
    layer.lease_ms = LEASE_MS;
    Ok(layer)
}

/// What is run, if it is not the layer on the host.
pub(crate) struct Scenario {
    pub(crate) args: Args,
    pub(crate) seed: u64,
    pub(crate) layer: Plan,
    pub(crate) program: PathBuf,
    /// What every process is told besides the layer.
    pub(crate) arguments: Vec<String>,
    /// Operations of what the ranks call a step.
    pub(crate) ops_per_step: u64,
}

impl Scenario {
    /// The layer on the host.
    fn new(args: &Args) -> Result<Self> {
        let seed = args.seed.unwrap_or_else(plan::seed_from_clock);
        Ok(Self {
            args: args.clone(),
            seed,
            layer: layer(args, seed)?,
            program: args.meeting.program(args.program.as_ref())?,
            arguments: Vec::new(),
            ops_per_step: 2,
        })
    }
}

/// Runs it; whether everything was verified and nothing hung.
pub(crate) fn run(args: &Args) -> Result<bool> {
    ensure!(
        args.ranks >= 3,
        "--ranks {}: at least 3, so that two are left when one is killed",
        args.ranks
    );
    play(&Scenario::new(args)?)
}

/// The same for any ranks.
pub(crate) fn play(scenario: &Scenario) -> Result<bool> {
    let Scenario { args, seed, .. } = scenario;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let logs = match &args.keep_logs {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            dir.clone()
        }
        None => scratch.path().to_path_buf(),
    };
    let mut meeting = Meeting::serve(&args.meeting, None)?;
    let mut arguments = scenario.arguments.clone();
    arguments.extend(scenario.layer.arguments(meeting.address()));
    arguments.extend(meeting.arguments());
    arguments.push("--orders".to_owned());
    let setup = Setup {
        program: scenario.program.clone(),
        logs,
        arguments,
    };
    let actions = actions::draw(args, *seed);
    let bar = ProgressBar::new(actions.len() as u64);
    let style = "{bar:40} {pos}/{len}  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    let limit = Duration::from_secs(args.deadline_s);
    let run = drive::run(
        args.ranks,
        *seed,
        (&actions, args.quiet_steps),
        (&setup, &mut meeting),
        limit,
        &bar,
    );
    bar.finish_and_clear();
    let mut run = run?;
    run.ops_per_step = scenario.ops_per_step;
    let account = account(args.ranks, *seed, &run);
    print!("{}", report::text(&account));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&account)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(account.good)
}
