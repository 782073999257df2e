//! `cargo xtask rxe-check`: the software NIC against the RDMA stack of the Linux kernel.
//!
//! A virtual machine runs Debian's kernel with Soft-RoCE, and an agent in it that uses libibverbs.
//! `soft-hca` runs in a network namespace of its own here, joined to the machine's network card by
//! a tap device. They exchange every operation in both directions, without loss and with, and each
//! checks what the other wrote. The machine is emulated, so nothing here depends on `/dev/kvm`.

mod cpio;
mod image;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::build_example;
use crate::deadline::{output_within, wait_within};
use crate::supervised;

/// How long everything inside of the namespace may take.
const WHOLE: Duration = Duration::from_secs(900);
/// How long installing may take.
const INSTALL: Duration = Duration::from_secs(600);

/// What is needed of Debian: the package, and a file in it.
const PACKAGES: [(&str, &str); 8] = [
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("busybox-static", "/bin/busybox"),
    ("xz-utils", "/usr/bin/xz"),
    ("iproute2", "/usr/sbin/tc"),
    ("util-linux", "/usr/bin/unshare"),
    ("gcc", "/usr/bin/gcc"),
    ("libibverbs-dev", "/usr/include/infiniband/verbs.h"),
    ("ibverbs-providers", "/etc/libibverbs.d/rxe.driver"),
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Packets lost in each direction in the second half, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=20))]
    loss: u8,
    /// Show what the guest's console says
    #[arg(long)]
    console: bool,
    /// The virtual machine's files and the program; set when this runs in the namespace
    #[arg(long, hide = true, num_args = 2)]
    inside: Option<Vec<PathBuf>>,
}

/// Builds the guest, makes the namespace, runs the exchange there; whether all went well.
///
/// # Errors
/// Not root, something is missing and cannot be installed, the guest does not start.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if let Some([guest, program]) = args.inside.as_deref() {
        return machine::exchange(guest, program, args);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may make network namespaces and tap devices"
    );
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the guest is an x86-64 machine, like the one that builds it"
    );
    install()?;
    let program = build_example("soft-hca", "rxe_peer", &[])?;
    let guest = image::build()?;
    println!("guest: {}", guest.display());
    in_namespace(&guest, &program, args)
}

/// Runs this verb again where everything ends with its first process, and the network with it.
fn in_namespace(guest: &Path, program: &Path, args: &Args) -> Result<bool> {
    let mut command = supervised::command(Path::new("unshare"));
    command
        .args([
            "--net",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child=KILL",
        ])
        .arg(std::env::current_exe().context("which program are we?")?)
        .arg("rxe-check")
        .arg(format!("--loss={}", args.loss))
        .args(args.console.then_some("--console"))
        .arg("--inside")
        .args([guest, program]);
    let mut child = command.spawn().context("cannot run unshare")?;
    let status = wait_within(&mut child, WHOLE).context("the exchange")?;
    Ok(status.success())
}

fn install() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    for arguments in [
        &["update", "--quiet=2"][..],
        &["install", "--quiet=2", "--yes", "--no-install-recommends"],
    ] {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        if arguments.contains(&"install") {
            command.args(&missing);
        }
        succeed(&mut command)?;
    }
    if let Some((_, file)) = PACKAGES.iter().find(|(_, file)| !Path::new(file).exists()) {
        bail!("{file} is missing after its package was installed");
    }
    Ok(())
}

/// Runs a command that has to succeed; what it printed.
fn succeed(command: &mut Command) -> Result<Vec<u8>> {
    let output = output_within(command, INSTALL)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        command.get_program().display(),
        complaint.trim()
    );
    Ok(output.stdout)
}
