//! What it costs to take new processes in: `cargo bench -p benches --bench update`.
//!
//! All ranks are in this process, each with a software NIC, its agent and its lease.
//! `one` and `four` have that many ranks replaced; `all` connects every queue pair of
//! every rank, as a system does that rebuilds everything on each change, with the same
//! code (making the queue pairs is not counted in). Takes some three minutes on two
//! cores, which all ranks share: `time` is of the whole group. What one rank needs is in
//! the column `agent`: how long its membership agent ran, commands to the NIC included,
//! whoever else wanted the processor. The last table is of one survivor in a process of its
//! own: what it does, and not what the others do to its caches. `-- alone` makes that only.
#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "the table is the result")]

mod alone;
mod cluster;
mod counted;
mod threads;

use cluster::{Cluster, Cost, LANES};
use criterion::{AxisScale, BenchmarkId, Criterion, PlotConfiguration, SamplingMode};
use std::time::Duration;

const RANKS: [u32; 6] = [4, 8, 16, 32, 64, 128];
/// Of larger groups the connecting of everything is timed once, and not plotted.
const LARGEST_SAMPLED: u32 = 32;
/// Reset, Init, RTR, RTS.
const COMMANDS_PER_QP: u64 = 4;
/// Records that a survivor publishes or deletes in one attempt, and records of others that
/// it is told of: so many however large the group is.
const MOST_SENT: u64 = 8;
const MOST_HEARD: u64 = 16;
/// Characters for a factor of ten.
const BAR_OF_TEN: f64 = 12.0;

/// What was measured for one size.
#[derive(Default)]
struct Row {
    ranks: u32,
    one: Vec<Cost>,
    four: Vec<Cost>,
    all: Vec<Cost>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, store, ranks] = arguments.as_slice()
        && first == alone::ARGUMENT
    {
        return alone::survive(store, ranks);
    }
    if !arguments.iter().any(|argument| argument == alone::ONLY) {
        in_one_process();
    }
    let alone: Vec<_> = RANKS.into_iter().map(alone::measure).collect();
    alone::table(&alone);
}

fn in_one_process() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = Vec::new();
    let mut group = criterion.benchmark_group("update");
    group.sample_size(10);
    group.sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1));
    group.nresamples(1_000);
    group.plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
    for ranks in RANKS {
        let mut row = Row {
            ranks,
            ..Row::default()
        };
        group.measurement_time(Duration::from_secs(1));
        let mut cluster = Cluster::open(ranks);
        cluster.connect_all();
        for (name, count, costs) in [("one", 1, &mut row.one), ("four", 4, &mut row.four)] {
            if count >= ranks {
                continue;
            }
            group.bench_function(BenchmarkId::new(name, ranks), |bencher| {
                bencher.iter_custom(|iterations| {
                    let replace = |_| {
                        let cost = cluster.replace(count as usize);
                        let time = cost.time;
                        costs.push(cost);
                        time
                    };
                    (0..iterations).map(replace).sum()
                });
            });
        }
        drop(cluster);
        if ranks > LARGEST_SAMPLED {
            // One run is enough to compare, ten would take minutes.
            row.all.push(Cluster::open(ranks).connect_all());
            rows.push(row);
            continue;
        }
        group.bench_function(BenchmarkId::new("all", ranks), |bencher| {
            bencher.iter_custom(|iterations| {
                let connect = |_| {
                    let cost = Cluster::open(ranks).connect_all();
                    let time = cost.time;
                    row.all.push(cost);
                    time
                };
                (0..iterations).map(connect).sum()
            });
        });
        rows.push(row);
    }
    group.finish();
    criterion.final_summary();
    table(&rows);
    growth(&rows);
}

/// The costs of one size by what was changed, and how many peers that is.
fn parts(row: &Row) -> impl Iterator<Item = (&'static str, u64, &[Cost])> {
    let peers = u64::from(row.ranks - 1);
    let parts = [
        ("one", 1, &row.one[..]),
        ("four", 4, &row.four),
        ("all", peers, &row.all),
    ];
    parts.into_iter().filter(|(.., costs)| !costs.is_empty())
}

