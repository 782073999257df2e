//! `cargo xtask test-gpu`: the tests that need GPUs, and how many of them ran.

use crate::cargo::cargo;
use crate::test::{Counts, Outcome, check};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run these test programs in place of building them
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,
    /// Only tests whose names contain this
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

/// Runs them all; whether none failed. Without a GPU they count as skipped.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut commands: Vec<Command> = args.program.iter().map(Command::new).collect();
    if commands.is_empty() {
        let mut command = cargo()?;
        command
            .args(["test", "--release", "--no-fail-fast"])
            .args(["--package", "ep-transport", "--package", "ep-buffer"])
            .args(["--features", "ep-transport/cuda,ep-buffer/cuda"])
            .args(["--test", "gpu", "--test", "cuda", "--"]);
        commands.push(command);
    }
    let (mut counts, mut good) = (Counts::default(), true);
    for command in &mut commands {
        let (outcome, found) = check(command.args(&args.filter))?;
        counts.add(found);
        good &= matches!(outcome, Outcome::Passed);
    }
    let why = super::count().err().map(|why| format!(": {why}"));
    println!(
        "{} ran, {} of them failed, {} skipped{}",
        counts.passed + counts.failed,
        counts.failed,
        counts.skipped,
        why.unwrap_or_default()
    );
    Ok(good)
}
