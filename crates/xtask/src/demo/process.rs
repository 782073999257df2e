//! The processes of one run: started, heard, killed, and never left behind.

use super::events::{Event, Step};
use super::record::{Death, Life, Record};
use crate::supervised;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Lines of a failed process's log that are shown.
const LOG_TAIL: usize = 4;

/// What does not change from process to process of a run.
pub(crate) struct Setup {
    pub(crate) program: PathBuf,
    pub(crate) logs: PathBuf,
    /// What every process is told on its command line.
    pub(crate) arguments: Vec<String>,
}

/// `CLOCK_MONOTONIC` in microseconds.
pub(crate) fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

enum Line {
    Said(u64, String),
    /// The process closed its output: it ended, or is about to.
    Closed,
}

/// All processes of one run. Dropping it kills those that still live.
pub(crate) struct Processes<'a> {
    setup: &'a Setup,
    pub(crate) record: Record,
    /// By life; `None` once its end was taken note of.
    children: Vec<Option<Child>>,
    /// By life, where it takes orders.
    orders: Vec<Option<ChildStdin>>,
    lines: Receiver<(usize, Line)>,
    speakers: Sender<(usize, Line)>,
}

impl<'a> Processes<'a> {
    pub(crate) fn new(setup: &'a Setup) -> Self {
        let (speakers, lines) = channel();
        Self {
            setup,
            record: Record::default(),
            children: Vec::new(),
            orders: Vec::new(),
            lines,
            speakers,
        }
    }

