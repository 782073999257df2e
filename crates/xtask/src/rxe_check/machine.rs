//! Inside of the namespace: the virtual machine, and the program that talks to it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Args, succeed};
use crate::deadline::wait_within;

/// Addresses of the two ends, in a network that nobody else is in.
const OURS: &str = "10.77.0.1";
const GUESTS: &str = "10.77.0.2";
/// Room for a path MTU of 4096 bytes with all headers.
const MTU: &str = "4400";
/// How long the exchange may take, the guest's start included.
const EXCHANGE: Duration = Duration::from_secs(600);
/// How long the guest may take to end when asked to.
const POWER_OFF: Duration = Duration::from_secs(20);

/// Starts the guest of `dir`, runs `program`, which does the exchange and prints what came of it;
/// whether it succeeded.
///
/// # Errors
/// The network cannot be made, or the programs do not run.
pub(super) fn exchange(dir: &Path, program: &Path, args: &Args) -> Result<bool> {
    let ours = format!("{OURS}/24");
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &["tuntap", "add", "tap0", "mode", "tap"],
        &["addr", "add", &ours, "dev", "tap0"],
        &["link", "set", "tap0", "mtu", MTU, "up"],
    ] {
        succeed(Command::new("ip").args(arguments))?;
    }
    let mut guest = Guest::start(dir, args.console)?;
    let mut exchange = Command::new(program)
        .args([OURS, GUESTS, &args.loss.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let ended = wait_within(&mut exchange, EXCHANGE).context("the exchange");
    let trouble = guest.finish();
    match ended {
        Ok(status) if status.success() && trouble.is_empty() => Ok(true),
        ended => {
            println!("the guest's console:\n{}", trouble.join("\n"));
            ended.map(|_| false)
        }
    }
}

/// The virtual machine that is running.
struct Guest {
    child: Child,
    console: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Guest {
    fn start(dir: &Path, show: bool) -> Result<Self> {
        let network = "tap,id=net,ifname=tap0,script=no,downscript=no";
        let append = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on audit=0 \
             rxe.address={GUESTS} rxe.mtu={MTU}"
        );
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "512", "-nodefaults", "-no-user-config"])
            .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(dir.join("vmlinux"))
            .arg("-initrd")
            .arg(dir.join("root.cpio"))
            .args(["-append", &append, "-netdev", network])
            // It starts from nowhere else, so it needs no boot code of its own.
            .args(["-device", "e1000,netdev=net,romfile="])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run qemu-system-x86_64")?;
        let stdout = child.stdout.take().context("the guest has no console")?;
        let console = std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines
                .inspect(|line| {
                    if show {
                        println!("| {}", line.trim_end());
                    }
                })
                .collect()
        });
        Ok(Self {
            child,
            console: Some(console),
        })
    }

    /// Waits for the guest to end, or ends it; what its console said of trouble.
    fn finish(&mut self) -> Vec<String> {
        let mut trouble = Vec::new();
        if let Err(error) = wait_within(&mut self.child, POWER_OFF) {
            trouble.push(format!("the guest did not end: {error:#}"));
        }
        let console = self.console.take().and_then(|console| console.join().ok());
        trouble.extend(
            console
                .into_iter()
                .flatten()
                .filter(|line| is_trouble(line)),
        );
        trouble
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a line of the console is worth showing: what our own programs could not do, and what the
/// kernel itself is unhappy about.
fn is_trouble(line: &str) -> bool {
    let ours = line.contains("guest: ") && !line.contains("Soft-RoCE on");
    let agents = line.contains("agent: ") && !line.contains("listening");
    let kernels = [
        "BUG:",
        "Oops",
        "WARNING:",
        "Kernel panic",
        "rcu_sched detected",
    ];
    ours || agents || kernels.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_quiet_when_all_is_well() {
        assert!(!is_trouble("guest: 6.1.0, Soft-RoCE on 10.77.0.2"));
        assert!(!is_trouble("agent: listening"));
        assert!(is_trouble("guest: the agent failed with 1"));
        assert!(is_trouble("agent: no GID for the address"));
        assert!(is_trouble("[    3.1] BUG: unable to handle page fault"));
    }
}
