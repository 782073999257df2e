//! The guest: a kernel, and a file system in memory with nothing but what the exchange needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::{kernel, succeed};
use crate::cargo::root;
use crate::msrv;

/// Programs of ours that the guest has too, at the same places.
const PROGRAMS: [&str; 2] = ["/usr/bin/rdma", "/usr/sbin/tc"];
/// Where the multi-architecture libraries are.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/libibverbs";
/// Says that there is the provider for Soft-RoCE.
const DRIVER: &str = "/etc/libibverbs.d/rxe.driver";

/// Builds the guest; the directory with `vmlinux` and `root.cpio`.
///
/// # Errors
/// The kernel cannot be had, the agent does not compile, a library is missing.
pub(super) fn build() -> Result<PathBuf> {
    let dir = msrv::metadata()?.target_directory.join("rxe-guest");
    let kernel = kernel::fetch(&dir)?;
    let sources = root()?.join("tools/rxe-guest");
    let agent = dir.join("agent");
    let mut compile = Command::new("gcc");
    compile.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    succeed(
        compile
            .arg(&agent)
            .arg(sources.join("agent.c"))
            .arg("-libverbs"),
    )?;

    let mut archive = Archive::default();
    for directory in ["/bin", "/proc", "/sys", "/dev", "/tmp"] {
        archive.directory(directory);
    }
    archive.file("/init", &read(&sources.join("init"))?);
    archive.file("/bin/busybox", &read(Path::new("/bin/busybox"))?);
    archive.link("/bin/sh", "busybox");
    archive.file("/agent", &read(&agent)?);
    archive.file(DRIVER, &read(Path::new(DRIVER))?);
    archive.file("/modules/order", kernel::MODULES.join("\n").as_bytes());
    for (name, path) in &kernel.modules {
        archive.file(&format!("/modules/{name}.ko"), &read(path)?);
    }
    let provider = provider()?;
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS.map(PathBuf::from).iter().chain([&provider]) {
        archive.file(&program.display().to_string(), &read(program)?);
        libraries.extend(needed(program)?);
    }
    libraries.extend(needed(&agent)?);
    for library in libraries {
        archive.file(&library, &read(Path::new(&library))?);
    }
    fs::write(dir.join("root.cpio"), archive.finish())?;
    debug_assert_eq!(kernel.vmlinux, dir.join("vmlinux"));
    Ok(dir)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// libibverbs' part for Soft-RoCE, whose name has a version in it.
fn provider() -> Result<PathBuf> {
    fs::read_dir(LIBRARIES)
        .with_context(|| format!("cannot read {LIBRARIES}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("librxe-")
        })
        .with_context(|| format!("no librxe-* in {LIBRARIES}"))
}

/// The libraries that a program is loaded with, its loader included.
fn needed(program: &Path) -> Result<Vec<String>> {
    let output = succeed(Command::new("ldd").arg(program))?;
    Ok(loaded(&String::from_utf8_lossy(&output)))
}

/// Reads what `ldd` prints: `name => path (address)`, or `path (address)`.
fn loaded(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        assert_eq!(loaded(text), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
    }
}
