//! Where the headers of others are, or can be had from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::ifc::Ifc;
use crate::msrv;

/// The headers, found.
pub(crate) struct Sources {
    ifc: PathBuf,
}

impl Sources {
    /// Takes `header` for the kernel's if given, else an installed one, else downloads Debian's
    /// package into the target directory, where it is unpacked and not installed.
    ///
    /// # Errors
    /// The kernel's header, rdma-core's or a C compiler cannot be had.
    pub(crate) fn find(header: Option<&Path>) -> Result<Self> {
        let dv = Path::new("/usr/include/infiniband/mlx5dv.h");
        ensure!(dv.exists(), "no {}", dv.display());
        let compiler = Command::new("cc").arg("--version").output();
        ensure!(compiler.is_ok(), "no C compiler");
        let ifc = match header {
            Some(header) => header.to_path_buf(),
            None => match newest_under(Path::new("/usr/src"))? {
                Some(installed) => installed,
                None => downloaded()?,
            },
        };
        Ok(Self { ifc })
    }

    /// The kernel's layouts.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub(super) fn ifc(&self) -> Result<Ifc> {
        let name = || self.ifc.display().to_string();
        let mut text = fs::read_to_string(&self.ifc).with_context(name)?;
        // It includes this one.
        let fpga = self.ifc.with_file_name("mlx5_ifc_fpga.h");
        text += &fs::read_to_string(&fpga).with_context(|| fpga.display().to_string())?;
        println!("kernel header: {}", self.ifc.display());
        Ifc::parse(&text).with_context(name)
    }
}

/// The header of the newest kernel under `dir`, a directory like `/usr/src`.
fn newest_under(dir: &Path) -> Result<Option<PathBuf>> {
    if !dir.exists() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let header = entry.path().join("include/linux/mlx5/mlx5_ifc.h");
        if header.exists() {
            found.push((version(&entry.file_name().to_string_lossy()), header));
        }
    }
    Ok(found.into_iter().max().map(|(_, header)| header))
}

/// The numbers in the name of a package, which order its versions.
fn version(name: &str) -> Vec<u64> {
    let numbers = name.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Debian's package, downloaded at most once.
fn downloaded() -> Result<PathBuf> {
    let dir = msrv::metadata()?.target_directory.join("kernel-headers");
    let sources = dir.join("usr/src");
    if let Some(header) = newest_under(&sources)? {
        return Ok(header);
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let pattern = "^linux-headers-[0-9.-]+-common$";
    let names = stdout(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
    let package = names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .max_by_key(|name| version(name))
        .context("apt knows no linux-headers-*-common")?;
    stdout(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(&dir),
    )?;
    for entry in fs::read_dir(&dir)? {
        let archive = entry?.path();
        if archive
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            stdout(Command::new("dpkg").arg("-x").arg(&archive).arg(&dir))?;
            fs::remove_file(&archive)?;
        }
    }
    newest_under(&sources)?.with_context(|| format!("{package} holds no mlx5_ifc.h"))
}

/// Runs a command; what it printed, or why it failed.
pub(super) fn stdout(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}: {}", output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("what {name} prints"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("linux-headers-6.1.0-100-common") > version("linux-headers-6.1.0-55"));
        assert!(version("linux-headers-6.12.1-1-common") > version("linux-headers-6.1.0-55"));
    }

    #[test]
    fn a_failing_command_says_why() -> Result<()> {
        let failed = stdout(Command::new("sh").args(["-c", "echo because >&2; exit 4"]));
        let why = failed.err().context("it succeeded")?.to_string();
        assert!(why.contains("because") && why.contains('4'), "{why}");
        Ok(())
    }
}
