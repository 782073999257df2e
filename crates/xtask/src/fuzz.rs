//! `cargo xtask fuzz`: runs the fuzz targets for a while, on the ordinary compiler.
//!
//! `cargo fuzz` wants a nightly compiler for its sanitizers. These targets have no
//! unsafe code of their own to watch, so coverage alone guides them, and the flags
//! for that are stable.

use crate::cargo::{cargo, root};
use crate::msrv;
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Packages with fuzz targets, and their targets.
const TARGETS: [(&str, &str); 5] = [
    ("crates/memheap/fuzz", "operations"),
    ("crates/soft-hca/fuzz", "packets"),
    ("crates/soft-hca/fuzz", "commands"),
    ("crates/ep-transport/fuzz", "store_frames"),
    ("crates/ep-transport/fuzz", "records"),
];

/// Has every edge of the control flow counted, where libFuzzer looks for it.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions=on -Coverflow-checks=on";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to run each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Runs every target for as long as asked.
pub(crate) fn run(args: &Args) -> Result<()> {
    for (package, name) in TARGETS {
        target(package, name, args.seconds)?;
    }
    Ok(())
}

/// A C++ compiler builds libFuzzer itself.
pub(crate) fn has_compiler() -> bool {
    Command::new("c++").arg("--version").output().is_ok()
}

/// How many targets there are.
pub(crate) const fn count() -> u64 {
    TARGETS.len() as u64
}

/// Runs all targets for `seconds` each.
pub(crate) fn all(seconds: u32) -> Result<()> {
    run(&Args { seconds })
}

fn target(package: &str, name: &str, seconds: u32) -> Result<()> {
    let host = host()?;
    let build = msrv::metadata()?.target_directory.join("fuzz");
    // With a named target, build scripts are not instrumented.
    let built = cargo()?
        .args(["build", "--quiet", "--release", "--target", &host])
        .arg("--manifest-path")
        .arg(root()?.join(package).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&build)
        .env("RUSTFLAGS", COVERAGE)
        .status()?;
    ensure!(built.success(), "{package} was not built");
    let corpus = build.join("corpus").join(name);
    let found = build.join("found").join(name);
    for dir in [&corpus, &found] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let status = Command::new(build.join(&host).join("release").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(corpus)
        .status()
        .with_context(|| format!("cannot run the fuzz target {name}"))?;
    ensure!(
        status.success(),
        "fuzz target {name} failed; the input is in {}",
        found.display()
    );
    Ok(())
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say for which machine it builds")
}
