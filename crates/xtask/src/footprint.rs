//! `cargo xtask footprint`: how much control memory a rank needs.
//!
//! Control memory is what the queues of a rank live in: for each queue pair a send
//! queue, two doorbell records and the one entry of its collapsed completion queue.

use anyhow::{Result, ensure};
use ep_transport::store::MemStore;
use ep_transport::{Group, GroupConfig, Path, Rank};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A rank with this many peers and itself ...
const BAR_RANKS: u32 = 8;
/// ... and this many queue pairs to each of them ...
const BAR_LANES: u32 = 4;
/// ... needs at most this much.
const BAR_BYTES: u64 = 4 << 20;

/// Bytes of a work queue entry's basic block.
const ENTRY: u64 = 64;
/// A completion queue entry and two doorbell records, each on a cache line.
const BESIDE: u64 = 3 * 64;
const PAGE: u64 = 4096;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ranks in the group, 1 to 2,048; smaller groups are shown too
    #[arg(long, default_value_t = 8)]
    ranks: u32,
    /// Queue pairs to each peer
    #[arg(long, default_value_t = BAR_LANES)]
    lanes: u32,
    /// Entries of each send queue
    #[arg(long)]
    depth: Option<u32>,
    /// Measure no group for which more queue pairs than this have to be made
    #[arg(long, value_name = "QUEUE PAIRS", default_value_t = 1 << 15)]
    measure_up_to: u64,
}

/// What one group needs.
struct Row {
    ranks: u32,
    queue_pairs: u64,
    formula: u64,
    /// What a rank really has, and how long it took to set it up.
    measured: Option<(u64, Duration)>,
}

/// Prints the table; whether what was measured is what the formula says, and no more
/// than it may be.
pub(crate) fn run(args: &Args) -> Result<bool> {
    ensure!(
        (1..=2048).contains(&args.ranks),
        "--ranks {} is out of range: 1 to 2048",
        args.ranks
    );
    ensure!(
        (1..=16).contains(&args.lanes),
        "--lanes {} is out of range: 1 to 16",
        args.lanes
    );
    let mut config = GroupConfig::new(Rank(0), args.ranks);
    config.path = Path::Rdma;
    config.lanes = args.lanes;
    config.queue_depth = args.depth.unwrap_or(config.queue_depth);
    println!(
        "bytes = (ranks - 1) x {lanes} queue pairs x ({depth} entries x {ENTRY} + {BESIDE}), in whole pages of {PAGE}\n",
        lanes = config.lanes,
        depth = config.queue_depth
    );
    println!(
        "{:>6}{:>13}{:>14}{:>14}{:>12}",
        "ranks", "queue pairs", "formula", "measured", "set up in"
    );
    let mut good = true;
    for ranks in sizes(args.ranks) {
        config.capacity = ranks;
        config.initial = vec![Rank(0)];
        let row = row(&config, args.measure_up_to)?;
        println!("{}", text(&row));
        good &= row.measured.is_none_or(|(bytes, _)| bytes == row.formula);
        if ranks == BAR_RANKS && config.lanes == BAR_LANES && args.depth.is_none() {
            good &= row.formula <= BAR_BYTES;
            println!(
                "       {ranks} ranks with {BAR_LANES} queue pairs to each peer may need {BAR_BYTES}"
            );
        }
    }
    Ok(good)
}

/// The powers of two up to `ranks`, and `ranks`.
fn sizes(ranks: u32) -> Vec<u32> {
    let powers = (1..11).map(|power| 1 << power);
    let mut sizes: Vec<u32> = powers.take_while(|size| *size < ranks).collect();
    sizes.push(ranks);
    sizes
}

fn formula(config: &GroupConfig) -> u64 {
    // A group of one has room for a link as well, so that there is memory to register.
    let peers = u64::from(config.capacity.max(2) - 1);
    let queue_pair = u64::from(config.queue_depth) * ENTRY + BESIDE;
    (peers * u64::from(config.lanes) * queue_pair).next_multiple_of(PAGE)
}

fn row(config: &GroupConfig, limit: u64) -> Result<Row> {
    let queue_pairs = u64::from(config.capacity - 1) * u64::from(config.lanes);
    let measured = if queue_pairs <= limit {
        let begun = Instant::now();
        let group = Group::open(config, PAGE, Arc::new(MemStore::new()))?;
        let took = begun.elapsed();
        let snapshot = group.snapshot();
        ensure!(
            snapshot.queue_pairs.len() as u64 == queue_pairs,
            "{} queue pairs in place of {queue_pairs}",
            snapshot.queue_pairs.len()
        );
        Some((snapshot.control_bytes, took))
    } else {
        None
    };
    Ok(Row {
        ranks: config.capacity,
        queue_pairs,
        formula: formula(config),
        measured,
    })
}

fn text(row: &Row) -> String {
    let (measured, took) = match row.measured {
        Some((bytes, took)) => (
            bytes.to_string(),
            format!("{:.1} ms", took.as_secs_f64() * 1e3),
        ),
        None => ("not measured".to_owned(), "-".to_owned()),
    };
    let wrong = row.measured.is_some_and(|(bytes, _)| bytes != row.formula);
    format!(
        "{:>6}{:>13}{:>14}{:>14}{:>12}{}",
        row.ranks,
        row.queue_pairs,
        row.formula,
        measured,
        took,
        if wrong { "  DIFFERS" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_has_what_the_formula_says() -> Result<()> {
        for (ranks, lanes, depth) in [(1, 1, 8), (8, 4, 64), (5, 3, 128)] {
            let mut config = GroupConfig::new(Rank(0), ranks);
            (config.lanes, config.queue_depth) = (lanes, depth);
            let row = row(&config, u64::MAX)?;
            assert_eq!(row.measured.map(|(bytes, _)| bytes), Some(row.formula));
        }
        Ok(())
    }

    #[test]
    fn sizes_end_with_the_one_asked_for() {
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(8), [2, 4, 8]);
        assert_eq!(sizes(9), [2, 4, 8, 9]);
        assert_eq!(sizes(2048).len(), 11);
    }
}
