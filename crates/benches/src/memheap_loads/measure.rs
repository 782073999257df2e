//! Side by side: all allocators in one process, on one core, round by round, so
//! that what disturbs one disturbs all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Load, Named, Run, threads};

/// Rounds of which the median is taken.
const ROUNDS: usize = 9;
/// Time that one allocator gets in one round.
const ROUND: Duration = Duration::from_millis(30);
/// Time that bringing one allocator to the steady state may take.
const WARM_UP: Duration = Duration::from_secs(4);

/// What was measured of an allocator under a load.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Nanoseconds per operation; an allocation is one, a free another.
    pub ns_per_op: f64,
    /// Median over the rounds of this time over that of the first allocator,
    /// which is `memheap` (`memheap shared` where threads share).
    pub ratio_to_memheap: f64,
    /// The highest end of any block over the peak of live bytes.
    pub footprint: Option<f64>,
    /// Requests that found no place.
    pub failures: u64,
}

/// Allocators by name.
pub type ByAllocator = BTreeMap<String, Figures>;

/// Everything, in the order and shape of the JSON file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Load, allocator, figures.
    pub loads: BTreeMap<String, ByAllocator>,
    /// One load at growing numbers of live blocks.
    pub scaling: BTreeMap<String, ByAllocator>,
    /// One heap between two threads.
    pub threads: BTreeMap<String, ByAllocator>,
}

/// Binds the calling thread to a core, and says whether that worked.
pub fn pin(core: usize) -> bool {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).is_ok()
}

/// Measures the allocators under one load. The first is what the others are
/// compared with; those that cannot serve the load are left out.
pub fn compare(load: &Load, contenders: &[Named]) -> ByAllocator {
    let started = contenders.iter().filter_map(|(name, start)| {
        let mut runner = start(load)?;
        let pairs = warm_up(load, runner.as_mut());
        Some((*name, runner, pairs))
    });
    let mut running: Vec<_> = started.collect();
    let mut rounds = vec![Vec::new(); running.len()];
    for _ in 0..ROUNDS {
        for ((_, runner, pairs), times) in running.iter_mut().zip(&mut rounds) {
            let operations = (2 * *pairs) as f64;
            times.push(runner.time(*pairs).as_nanos() as f64 / operations);
        }
    }
    let base = rounds.first().cloned().unwrap_or_default();
    let figures = running
        .iter()
        .zip(rounds)
        .map(|((name, runner, _), times)| {
            let figures = Figures {
                ratio_to_memheap: ratio(&times, &base),
                ns_per_op: median(times),
                footprint: Some(runner.footprint()),
                failures: runner.failures(),
            };
            ((*name).to_owned(), figures)
        });
    figures.collect()
}

/// Brings a runner to the steady state. Returns the pairs that fill a round.
fn warm_up(load: &Load, runner: &mut dyn Run) -> usize {
    let wanted = (4 * load.slots).max(40_000);
    // A multiple of what a round of queues replaces.
    let step = 1024;
    let start = Instant::now();
    let mut done = 0;
    while done < wanted && start.elapsed() < WARM_UP {
        runner.warm_up(step);
        done += step;
    }
    let each = runner.time(step).as_secs_f64() / step as f64;
    let pairs = ROUND.as_secs_f64() / each;
    (pairs as usize).next_multiple_of(step)
}

/// Measures heaps that two threads share.
pub fn compare_threads() -> ByAllocator {
    let mut rounds: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..ROUNDS {
        for (i, (name, run)) in threads::SHARED.iter().enumerate() {
            if rounds.len() == i {
                rounds.push((name, Vec::new()));
            }
            rounds[i].1.push(run());
        }
    }
    let base = rounds.first().map(|r| r.1.clone()).unwrap_or_default();
    let figures = rounds.into_iter().map(|(name, times)| {
        let figures = Figures {
            ratio_to_memheap: ratio(&times, &base),
            ns_per_op: median(times),
            footprint: None,
            failures: 0,
        };
        (name.to_owned(), figures)
    });
    figures.collect()
}

fn ratio(times: &[f64], base: &[f64]) -> f64 {
    median(times.iter().zip(base).map(|(t, b)| t / b).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
