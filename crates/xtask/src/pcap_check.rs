//! `cargo xtask pcap-check`: what the software NIC sends, as Wireshark's dissector reads it.
//!
//! Two devices exchange every operation over loopback while `dumpcap` captures. `tshark` then has
//! to decode every packet as RoCE v2, and find in it what the sending device wrote down: every
//! header field, in the same order. The invariant CRC, which `tshark` shows and does not check, is
//! computed anew from the captured frame.

mod capture;
mod compare;
mod frames;
mod tools;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cargo::build_example;
use crate::deadline::output_within;
use compare::{Account, NAMES};

/// How long the exchange may take.
const RUN: Duration = Duration::from_secs(120);

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Keep the capture and both readings of it in this directory
    #[arg(long)]
    keep: Option<std::path::PathBuf>,
}

/// What keeps this check from being made here without installing anything.
pub(crate) fn missing() -> Option<String> {
    if !tools::are_present() {
        return Some("no tshark".to_owned());
    }
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "only root may capture".to_owned())
}

/// Captures, dissects, compares and prints; whether nothing differs.
///
/// # Errors
/// A tool is missing and cannot be installed, capturing is not allowed, or the exchange fails.
pub(crate) fn run(args: &Args) -> Result<bool> {
    tools::ensure_present()?;
    let example = build_example("soft-hca", "exchange", &[])?;
    let temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
    let dir = args.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let (pcap, log) = (dir.join("run.pcap"), dir.join("run.log"));

    let capture = capture::start(&pcap)?;
    let output = output_within(Command::new(example).arg(&log), RUN)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the exchange failed: {complaint}");
    let logged = std::fs::read_to_string(&log).context("what the devices wrote down")?;
    let lines: Vec<_> = logged.lines().collect();
    capture.finish(lines.len())?;

    let rows = tools::dissect(&pcap)?;
    std::fs::write(dir.join("run.tsv"), &rows)?;
    let frames = frames::read(&pcap)?;
    let account = compare::compare(&lines, &rows, &frames);
    print(&account);
    Ok(account.differences.is_empty())
}

fn print(account: &Account) {
    println!("{:<22}{:>8}", "operation", "packets");
    for (code, count) in &account.opcodes {
        let name = NAMES.get(usize::from(*code)).copied().unwrap_or("unknown");
        println!("{name:<22}{count:>8}");
    }
    print_answers(&account.syndromes);
    for difference in account.differences.iter().take(20) {
        println!("{difference}");
    }
    println!(
        "{} packets of {} devices decoded as RoCE v2, {} facts compared, {} invariant CRCs computed, {} differences",
        account.packets,
        account.senders,
        account.facts,
        account.crcs,
        account.differences.len()
    );
}

fn print_answers(syndromes: &BTreeMap<u8, u64>) {
    let mut kinds = BTreeMap::new();
    for (syndrome, count) in syndromes {
        *kinds.entry(compare::answer(*syndrome)).or_insert(0) += count;
    }
    for (name, count) in kinds {
        println!("  of answers: {name:<10}{count:>8}");
    }
}
