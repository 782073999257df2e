//! `cargo xtask kernels`: the device code of `ep-buffer`, compiled and checked in.
//!
//! Users of the feature `cuda` need no compiler: the fat binary lies beside its sources, with a
//! list of what it was made from.

mod ptxas;
mod sources;
mod toolchain;

use crate::cargo::root;
use crate::codegen::{self, Output};
use anyhow::{Context, Result, ensure};
use sources::Sources;
use std::path::{Path, PathBuf};
use std::process::Command;
use toolchain::Toolchain;

/// From the workspace's root.
const DIR: &str = "crates/ep-buffer/kernels";
/// Includes the other files.
const SOURCE: &str = "ep.cu";
const BINARY: &str = "ep.fatbin";

/// Machine code for what we measure on, and what the driver compiles for later chips.
const FLAGS: [&str; 9] = [
    "-fatbin",
    "-O3",
    "-std=c++20",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
    "--compress-mode=size",
    "-Werror",
    "all-warnings",
    "--frandom-seed=0",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say whether the checked-in binary is that of the sources; needs no compiler
    #[arg(long, conflicts_with_all = ["out", "ptxas"])]
    check: bool,
    /// Write the binary here, and leave the checked-in one alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print registers, spills and shared memory of each kernel
    #[arg(long)]
    ptxas: bool,
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    if args.check {
        check_checked_in()?;
        return Ok(true);
    }
    let dir = root()?.join(DIR);
    ensure!(
        codegen::run(Output::KernelHeader, false)?,
        "the kernels' header cannot be made"
    );
    let toolchain = Toolchain::find()?;
    println!("{toolchain}");
    let binary = args.out.clone().unwrap_or_else(|| dir.join(BINARY));
    // What is compiled is what is listed, whatever is edited meanwhile.
    let sources = Sources::read(&dir, &flags())?;
    let messages = compile(&toolchain, &dir.join(SOURCE), &binary)?;
    let kernels = ptxas::parse(&messages);
    if args.ptxas {
        print!("{}", ptxas::table(&kernels));
    }
    let bytes = std::fs::read(&binary).with_context(|| binary.display().to_string())?;
    println!("{}: {} bytes", binary.display(), bytes.len());
    if args.out.is_none() {
        let list = dir.join(sources::LIST);
        let text = sources.list(&toolchain.version, &bytes);
        std::fs::write(&list, text).with_context(|| list.display().to_string())?;
    }
    Ok(true)
}

/// Whether the checked-in binary is that of the sources beside it.
///
/// # Errors
/// It is not; the text says what differs and what to run.
pub(crate) fn check_checked_in() -> Result<()> {
    check(&root()?.join(DIR))
}

fn check(dir: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| path.display().to_string())
    };
    let differences = Sources::read(dir, &flags())?.differences(
        &String::from_utf8_lossy(&read(sources::LIST)?),
        &read(BINARY)?,
    );
    ensure!(
        differences.is_empty(),
        "{} is out of date ({}): run `cargo xtask kernels`",
        dir.join(BINARY).display(),
        differences.join(", ")
    );
    Ok(())
}

fn flags() -> String {
    FLAGS.join(" ")
}

/// Compiles one file; returns what the compiler printed.
fn compile(toolchain: &Toolchain, source: &Path, binary: &Path) -> Result<String> {
    let output = Command::new(&toolchain.nvcc)
        .args(FLAGS)
        .args(["-Xptxas", "-v", "--threads", "2", "-o"])
        .args([binary, source])
        .output()
        .with_context(|| format!("cannot run {}", toolchain.nvcc.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        eprint!("{}{messages}", String::from_utf8_lossy(&output.stdout));
    }
    ensure!(
        output.status.success(),
        "{} does not compile: {}",
        source.display(),
        output.status
    );
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with what `kernels` leaves, and no compiler.
    fn folder() -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join(SOURCE), "#include \"a.cuh\"\n")?;
        std::fs::write(dir.path().join("a.cuh"), "// nothing\n")?;
        std::fs::write(dir.path().join(BINARY), [1, 2, 3])?;
        let list = Sources::read(dir.path(), &flags())?.list("release 13.0", &[1, 2, 3]);
        std::fs::write(dir.path().join(sources::LIST), list)?;
        Ok(dir)
    }

    #[test]
    fn what_was_just_made_is_up_to_date() -> Result<()> {
        check(folder()?.path())
    }

    #[test]
    fn every_change_is_noticed_and_named() -> Result<()> {
        for (file, contents) in [
            (SOURCE, Some("#include \"a.cuh\"\n//\n")),
            ("a.cuh", Some("// something\n")),
            ("a.cuh", None),
            ("b.cuh", Some("")),
            (BINARY, Some("123")),
        ] {
            let dir = folder()?;
            let path = dir.path().join(file);
            match contents {
                Some(contents) => std::fs::write(path, contents)?,
                None => std::fs::remove_file(path)?,
            }
            let error = check(dir.path()).map_or_else(|e| e.to_string(), |()| String::new());
            assert!(error.contains(file), "{file}: {error}");
            assert!(error.contains("`cargo xtask kernels`"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn other_flags_are_noticed() -> Result<()> {
        let dir = folder()?;
        let list = std::fs::read_to_string(dir.path().join(sources::LIST))?;
        let found = Sources::read(dir.path(), "-O0")?.differences(&list, &[1, 2, 3]);
        assert_eq!(found, ["flags"]);
        Ok(())
    }
}
