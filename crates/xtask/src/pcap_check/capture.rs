//! A capture on the loopback interface.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::frames;
use crate::deadline::wait_within;
use crate::supervised;

/// How long `dumpcap` may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A capture that is going on.
pub(super) struct Capture {
    child: Child,
    file: PathBuf,
    lines: Receiver<String>,
}

/// Starts `dumpcap`, and waits until it captures into `file`.
///
/// # Errors
/// It does not run, or may not capture.
pub(super) fn start(file: &Path) -> Result<Capture> {
    // It dies with us.
    let mut child = supervised::command(Path::new("dumpcap"))
        .args([
            "-i",
            "lo",
            "-f",
            "udp dst port 4791",
            "-B",
            "64",
            "-P",
            "-w",
        ])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run dumpcap")?;
    let stderr = child.stderr.take().context("dumpcap has no output")?;
    let capture = Capture {
        child,
        file: file.to_path_buf(),
        lines: lines(stderr),
    };
    let mut said = String::new();
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(line) = capture.lines.recv_timeout(left) else {
            bail!("dumpcap does not capture (root may): {said}");
        };
        // Said once the interface is open.
        if line.starts_with("File:") {
            return Ok(capture);
        }
        said = said + line.trim() + " ";
    }
}

fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Capture {
    /// Ends the capture once it holds `packets`, or after a while without.
    ///
    /// # Errors
    /// `dumpcap` fails or does not end.
    pub(super) fn finish(mut self, packets: usize) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while frames::read(&self.file).map_or(0, |frames| frames.len()) < packets
            && Instant::now() < until
        {
            std::thread::sleep(LOOK);
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("dumpcap has no process id")?;
        kill_process(pid, Signal::INT).context("cannot interrupt dumpcap")?;
        let status = wait_within(&mut self.child, PATIENCE).context("dumpcap")?;
        ensure!(status.success(), "dumpcap: {status}");
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
