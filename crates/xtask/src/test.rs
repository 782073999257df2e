//! `cargo xtask test`: everything that must hold of the repository.

use crate::cargo::{cargo, root};
use crate::codegen::{self, Output};
use crate::demo::store::StoreKind;
use crate::{c_client, chaos, features, fuzz, kernels, msrv, pcap_check, prm_check};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Crates that other projects use.
const LIBRARIES: [&str; 5] = [
    "mlx5gda-sys",
    "memheap",
    "soft-hca",
    "ep-transport",
    "ep-buffer",
];

/// Enough to run through what earlier versions had wrong.
const FUZZ_SECONDS: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts (see the output for their names)
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
}

/// Tests run by one part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// What a part found, and the tests that it counted.
pub(crate) type Found = (Outcome, Counts);
type Part = (&'static str, fn() -> Result<Found>);

const PARTS: [Part; 21] = [
    ("format", format),
    ("clippy", clippy),
    ("cust", cust),
    ("tests", tests),
    ("doc-tests", doc_tests),
    ("loom", loom),
    ("fuzz", fuzzing),
    ("docs", docs),
    ("downstream", downstream),
    ("package", package),
    ("c-client", c_clients),
    ("bindings", bindings),
    ("header", header),
    ("kernel-header", kernel_header),
    ("kernels", kernels),
    ("prm", prm),
    ("pcap", pcap),
    ("pcap-ipv6", pcap_ipv6),
    ("chaos", chaos),
    ("chaos-etcd", chaos_etcd),
    ("msrv", minimum_rust),
];

/// Runs all parts, also after one has failed; whether all passed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    for name in &args.only {
        let known = PARTS.iter().any(|(part, _)| part == name);
        anyhow::ensure!(known, "--only {name}: there is no such part");
    }
    let mut total = Counts::default();
    let mut summary = Vec::new();
    for (name, part) in PARTS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        println!("== {name}");
        let begun = Instant::now();
        let (outcome, mut counts) =
            part().unwrap_or_else(|e| (Outcome::Failed(format!("{e:#}")), Counts::default()));
        let what = match outcome {
            Outcome::Passed if counts == Counts::default() => "passed".to_owned(),
            Outcome::Passed => format!("{} passed", counts.passed),
            Outcome::Failed(why) => {
                // A part may fail with no test of its own failing: a lint, a build.
                counts.failed = counts.failed.max(1);
                format!("FAILED: {why}")
            }
            Outcome::Skipped(why) => {
                counts.skipped += 1;
                format!("skipped: {why}")
            }
        };
        summary.push(line(name, begun.elapsed(), &what));
        total.add(counts);
    }
    println!("\n{}", summary.join("\n"));
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    Ok(total.failed == 0)
}

fn line(name: &str, took: Duration, what: &str) -> String {
    format!("{name:<12}{:>7.1} s  {what}", took.as_secs_f64())
}