fn milliseconds(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.time.as_secs_f64() * 1e3))
}

/// How long the agent of one rank ran, in microseconds.
fn agent(costs: &[Cost]) -> f64 {
    let times = costs.iter().flat_map(|cost| &cost.agent);
    median(times.map(|time| time.as_secs_f64() * 1e6))
}

fn table(rows: &[Row]) {
    println!(
        "\n{:>6} {:>8} {:>10} {:>7} {:>10} {:>7} {:>20} {:>8} {:>14} {:>6} {:>8}",
        "ranks",
        "changed",
        "time",
        "ratio",
        "agent",
        "ratio",
        "commands of a rank",
        "healthy",
        "messages sent",
        "heard",
        "dropped"
    );
    for row in rows {
        for (name, changed, costs) in parts(row) {
            let (time, ran) = (milliseconds(costs), agent(costs));
            let of_ranks = |pick: fn(&Cost) -> Vec<u64>| {
                median(costs.iter().flat_map(pick).map(|count| count as f64))
            };
            let commands = of_ranks(|cost| cost.commands.clone());
            let pairs = changed * u64::from(LANES);
            println!(
                "{:>6} {name:>8} {time:>7.1} ms {:>6.1}x {ran:>7.0} us {:>6.1}x {:>20} {:>8} {:>14} \
                 {:>6} {:>8.1}",
                row.ranks,
                milliseconds(&row.all) / time,
                agent(&row.all) / ran,
                format!("{commands} = {:.1} x {pairs}", commands / pairs as f64),
                of_ranks(|cost| cost.healthy.clone()),
                of_ranks(|cost| cost.messages.iter().map(|m| m.sent).collect()),
                of_ranks(|cost| cost.messages.iter().map(|m| m.heard).collect()),
                costs.iter().map(|cost| cost.dropped.len()).sum::<usize>() as f64
                    / costs.len() as f64,
            );
            if let Some(why) = costs.iter().flat_map(|cost| &cost.dropped).next() {
                println!("{:>15} dropped, for one: {why}", "");
            }
            for cost in costs {
                check(name, changed, cost);
            }
        }
    }
    println!(
        "\nratio: of `all` to this one. Agent: how long the agent of one rank that was there before \
         ran. Commands of a rank: in all, and for each\nof the queue pairs to ranks that changed (a \
         queue pair that is connected for the first time needs no reset). Healthy: queue\npairs to \
         other ranks that saw a command. Messages: with the store, of one rank."
    );
}

/// What must be so whatever the number of ranks is.
fn check(name: &str, changed: u64, cost: &Cost) {
    let attempts = 1 + cost.dropped.len() as u64;
    let most = cost.commands.iter().max();
    assert!(
        most.is_none_or(|most| *most <= COMMANDS_PER_QP * changed * u64::from(LANES) * attempts),
        "more than {COMMANDS_PER_QP} commands for each queue pair: {cost:?}"
    );
    if name != "all" {
        // Several that come in may take an attempt each.
        let attempts = attempts - 1 + changed;
        for messages in &cost.messages {
            assert!(
                messages.sent <= MOST_SENT * attempts && messages.heard <= MOST_HEARD * attempts,
                "survivors hear of more than what has changed: {cost:?}"
            );
        }
    }
}

/// Bars whose length is the logarithm of what an agent needs.
fn growth(rows: &[Row]) {
    println!("\nagent time of one rank, logarithmic:");
    for name in ["one", "four", "all"] {
        for row in rows {
            for (_, _, costs) in parts(row).filter(|part| part.0 == name) {
                let ran = agent(costs);
                let length = (ran.max(1.0).log10() * BAR_OF_TEN) as usize;
                println!(
                    "{name:>5} {:>4} {} {ran:.0} us",
                    row.ranks,
                    "#".repeat(length)
                );
            }
        }
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
