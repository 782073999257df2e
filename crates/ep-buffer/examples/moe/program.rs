//! What the programs of this directory have in common: their log, and what they print.

use crate::moe::events::Event;
use std::io::Write;
use std::process::ExitCode;

/// Logs to the standard error, runs one rank, and prints what stopped it.
pub(crate) fn run(rank: u32, work: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(rank, "{error:#}");
            say(&Event::Error {
                message: format!("{error:#}"),
            });
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. Nobody listening is no reason to stop serving.
pub(crate) fn say(event: &impl serde::Serialize) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}