fn format() -> Result<Found> {
    check(cargo()?.args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<Found> {
    check(
        cargo()?
            .args(["clippy", "--quiet", "--all-targets"])
            .args(features::arguments()?)
            .args(["--", "-D", "warnings"]),
    )
}

/// What programs that link the driver use; it is not run.
fn cust() -> Result<Found> {
    check(&mut features::check_cust()?)
}

fn tests() -> Result<Found> {
    let kinds = ["--lib", "--bins", "--tests", "--examples"];
    let (outcome, mut counts) = check(
        cargo()?
            .args(["test", "--no-fail-fast"])
            .args(features::arguments()?)
            .args(kinds),
    )?;
    if let Some(why) = features::missing()? {
        println!("skipped: {why}");
        counts.skipped += 1;
    }
    Ok((outcome, counts))
}

fn doc_tests() -> Result<Found> {
    check(
        cargo()?
            .args(["test", "--no-fail-fast", "--doc"])
            .args(features::arguments()?),
    )
}

/// Tests of every interleaving, which are built with replacements of the atomics.
fn loom() -> Result<Found> {
    let target = msrv::metadata()?.target_directory.join("loom");
    let (mut outcome, mut counts) = (Outcome::Passed, Counts::default());
    let transport = "--package=ep-transport --no-default-features --lib loom";
    let heap = "--package=memheap --features=sync --test=loom";
    for tests in [transport, heap] {
        let (found, number) = check(
            cargo()?
                .arg("test")
                .arg("--target-dir")
                .arg(&target)
                .args(tests.split(' '))
                .env("RUSTFLAGS", "--cfg loom"),
        )?;
        counts.add(number);
        if !matches!(found, Outcome::Passed) {
            outcome = found;
        }
    }
    Ok((outcome, counts))
}

/// A short run of each fuzz target.
fn fuzzing() -> Result<Found> {
    if !fuzz::has_compiler() {
        let why = "no C++ compiler for libFuzzer".to_owned();
        return Ok((Outcome::Skipped(why), Counts::default()));
    }
    fuzz::all(FUZZ_SECONDS)?;
    let counts = Counts {
        passed: fuzz::count(),
        ..Counts::default()
    };
    Ok((Outcome::Passed, counts))
}

fn docs() -> Result<Found> {
    check(
        cargo()?
            .args(["doc", "--quiet", "--no-deps"])
            .args(features::arguments()?)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// A crate outside of the workspace uses the libraries as another project would.
fn downstream() -> Result<Found> {
    let manifest = root()?.join("tests/downstream/Cargo.toml");
    let target = msrv::metadata()?.target_directory.join("downstream");
    let (outcome, mut counts) = check(
        cargo()?
            .args(["run", "--quiet", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(target),
    )?;
    counts.passed += u64::from(matches!(outcome, Outcome::Passed));
    Ok((outcome, counts))
}

/// Whether each library can be packaged; built from its package is what `tests` built already.
fn package() -> Result<Found> {
    let mut command = cargo()?;
    command.args(["package", "--quiet", "--no-verify", "--allow-dirty"]);
    for library in LIBRARIES {
        command.args(["--package", library]);
    }
    check(&mut command)
}

/// C and C++ programs run on the software NIC.
fn c_clients() -> Result<Found> {
    if let Some(why) = c_client::missing() {
        return Ok((Outcome::Skipped(why), Counts::default()));
    }
    let counts = Counts {
        passed: c_client::run()?,
        ..Counts::default()
    };
    Ok((Outcome::Passed, counts))
}

/// Our layouts against the C headers of others.
fn prm() -> Result<Found> {
    let outcome = match prm_check::Sources::find(None) {
        Err(why) => Outcome::Skipped(format!("{why:#}")),
        Ok(sources) if prm_check::check(&sources)? => Outcome::Passed,
        Ok(_) => Outcome::Failed("layouts differ".to_owned()),
    };
    Ok((outcome, Counts::default()))
}

/// The software NIC's packets, as another program reads them.
fn pcap() -> Result<Found> {
    packets(pcap_check::missing(), pcap_check::over_ipv4)
}

/// The same in a network with IPv6, which not every machine lets one make.
fn pcap_ipv6() -> Result<Found> {
    packets(pcap_check::missing_ipv6(), pcap_check::over_ipv6)
}

fn packets(
    missing: Option<String>,
    compare: fn(&pcap_check::Args) -> Result<bool>,
) -> Result<Found> {
    let outcome = match missing {
        Some(why) => Outcome::Skipped(why),
        None if compare(&pcap_check::Args::default())? => Outcome::Passed,
        None => Outcome::Failed("packets differ".to_owned()),
    };
    Ok((outcome, Counts::default()))
}

/// Processes killed, frozen and cut off at random; a short run.
fn chaos() -> Result<Found> {
    harm(StoreKind::Tcp)
}

/// The same on an etcd that is killed too.
fn chaos_etcd() -> Result<Found> {
    harm(StoreKind::Etcd)
}

fn harm(meeting: StoreKind) -> Result<Found> {
    let args = chaos::Args::short(meeting);
    let outcome = match args.missing()? {
        Some(why) => Outcome::Skipped(why),
        None if chaos::run(&args)? => Outcome::Passed,
        None => Outcome::Failed("see above".to_owned()),
    };
    Ok((outcome, Counts::default()))
}

/// Whether the checked-in bindings are what the installed headers give.
fn bindings() -> Result<Found> {
    generated(Output::Bindings)
}

/// Whether the checked-in C header is what the sources give.
fn header() -> Result<Found> {
    generated(Output::Header)
}

/// Whether the header of the kernels is what the sources give.
fn kernel_header() -> Result<Found> {
    generated(Output::KernelHeader)
}

/// Whether the checked-in kernels are what the sources were compiled to.
fn kernels() -> Result<Found> {
    kernels::check_checked_in()?;
    Ok((Outcome::Passed, Counts::default()))
}

fn generated(output: Output) -> Result<Found> {
    let outcome = match output.hindrance() {
        Some(why) => Outcome::Skipped(why),
        None if codegen::run(output, true)? => Outcome::Passed,
        None => Outcome::Failed("out of date".to_owned()),
    };
    Ok((outcome, Counts::default()))
}

/// Whether every dependency says that it builds with our oldest Rust.
fn minimum_rust() -> Result<Found> {
    let too_new = msrv::too_new(&msrv::metadata()?)?;
    let outcome = if too_new.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(too_new.join(", "))
    };
    Ok((outcome, Counts::default()))
}

/// Runs a command, shows what it prints, and counts the tests that it reports.
pub(crate) fn check(command: &mut Command) -> Result<Found> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what cargo prints")?;
            println!("{line}");
            counts.add(counted(&line).unwrap_or_default());
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    let outcome = match (status.success(), counts.failed) {
        (true, 0) => Outcome::Passed,
        (_, 0) => Outcome::Failed(status.to_string()),
        (_, failed) => Outcome::Failed(format!("{failed} tests")),
    };
    Ok((outcome, counts))
}

/// Reads `test result: ok. 4 passed; 0 failed; 1 ignored; ...`.
fn counted(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        match what {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "ignored" => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.50s";
        let counts = Counts {
            passed: 12,
            failed: 3,
            skipped: 1,
        };
        assert_eq!(counted(line), Some(counts));
        assert_eq!(counted("test result of another kind"), None);
        assert_eq!(counted("test a::b ... ok"), None);
    }

    #[test]
    fn a_failing_command_is_a_failed_part() -> Result<()> {
        let (outcome, _) = check(Command::new("sh").args(["-c", "exit 3"]))?;
        assert!(matches!(outcome, Outcome::Failed(why) if why.contains('3')));
        let result = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; x'";
        let (outcome, counts) = check(Command::new("sh").args(["-c", result]))?;
        assert!(matches!(outcome, Outcome::Failed(why) if why == "2 tests"));
        assert_eq!((counts.passed, counts.failed), (1, 2));
        Ok(())
    }
}
