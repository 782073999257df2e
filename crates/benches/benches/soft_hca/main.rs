//! Throughput and latency of `soft-hca` by size, beside raw UDP sockets that
//! send the same packets over the same loopback.
//!
//! `cargo bench -p benches --bench soft_hca` takes half a minute; with `--
//! throughput` or `-- latency` it measures only that. Both sides
//! of a line are measured in turn, so that what else the machine does concerns
//! both, and the medians are compared.
//!
//! The sockets send what an RC connection would: datagrams of an MTU and its
//! headers, a short one back for every message, as much in flight as a queue
//! pair has. They use segmentation offload where `soft-hca` does, which is the
//! column `batched`, and go without in `single`. They compute no checksum, and
//! what arrives stays in the receive buffer.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may end here and prints what it finds"
)]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../../soft-hca/tests/it/client.rs"]
mod client;
mod pair;
mod udp;

use std::time::Duration;

use pair::Bench;
use udp::Sockets;

/// Times that each side has its turn.
const ROUNDS: usize = 7;
/// How long a turn takes.
const TURN: Duration = Duration::from_millis(150);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures two sides in turn; the medians.
fn in_turn(mut soft: impl FnMut() -> f64, mut raw: impl FnMut() -> f64) -> (f64, f64) {
    // Not counted: sockets are made, memory is touched.
    let _ = (soft(), raw());
    let (mine, theirs): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| (soft(), raw())).unzip();
    (median(mine), median(theirs))
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn throughput(batched: bool) {
    let name = if batched { "batched" } else { "single" };
    println!("throughput of writes, {name}, MiB/s    soft-hca      UDP   ratio");
    for size in [4 << 10, 16 << 10, 64 << 10, 256 << 10] {
        let mut bench = Bench::new(batched);
        let mut sockets = Sockets::new(batched);
        let (mine, theirs) = in_turn(
            || bench.throughput(size, TURN),
            || sockets.throughput(size, TURN),
        );
        let ratio = mine / theirs;
        println!("{size:>35} B {mine:>10.0} {theirs:>8.0} {ratio:>7.2}");
    }
}

fn latency() {
    println!("one way, microseconds                   soft-hca      UDP   ratio");
    for size in [8, 64, 1024, 4096] {
        for spin in [false, true] {
            let mut bench = Bench::new(true);
            let (mine, theirs) = in_turn(
                || bench.latency(size, TURN),
                || udp::latency(size, spin, TURN),
            );
            let how = if spin { "polling" } else { "blocking" };
            let ratio = mine / theirs;
            println!("{size:>10} B, UDP {how:<20} {mine:>11.2} {theirs:>8.2} {ratio:>7.2}");
        }
    }
}

fn main() {
    println!("load before: {}", load());
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with('-'))
        .collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    if wanted("throughput") {
        throughput(true);
        throughput(false);
    }
    if wanted("latency") {
        latency();
    }
    println!("load after: {}", load());
}
