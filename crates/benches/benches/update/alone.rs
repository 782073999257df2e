//! One survivor in a process of its own, all others in this one: what it does for a change,
//! with nobody else on its processor's caches and the store's part of the work elsewhere.
//!
//! Other ranks of one machine still take its processor's time, caches and memory. How much that
//! is shows a survivor of the smallest group, while a group of the remaining ranks, which it has
//! nothing to do with, takes in a process of its own.
//!
//! With `valgrind` on the machine its agent's instructions are counted too, which do not
//! depend on caches and hardly on other load: while it waits it looks up every 50 ms, which is
//! counted too. What it hears includes the end of the last process and the coming of the next.

use crate::cluster::{AFTERMATH, Cluster, LANES, PATIENCE, REGION, config};
use crate::counted::{Counted, Messages};
use crate::median;
use crate::threads::Threads;
use ep_transport::store::{TcpStore, TcpStoreServer};
use ep_transport::{Fabric, Group, Incarnation, Rank};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first argument of the survivor's process.
pub(crate) const ARGUMENT: &str = "--survivor";
/// The argument with which only this is measured.
pub(crate) const ONLY: &str = "alone";
/// Where its agent begins, for counting instructions.
const AGENT: &str = "*ep_transport::member::agent::Agent*::run";
const CHANGES: u64 = 15;
/// Ranks of the group beside which another one is put.
const FEW_RANKS: u32 = 4;
/// Runs whose difference is what further changes take: what comes before is not counted.
const FEW_CHANGES: u64 = 4;
const MANY_CHANGES: u64 = 24;

/// What one survivor did for one new process.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    pub(crate) ranks: u32,
    /// How long its agent ran, in microseconds.
    pub(crate) agent: f64,
    /// The same for a survivor of the smallest group, with as many ranks on the machine.
    pub(crate) of_few: f64,
    pub(crate) messages: Messages,
    /// Instructions of its agent; none without valgrind.
    pub(crate) instructions: Option<f64>,
}

pub(crate) fn measure(ranks: u32) -> Alone {
    let exe = std::env::current_exe().unwrap();
    let agent =
        |told: &[(Duration, Messages)]| median(told.iter().map(|(ran, _)| ran.as_secs_f64() * 1e6));
    let told = run(Command::new(&exe), ranks, 0, CHANGES);
    let of_few = run(Command::new(&exe), FEW_RANKS, ranks - FEW_RANKS, CHANGES);
    Alone {
        ranks,
        agent: agent(&told),
        of_few: agent(&of_few),
        messages: told.last().unwrap().1,
        instructions: instructions(&exe, ranks),
    }
}

fn instructions(exe: &Path, ranks: u32) -> Option<f64> {
    let counted = |changes| {
        let out = tempfile::NamedTempFile::new().unwrap();
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
            .arg(format!("--toggle-collect={AGENT}"))
            .arg(format!("--callgrind-out-file={}", out.path().display()))
            .arg(exe);
        run(valgrind, ranks, 0, changes);
        let text = std::fs::read_to_string(out.path()).unwrap();
        let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
        totals.unwrap().trim().parse::<u64>().unwrap()
    };
    let there = Command::new("valgrind").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let (few, many) = (counted(FEW_CHANGES), counted(MANY_CHANGES));
    Some((many - few) as f64 / (MANY_CHANGES - FEW_CHANGES) as f64)
}

/// Has a survivor started by `command` see that many changes, while as many happen to a group
/// of `others`; what each took.
fn run(command: Command, ranks: u32, others: u32, changes: u64) -> Vec<(Duration, Messages)> {
    let mut beside = (others > 1).then(|| Cluster::open(others));
    if let Some(beside) = &mut beside {
        beside.connect_all();
    }
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let mut cluster = Cluster::open_from(1, ranks, server.store());
    let mut survivor = Survivor::start(command, server.address(), ranks);
    cluster.connect_all();
    let last = Rank(ranks - 1);
    let mut before = survivor.after(last, cluster.incarnation_of_last());
    let mut told = Vec::new();
    for _ in 0..changes {
        let cost = std::thread::scope(|scope| {
            if let Some(beside) = &mut beside {
                scope.spawn(|| beside.replace(1));
            }
            cluster.replace(1)
        });
        let now = survivor.after(last, cluster.incarnation_of_last());
        // Attempts that were dropped are another matter.
        if cost.dropped.is_empty() {
            told.push((now.0 - before.0, now.1 - before.1));
        }
        before = now;
    }
    survivor.end();
    told
}

struct Survivor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Survivor {
    fn start(mut command: Command, store: SocketAddr, ranks: u32) -> Self {
        let arguments = [ARGUMENT, &store.to_string(), &ranks.to_string()];
        let command = command.args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            to,
            from: BufReader::new(from),
        }
    }

    /// What it has done in all by the time when it counts this life and is through with it.
    fn after(&mut self, rank: Rank, life: Incarnation) -> (Duration, Messages) {
        writeln!(self.to, "{} {}", rank.0, life.0).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line.split(' ').map(|n| n.trim().parse().unwrap()).collect();
        let [ran, sent, heard, bytes] = numbers.try_into().unwrap();
        let messages = Messages { sent, heard, bytes };
        (Duration::from_nanos(ran), messages)
    }

    fn end(mut self) {
        drop(self.to);
        assert!(self.child.wait().unwrap().success());
    }
}

/// The survivor's process: rank 0, until its input ends.
pub(crate) fn survive(store: &str, ranks: &str) {
    let store = Arc::new(Counted::new(TcpStore::connect(store, PATIENCE).unwrap()));
    let config = config(Rank(0), ranks.parse().unwrap());
    let mut threads = Threads::default();
    let mut group = Group::open(&config, REGION, Arc::clone(&store) as Arc<_>).unwrap();
    let agent = threads.newest("ep-agent");
    group.wait_admitted(PATIENCE).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (rank, life) = line.split_once(' ').unwrap();
        let (rank, life) = (Rank(rank.parse().unwrap()), life.parse().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let control = group.control();
        while control.participation(rank).unwrap().incarnation != Incarnation(life) {
            assert!(Instant::now() < deadline, "{rank} was not taken in");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(AFTERMATH);
        let (told, ran) = (store.messages(), agent.ran().as_nanos());
        println!("{ran} {} {} {}", told.sent, told.heard, told.bytes);
    }
}

pub(crate) fn table(rows: &[Alone]) {
    println!(
        "\nOne survivor in a process of its own, one new process, {LANES} queue pairs:\n\
         {:>6} {:>10} {:>14} {:>14} {:>14} {:>6} {:>12}",
        "ranks", "agent", "of 4, beside", "instructions", "messages sent", "heard", "bytes heard"
    );
    for row in rows {
        let counted = row.instructions.map_or("-".into(), |n| format!("{n:.0}"));
        println!(
            "{:>6} {:>7.0} us {:>11.0} us {counted:>14} {:>14} {:>6} {:>12}",
            row.ranks,
            row.agent,
            row.of_few,
            row.messages.sent,
            row.messages.heard,
            row.messages.bytes
        );
    }
}