    /// Starts a process for `rank`, with flags of its own: one that takes the place of
    /// kill number `replaces`, or of nobody.
    pub(crate) fn spawn(
        &mut self,
        rank: u32,
        replaces: Option<usize>,
        flags: &[&str],
    ) -> Result<()> {
        let index = self.children.len();
        let log = |kind: &str| {
            let number = self.record.lives.iter().filter(|l| l.rank == rank).count() + 1;
            let path = self
                .setup
                .logs
                .join(format!("rank{rank}-life{number}.{kind}"));
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        let (heard, stderr) = (log("jsonl")?, log("log")?);
        let mut command = supervised::command(&self.setup.program);
        command
            .arg(format!("--rank={rank}"))
            .args(&self.setup.arguments)
            .args(flags)
            // What goes to a log file is read without a terminal.
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start a process for rank {rank}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        self.children.push(Some(child));
        self.orders.push(stdin);
        self.record.lives.push(Life::new(rank, now_us(), replaces));
        let speaker = self.speakers.clone();
        if let Some(stdout) = stdout {
            std::thread::spawn(move || listen(index, stdout, heard, &speaker));
        }
        Ok(())
    }

    /// Takes in what processes say, for at most `limit`; returns early after the
    /// first thing said.
    pub(crate) fn hear(&mut self, limit: Duration) {
        let first = match self.lines.recv_timeout(limit) {
            Ok(first) => first,
            // We hold a sender ourselves, so the channel cannot be closed.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        self.take_in(first);
        while let Ok(next) = self.lines.try_recv() {
            self.take_in(next);
        }
    }

    fn take_in(&mut self, (index, line): (usize, Line)) {
        match line {
            Line::Said(at, text) => {
                let Some(life) = self.record.lives.get_mut(index) else {
                    return;
                };
                match serde_json::from_str(&text) {
                    Ok(event) => life.heard.push((at, event)),
                    // A killed process may end in the middle of a line.
                    Err(_) if life.killed.is_some() => {}
                    Err(error) => {
                        let rank = life.rank;
                        self.record
                            .problems
                            .push(format!("rank {rank} said '{text}': {error}"));
                    }
                }
            }
            Line::Closed => self.bury(index),
        }
    }

    /// Sends SIGKILL for the plan's kill number `kill`.
    pub(crate) fn kill(&mut self, index: usize, kill: usize) -> Result<()> {
        let child = self.children.get_mut(index).and_then(Option::as_mut);
        let life = self.record.lives.get_mut(index);
        let (child, life) = child.zip(life).context("the process to kill has ended")?;
        life.killed = Some(Death {
            kill,
            at_us: now_us(),
        });
        child.kill().context("cannot kill a process")
    }

    /// Gives a process an order. One that has ended is past taking any.
    pub(crate) fn tell(&mut self, index: usize, order: &str) {
        if let Some(Some(orders)) = self.orders.get_mut(index) {
            let _ = writeln!(orders, "{order}").and_then(|()| orders.flush());
        }
    }

    /// Waits for a process that closed its output, and notes how it ended.
    fn bury(&mut self, index: usize) {
        let Some(mut child) = self.children.get_mut(index).and_then(Option::take) else {
            return;
        };
        let Some(life) = self.record.lives.get(index) else {
            return;
        };
        // It should end at once; one that only closed its output gets no more time.
        let mut status = child.try_wait();
        for _ in 0..200 {
            if !matches!(status, Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            status = child.try_wait();
        }
        let status = match status {
            Ok(Some(status)) if status.success() || life.killed.is_some() || life.ousted => return,
            Ok(Some(status)) => status.to_string(),
            Ok(None) => {
                kill_and_wait(&mut child);
                "did not end after it had closed its output".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let mut said: Vec<&str> = life
            .heard
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Error { message } => Some(message.as_str()),
                _ => None,
            })
            .collect();
        let rank = life.rank;
        let number = self.record.lives.iter().take(index);
        let number = number.filter(|l| l.rank == rank).count() + 1;
        let log = tail(&self.setup.logs.join(format!("rank{rank}-life{number}.log")));
        if said.is_empty() {
            said = log.iter().map(String::as_str).collect();
        }
        let problem = format!("rank {rank} ended with {status}: {}", said.join(" | "));
        self.record.problems.push(problem);
    }

    /// Whether any process has not ended yet.
    pub(crate) fn any_left(&self) -> bool {
        self.children.iter().any(Option::is_some)
    }

    /// The process that is `rank` now, if it lives.
    pub(crate) fn current(&self, rank: u32) -> Option<usize> {
        let index = self.record.lives.iter().rposition(|l| l.rank == rank)?;
        let lives = self.children.get(index)?.is_some();
        (lives && self.record.lives.get(index)?.killed.is_none()).then_some(index)
    }

    /// The last steps of the processes that are `ranks` now, if all have done one and
    /// it is `right`.
    pub(crate) fn last_steps<'r>(
        &self,
        ranks: impl IntoIterator<Item = &'r u32>,
        right: impl Fn(&Step) -> bool,
    ) -> Option<BTreeSet<u64>> {
        let last = ranks.into_iter().map(|rank| {
            let life = self.record.lives.get(self.current(*rank)?)?;
            let step = life.steps().next_back()?;
            right(step).then_some(step.step)
        });
        last.collect()
    }

    /// Sends a signal to a process.
    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let child = self.children.get(index).and_then(Option::as_ref);
        let child = child.context("the process to be signalled has ended")?;
        kill_process(Pid::from_child(child), signal).context("cannot send a signal")
    }

    /// Kills everything that is left.
    pub(crate) fn end(&mut self) {
        for child in self.children.iter_mut().flatten() {
            kill_and_wait(child);
        }
        self.children.fill_with(|| None);
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill_and_wait(child: &mut Child) {
    // An error means that the process has ended, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn listen(index: usize, stdout: ChildStdout, mut log: File, speaker: &Sender<(usize, Line)>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let at = now_us();
        // The log is a help for people; the run does not depend on it.
        let _ = writeln!(log, "{line}");
        if speaker.send((index, Line::Said(at, line))).is_err() {
            return;
        }
    }
    let _ = speaker.send((index, Line::Closed));
}

fn tail(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let skipped = lines.len().saturating_sub(LOG_TAIL);
    lines
        .iter()
        .skip(skipped)
        .map(|l| (*l).to_owned())
        .collect()
}
