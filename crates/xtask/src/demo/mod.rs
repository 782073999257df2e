//! `cargo xtask demo`: several processes run an MoE layer together, one is killed,
//! the others go on, a new one takes its place; then the account of it.

mod account;
#[cfg(test)]
mod account_tests;
mod checks;
mod deaths;
pub(crate) mod events;
mod orchestrate;
mod phases;
pub(crate) mod plan;
pub(crate) mod process;
mod ranks;
pub(crate) mod record;
mod report;
pub(crate) mod store;
mod timeline;
pub(crate) mod units;

use account::{Account, account};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
pub(crate) use plan::Args;
use plan::Plan;
use process::Setup;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::Meeting;

/// Runs the demo; whether everything was verified.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if let Some(file) = &args.plan {
        return phases::run(args, file);
    }
    let seed = args.seed.unwrap_or_else(plan::seed_from_clock);
    // Bad input is refused before anything is built or started.
    let mut plans = (0..args.repeat)
        .map(|index| Plan::new(args, plan::seed_of_run(seed, index)))
        .collect::<Result<Vec<Plan>>>()?;
    let program = args.meeting.program(args.program.as_ref())?;
    let mut accounts = Vec::new();
    for (index, plan) in plans.drain(..).enumerate() {
        let (account, svg) = run_once(args, &plan, &program, index)?;
        if args.repeat == 1 {
            report::print(&account);
        } else {
            report::print_row(index, &account);
        }
        // Of several runs the first failed one is the one to look at, or the last.
        let failed_before = accounts.iter().any(|a: &Account| !a.verified);
        if let Some(path) = args.svg.as_deref().filter(|_| !failed_before) {
            write(path, &svg)?;
        }
        accounts.push(account);
    }
    let verified = accounts.iter().all(|a| a.verified);
    if args.repeat > 1 {
        let count = accounts.iter().filter(|a| a.verified).count();
        println!("{count} of {} runs verified", accounts.len());
    }
    if let Some(path) = &args.json {
        write(path, &json(&accounts)?)?;
    }
    Ok(verified)
}

fn run_once(args: &Args, plan: &Plan, program: &Path, index: usize) -> Result<(Account, String)> {
    let (_scratch, logs) = logs(args, index)?;
    let meeting = Meeting::at_rank_0(&args.meeting, args.store_port)?;
    let mut arguments = plan.arguments(meeting.address());
    arguments.extend(meeting.arguments());
    let setup = Setup {
        program: program.to_path_buf(),
        arguments,
        logs,
    };
    let bar = progress(plan.steps)?;
    let limit = Duration::from_secs(args.deadline_s);
    let record = orchestrate::run(plan, &setup, meeting.needs_server(), limit, &bar);
    bar.finish_and_clear();
    let record = record?;
    let account = account(plan, &record);
    let svg = timeline::draw(plan, &record, &account);
    Ok((account, svg))
}

fn progress(steps: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::new(steps);
    let style = "{bar:40} step {pos}/{len}  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_message("starting");
    Ok(bar)
}

/// A directory for what the processes print, and what keeps it alive.
fn logs(args: &Args, index: usize) -> Result<(Option<tempfile::TempDir>, PathBuf)> {
    let Some(dir) = &args.keep_logs else {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let path = scratch.path().to_path_buf();
        return Ok((Some(scratch), path));
    };
    let dir = if args.repeat > 1 {
        dir.join(format!("run{index}"))
    } else {
        dir.clone()
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok((None, dir))
}

fn json(accounts: &[Account]) -> Result<String> {
    let text = match accounts {
        [one] => serde_json::to_string_pretty(one),
        several => serde_json::to_string_pretty(&serde_json::json!({
            "verified": several.iter().all(|a| a.verified),
            "runs": several,
        })),
    };
    text.context("the account does not fit into JSON")
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
