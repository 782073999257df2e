//! Waiting for other programs, with a bound.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for `child` to end; kills it if it takes longer than `limit`.
///
/// # Errors
/// It took longer.
pub(crate) fn wait_within(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill().context("cannot kill a child")?;
            child.wait().context("cannot wait for a child")?;
            bail!("not done after {} s", limit.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

/// Runs `command` to its end, and returns what it printed.
///
/// # Errors
/// It cannot be run, or takes longer than `limit`.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait_within(&mut child, limit).with_context(|| name)?;
    let take = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: take(stdout),
        stderr: take(stderr),
    })
}

/// Reads on a thread of its own, so that a full pipe holds nobody up.
fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is worth having.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let begun = Instant::now();
        let result = output_within(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(result.is_err_and(|error| format!("{error:#}").contains("sleep")));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 300000 /dev/zero; echo why >&2; exit 3"]);
        let output = output_within(&mut command, Duration::from_secs(60))?;
        assert_eq!(output.stdout.len(), 300_000);
        assert_eq!(output.stderr, b"why\n");
        assert_eq!(output.status.code(), Some(3));
        Ok(())
    }
}
