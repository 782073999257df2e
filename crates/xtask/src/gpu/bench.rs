//! `cargo xtask bench-gpu`: dispatch and combine on GPUs, a process each, verified and timed.

use super::shapes::{HIDDEN, Shape, TOP_K, shapes};
use super::table::{self, Row};
use super::timing::Timing;
use crate::demo::events::Event;
use crate::demo::plan::{name_of, seed_from_clock};
use crate::demo::process::{Processes, Setup, now_us};
use crate::demo::store::{Meeting, StoreArgs};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ranks of the configurations that have bars.
const RANKS: [u32; 2] = [2, 4];
/// Between two starts where their order matters.
const APART: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Processes, one for each GPU; 2 and 4 by default, as far as there are GPUs
    #[arg(long)]
    ranks: Option<u32>,
    /// Only configurations with so many tokens
    #[arg(long)]
    tokens: Option<u32>,
    /// Write what was measured here, for machines
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of all data; from the clock by default
    #[arg(long)]
    seed: Option<u64>,
    /// Pairs in a graph
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Replays of each graph
    #[arg(long, default_value_t = 20)]
    replays: u32,
    /// Give a configuration up, as failed, after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    deadline_s: u64,
    /// Keep what every process printed in this directory
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Let ranks share GPUs where there are fewer, all in one process: for comparing kernels,
    /// and held against no bar
    #[arg(long)]
    share: bool,
    /// Run this program as the ranks' process in place of building `gpu_rank`
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Measures everything that there are GPUs for; whether all of it was verified.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let gpus = match super::count() {
        Ok(gpus) => gpus,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(true);
        }
    };
    let wanted = args
        .ranks
        .map_or_else(|| RANKS.to_vec(), |ranks| vec![ranks]);
    let shared = |ranks: u32| args.share && ranks > gpus;
    let (there, beyond): (Vec<u32>, Vec<u32>) = wanted
        .iter()
        .partition(|ranks| **ranks <= gpus || shared(**ranks));
    for ranks in beyond {
        println!("skipped: {ranks} ranks, as there are {gpus} GPUs");
    }
    ensure!(!there.contains(&0), "--ranks 0: at least 1");
    if there.is_empty() {
        return Ok(true);
    }
    let program = super::rank_program(args.program.as_ref())?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let logs = args.keep_logs.as_deref().unwrap_or(scratch.path());
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    println!(
        "seed {seed}; microseconds, median of {} replays of {} pairs, slowest rank",
        args.replays, args.pairs
    );
    println!("{}", table::HEAD);
    let mut rows = Vec::new();
    let wanted = |shape: &Shape| args.tokens.is_none_or(|tokens| tokens == shape.tokens);
    let shapes = there.into_iter().flat_map(shapes).filter(wanted);
    for (number, shape) in shapes.enumerate() {
        let seed = seed.wrapping_add(number as u64);
        let logs = logs.join(number.to_string());
        let start = |shape, logs: &Path, start| measure(args, shape, seed, &program, logs, start);
        let first = !rows.iter().any(|row: &Row| row.shape.ranks == shape.ranks);
        let row = match shared(shape.ranks) {
            true => Row {
                shared: true,
                ..start(shape.without_bar(), &logs, Start::Together)?.0
            },
            false => {
                let (mut row, said) = start(shape, &logs, Start::Up)?;
                if first && shape.ranks > 1 && row.verified {
                    let again = start(shape, &logs.join("again"), Start::Down)?;
                    row.compare(&said, again);
                }
                row
            }
        };
        println!("{}", table::line(&row));
        if row.shared {
            println!("^ ranks share GPUs");
        }
        if row.same_bits == Some(true) {
            println!("^ joined in the opposite order: the same sums to the bit");
        }
        for problem in &row.problems {
            println!("! {problem}");
        }
        rows.push(row);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let unverified = rows.iter().filter(|row| !row.verified).count();
    let met = rows.iter().filter(|row| row.met == Some(true)).count();
    let bars = rows.iter().filter(|row| row.met.is_some()).count();
    println!(
        "{} configurations, {unverified} not verified; {met} of {bars} bars met",
        rows.len()
    );
    Ok(unverified == 0)
}

/// How the ranks are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Up,
    /// One after the other, so that they also come in this order.
    Down,
    /// All by one process.
    Together,
}

/// One configuration, by processes of its own.
fn measure(
    args: &Args,
    shape: Shape,
    seed: u64,
    program: &Path,
    logs: &Path,
    start: Start,
) -> Result<(Row, Vec<Timing>)> {
    std::fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let meeting = Meeting::serve(&StoreArgs::default(), None)?;
    let mut setup = Setup {
        program: program.to_path_buf(),
        logs: logs.to_path_buf(),
        arguments: arguments(args, &shape, seed, meeting.address()),
    };
    if start == Start::Together {
        setup.arguments.push("--share".to_owned());
    }
    let mut processes = Processes::new(&setup);
    match start {
        Start::Together => processes.spawn(0, None, &[])?,
        Start::Up => (0..shape.ranks).try_for_each(|rank| processes.spawn(rank, None, &[]))?,
        Start::Down => {
            for rank in (0..shape.ranks).rev() {
                processes.spawn(rank, None, &[])?;
                if rank > 0 {
                    std::thread::sleep(APART);
                }
            }
        }
    }
    let deadline = now_us() + args.deadline_s * 1_000_000;
    while processes.any_left() {
        processes.hear(POLL);
        if now_us() >= deadline {
            let problem = format!("not done after {} s", args.deadline_s);
            processes.record.problems.push(problem);
            break;
        }
    }
    processes.end();
    let lives = processes.record.lives.iter();
    let said = lives.flat_map(|life| &life.heard);
    let timings = said.filter_map(|(_, event)| match event {
        Event::Timing(timing) => Some(timing.clone()),
        _ => None,
    });
    let timings: Vec<Timing> = timings.collect();
    let problems = std::mem::take(&mut processes.record.problems);
    Ok((table::row(shape, &timings, problems), timings))
}

/// What every rank's process is told.
fn arguments(args: &Args, shape: &Shape, seed: u64, store: &str) -> Vec<String> {
    let settings = [
        ("capacity", shape.ranks.to_string()),
        ("store", store.to_owned()),
        ("experts", shape.experts.to_string()),
        ("hidden", HIDDEN.to_string()),
        ("tokens", shape.tokens.to_string()),
        ("least-tokens", shape.least_tokens.to_string()),
        ("top-k", TOP_K.to_string()),
        ("dispatch", name_of(shape.dispatch)),
        ("routing", name_of(shape.routing)),
        ("seed", seed.to_string()),
        ("layers", args.pairs.to_string()),
        ("replays", args.replays.to_string()),
    ];
    let settings = settings.into_iter();
    std::iter::once("bench".to_owned())
        .chain(settings.map(|(flag, value)| format!("--{flag}={value}")))
        .collect()
}
