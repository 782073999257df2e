//! `cargo xtask pcap-check`: what the software NIC sends, as Wireshark's dissector reads it.
//!
//! Two devices exchange every operation over loopback while `dumpcap` captures, over IPv4, and over
//! IPv6 in a network of its own. `tshark` then has to decode every packet as RoCE v2, and find in it
//! what the sending device wrote down: every header field, in the same order. The invariant CRC,
//! which `tshark` shows and does not check, is computed anew from the captured frame.
//!
//! Masked atomics and packets of InfiniBand ports are not in it: the opcodes of the former, and how
//! the latter are carried over UDP, are the software NIC's own, which no dissector knows.

mod capture;
mod compare;
mod frames;
mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cargo::build_example;
use crate::deadline::{output_within, wait_within};
use crate::supervised;
use compare::{Account, NAMES};

/// How long the exchange may take.
const RUN: Duration = Duration::from_secs(120);
/// How long all of it may take over IPv6, the example being there.
const WHOLE: Duration = Duration::from_secs(400);
/// Addresses of the devices over IPv6. Loopback has one only, where nobody adds more.
const IPV6: [&str; 2] = ["fd00:4791::1", "fd00:4791::2"];

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Keep the capture and both readings of it in this directory
    #[arg(long)]
    keep: Option<std::path::PathBuf>,
    /// In a network of one's own: what this verb starts itself with
    #[arg(long, hide = true)]
    inside: bool,
}

/// What keeps this check from being made here over IPv4 without installing anything.
pub(crate) fn missing() -> Option<String> {
    if !tools::are_present() {
        return Some("no tshark".to_owned());
    }
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "only root may capture".to_owned())
}

/// What keeps it from being made here over IPv6.
pub(crate) fn missing_ipv6() -> Option<String> {
    missing().or_else(|| {
        let add = format!("ip link set lo up && ip -6 addr add {} dev lo", IPV6[0]);
        let mut command = Command::new("unshare");
        let tried = output_within(command.args(["--net", "sh", "-c", &add]), RUN);
        let why = match tried {
            Ok(output) if output.status.success() => return None,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("{error:#}"),
        };
        Some(format!("no network of its own with IPv6: {why}"))
    })
}

/// Captures, dissects, compares and prints, over IPv4 and IPv6; whether nothing differs.
///
/// # Errors
/// A tool is missing and cannot be installed, capturing is not allowed, or the exchange fails.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if args.inside {
        return inside(args);
    }
    let good = over_ipv4(args)?;
    Ok(over_ipv6(args)? && good)
}

/// The same over IPv4 alone.
pub(crate) fn over_ipv4(args: &Args) -> Result<bool> {
    tools::ensure_present()?;
    println!("over IPv4");
    in_directory(args, |dir| exchange(&dir.join("ipv4"), &[]))
}

/// What the namespace is made for.
fn inside(args: &Args) -> Result<bool> {
    ip(&["link", "set", "lo", "up"])?;
    for address in IPV6 {
        ip(&["-6", "addr", "add", address, "dev", "lo", "nodad"])?;
    }
    println!("over IPv6");
    in_directory(args, |dir| exchange(&dir.join("ipv6"), &IPV6))
}

fn in_directory(args: &Args, run: impl FnOnce(&Path) -> Result<bool>) -> Result<bool> {
    let temporary = tempfile::tempdir().context("cannot make a temporary directory")?;
    run(args.keep.as_deref().unwrap_or(temporary.path()))
}

/// Over IPv6 alone: runs this verb again in a network that ends with it.
pub(crate) fn over_ipv6(args: &Args) -> Result<bool> {
    tools::ensure_present()?;
    let mut command = supervised::command(Path::new("unshare"));
    command
        .arg("--net")
        // Not by its name: another build of it may be there by now.
        .arg(format!("/proc/{}/exe", std::process::id()))
        .args(["pcap-check", "--inside"]);
    if let Some(dir) = &args.keep {
        command.arg("--keep").arg(dir);
    }
    let mut child = command.spawn().context("cannot run unshare")?;
    let status = wait_within(&mut child, WHOLE).context("the exchange over IPv6")?;
    // As shells have it: what was to be run could not be.
    ensure!(
        !matches!(status.code(), None | Some(126 | 127)),
        "unshare: {status}"
    );
    Ok(status.success())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = output_within(Command::new("ip").args(arguments), RUN)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}", complaint.trim());
    Ok(())
}

/// Captures an exchange between devices on these addresses, or on two of IPv4's, and compares.
fn exchange(dir: &Path, addresses: &[&str]) -> Result<bool> {
    let example = build_example("soft-hca", "exchange", &[])?;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let (pcap, log) = (dir.join("run.pcap"), dir.join("run.log"));

    let capture = capture::start(&pcap)?;
    let output = output_within(Command::new(example).arg(&log).args(addresses), RUN)?;
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
