//! `cargo xtask soft-hca-libs DIR`: the software NIC under the names of rdma-core's libraries.
//!
//! `libibverbs.so.1` holds everything. What is in it once per process must not be there twice, so
//! `libmlx5.so.1` holds jumps into it and nothing else.

use crate::cargo::{cargo, root};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// File names, which are also what the libraries call themselves.
pub(crate) const IBVERBS: &str = "libibverbs.so.1";
pub(crate) const MLX5: &str = "libmlx5.so.1";

/// What the names that the jumps lead to begin with.
const PRIVATE: &str = "soft_hca_";

/// What Rust's standard library wants of the system.
const SYSTEM: [&str; 5] = ["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lc"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to leave libibverbs.so.1 and libmlx5.so.1
    dir: PathBuf,
}

/// Makes both libraries and says how they are used.
pub(crate) fn run(args: &Args) -> Result<()> {
    let dir = make(&args.dir)?;
    println!("{IBVERBS} and {MLX5} are in {}", dir.display());
    println!("LD_LIBRARY_PATH={} PROGRAM", dir.display());
    Ok(())
}

/// Makes both libraries; returns the directory's absolute path.
pub(crate) fn make(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let archive = archive()?;
    let maps = root()?.join("crates/soft-hca/abi");
    let read = |name: &str| {
        let path = maps.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (ibverbs, mlx5) = (read("libibverbs.map")?, read("libmlx5.map")?);
    let jumped = symbols(&mlx5);

    let script = work.path().join("libibverbs.map");
    fs::write(&script, with_private(&ibverbs, &jumped))?;
    let mut link = linker(&dir.join(IBVERBS), IBVERBS, &script);
    for symbol in symbols(&ibverbs) {
        link.arg(format!("-Wl,--require-defined={symbol}"));
    }
    for symbol in &jumped {
        link.arg(format!("-Wl,--require-defined={symbol}"));
        link.arg(format!("-Wl,--defsym={PRIVATE}{symbol}={symbol}"));
    }
    run_it(link.arg(archive).args(SYSTEM))?;

    let source = work.path().join("libmlx5.s");
    fs::write(&source, jumps(&jumped)?)?;
    let mut link = linker(&dir.join(MLX5), MLX5, &maps.join("libmlx5.map"));
    run_it(link.arg("-nostdlib").arg(source).arg(dir.join(IBVERBS)))?;
    Ok(dir)
}

/// Builds the crate as an archive of objects: rustc writes a version script of its own for shared
/// libraries, and the linker takes only one.
fn archive() -> Result<PathBuf> {
    let output = cargo()?
        .args(["rustc", "--quiet", "--release", "--package=soft-hca"])
        .args(["--lib", "--features=export", "--crate-type=staticlib"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "building soft-hca failed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(archive_of)
        .next_back()
        .context("cargo named no archive for soft-hca")
}

fn archive_of(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message.get("target")?.get("name")?.as_str()? != "soft_hca" {
        return None;
    }
    let files = message.get("filenames")?.as_array()?;
    let files = files.iter().filter_map(|file| file.as_str());
    files
        .map(PathBuf::from)
        .find(|file| file.extension().is_some_and(|e| e == "a"))
}

/// The C compiler, told to link a shared library.
fn linker(to: &Path, soname: &str, script: &Path) -> Command {
    let mut command = Command::new("cc");
    command
        .args(["-shared", "-Wl,--gc-sections,-z,defs,-z,relro,-z,now"])
        // Threads of the library run on after a `dlclose`.
        .arg("-Wl,-z,nodelete")
        .arg(format!("-Wl,-soname,{soname}"))
        .arg(format!("-Wl,--version-script={}", script.display()))
        .arg("-o")
        .arg(to);
    command
}

fn run_it(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot run cc, the C compiler")?;
    ensure!(status.success(), "linking failed: {command:?}");
    Ok(())
}

/// The symbols that a version script exports.
fn symbols(script: &str) -> Vec<&str> {
    let lines = script.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_suffix(';'))
        .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect()
}

/// The script of libibverbs with the targets of libmlx5's jumps, which are nobody else's.
fn with_private(script: &str, jumped: &[&str]) -> String {
    let mut text = format!("{script}\nSOFT_HCA_PRIVATE {{\n\tglobal:\n");
    for symbol in jumped {
        text += &format!("\t\t{PRIVATE}{symbol};\n");
    }
    text + "};\n"
}

/// Assembly of functions that jump to their namesakes in libibverbs.
fn jumps(symbols: &[&str]) -> Result<String> {
    let jump = match std::env::consts::ARCH {
        "x86_64" => |to: &str| format!("jmp {to}@PLT"),
        "aarch64" => |to: &str| format!("b {to}"),
        other => bail!("soft-hca-libs does not know how {other} jumps"),
    };
    let mut text = String::from(".section .note.GNU-stack,\"\",%progbits\n.text\n");
    for symbol in symbols {
        text += &format!(
            ".globl {symbol}\n.type {symbol}, %function\n{symbol}:\n\t{}\n.size {symbol}, . - {symbol}\n",
            jump(&format!("{PRIVATE}{symbol}")),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str =
        "A_1.0 {\n\tlocal: *;\n};\nA_1.1 {\n\tglobal:\n\t\t_one;\n\t\ttwo;\n} A_1.0;\n";

    #[test]
    fn symbols_are_those_that_the_script_exports() {
        assert_eq!(symbols(SCRIPT), ["_one", "two"]);
        let text = with_private(SCRIPT, &["two"]);
        assert_eq!(symbols(&text), ["_one", "two", "soft_hca_two"]);
    }

    #[test]
    fn every_symbol_jumps_to_its_private_namesake() -> Result<()> {
        let text = jumps(&["one", "two"])?;
        assert_eq!(text.matches("soft_hca_one").count(), 1);
        assert!(text.contains("\ntwo:\n"));
        Ok(())
    }

    #[test]
    fn the_archive_is_soft_hcas() {
        let line = |name: &str, file: &str| {
            format!(r#"{{"target":{{"name":"{name}"}},"filenames":["/t/x.rlib","{file}"]}}"#)
        };
        let found = archive_of(&line("soft_hca", "/t/libsoft_hca.a"));
        assert_eq!(found, Some(PathBuf::from("/t/libsoft_hca.a")));
        assert_eq!(archive_of(&line("other", "/t/libother.a")), None);
        assert_eq!(archive_of(&line("soft_hca", "/t/libsoft_hca.so")), None);
    }
}
