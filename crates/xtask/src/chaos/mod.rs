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
use account::account;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use ep_transport::store::TcpStoreServer;
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
    json: Option<PathBuf>,
    /// Keep what every process printed in this directory
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Run this program as the ranks' process in place of building `moe_layer`
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Args {
    /// A run short enough for a test of everything.
    pub(crate) fn short() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        Alone::parse_from(["chaos", "--seed=1", "--quiet-steps=100", "--deadline-s=120"]).args
    }
}

/// The layer that the ranks run.
fn layer(args: &Args, seed: u64) -> Result<Plan> {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        args: plan::Args,
    }
    let mut shape = Defaults::parse_from(["chaos"]).args;
    (shape.ranks, shape.tokens, shape.path) = (args.ranks, args.tokens, args.path);
    shape.time_out_ms = TIME_OUT_MS;
    shape.kill = vec![KillArg::Nobody];
    Plan::new(&shape, seed)
}

/// Runs it; whether everything was verified and nothing hung.
pub(crate) fn run(args: &Args) -> Result<bool> {
    ensure!(
        args.ranks >= 3,
        "--ranks {}: at least 3, so that two are left when one is killed",
        args.ranks
    );
    let seed = args.seed.unwrap_or_else(plan::seed_from_clock);
    let layer = layer(args, seed)?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => crate::cargo::build_example("ep-buffer", "moe_layer")?,
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let logs = match &args.keep_logs {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            dir.clone()
        }
        None => scratch.path().to_path_buf(),
    };
    let server = TcpStoreServer::bind("127.0.0.1:0")?;
    let mut arguments = layer.arguments(&server.address().to_string());
    arguments.push(format!("--lease-ms={LEASE_MS}"));
    arguments.push("--orders".to_owned());
    let setup = Setup {
        program,
        logs,
        arguments,
    };
    let actions = actions::draw(args, seed);
    let bar = ProgressBar::new(actions.len() as u64);
    let style = "{bar:40} {pos}/{len}  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    let limit = Duration::from_secs(args.deadline_s);
    let run = drive::run(
        args.ranks,
        seed,
        (&actions, args.quiet_steps),
        &setup,
        limit,
        &bar,
    );
    bar.finish_and_clear();
    let account = account(args.ranks, seed, &run?);
    print!("{}", report::text(&account));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&account)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(account.good)
}
