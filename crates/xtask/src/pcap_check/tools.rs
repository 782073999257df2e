//! Wireshark's command line programs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::compare::FIELDS;
use crate::deadline::output_within;

/// How long installing may take.
const INSTALL: Duration = Duration::from_secs(300);
/// How long dissecting may take.
const DISSECT: Duration = Duration::from_secs(120);

/// Makes sure that `tshark` and `dumpcap` are there; root gets them from Debian.
///
/// # Errors
/// They are not there and cannot be installed.
pub(super) fn ensure_present() -> Result<()> {
    if are_present() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("tshark and dumpcap are missing: install Debian's package tshark");
    }
    println!("installing tshark");
    for arguments in [
        &["update", "--quiet=2"][..],
        &[
            "install",
            "--quiet=2",
            "--yes",
            "--no-install-recommends",
            "tshark",
        ],
    ] {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        let output = output_within(&mut command, INSTALL)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "apt-get: {}", complaint.trim());
    }
    ensure!(are_present(), "tshark is installed and does not run");
    Ok(())
}

/// Whether `tshark` and `dumpcap` are there.
pub(super) fn are_present() -> bool {
    is_there("tshark") && is_there("dumpcap")
}

fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Has `tshark` read the capture: a line for each packet, [`FIELDS`] separated by tabs.
///
/// # Errors
/// It fails or takes too long.
pub(super) fn dissect(pcap: &Path) -> Result<String> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-T", "fields", "-E", "occurrence=f"])
        // It takes the payload of some SENDs for NFS over RDMA.
        .args(["--disable-protocol", "rpcordma"])
        .arg("-r")
        .arg(pcap);
    for (_, field) in FIELDS {
        command.args(["-e", field]);
    }
    let output = output_within(&mut command, DISSECT)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tshark: {}", complaint.trim());
    String::from_utf8(output.stdout).context("what tshark prints")
}
