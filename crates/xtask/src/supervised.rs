//! Runs a program so that it cannot outlive the process that started it.
//!
//! The parent-death signal has to be asked for by the child itself, between fork
//! and exec. Doing that in a process of our own, which then replaces itself,
//! needs no `unsafe` and keeps the process id.

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Process id of the parent that the program must not outlive.
    #[arg(long)]
    parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// A command that runs `program` through this verb, in a process group of its own.
///
/// Spawn it from a thread that lives as long as the program may: the kernel
/// counts the end of the spawning *thread* as the parent's death.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("supervised")
        .arg(format!("--parent={}", std::process::id()))
        .arg("--")
        .arg(program)
        .process_group(0);
    command
}

pub(crate) fn run(args: &Args) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask for the parent-death signal")?;
    // The parent may have died before the signal was asked for.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
        bail!("the parent, process {}, is gone", args.parent);
    }
    let Some((program, rest)) = args.command.split_first() else {
        bail!("no program given");
    };
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", Path::new(program).display()))
}
