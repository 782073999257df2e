//! One allocator under one load, for tools that count instructions. The difference of
//! two runs, with 1 and with 3 rounds, is what 400,000 operations take:
//!
//! ```text
//! cargo build --release -p benches --example memheap_once
//! valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null \
//!     target/release/examples/memheap_once 1000 memheap 1
//! ```
#![expect(clippy::print_stderr, reason = "a program for the command line")]

use std::process::ExitCode;

use benches::memheap_loads::{Load, SCALING};

const PAIRS_PER_ROUND: usize = 100_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [blocks, allocator, rounds] = arguments.as_slice() else {
        eprintln!("usage: memheap_once BLOCKS ALLOCATOR ROUNDS");
        return ExitCode::FAILURE;
    };
    let (Ok(blocks), Ok(rounds)) = (blocks.parse(), rounds.parse::<usize>()) else {
        eprintln!("{blocks} and {rounds} are to be numbers");
        return ExitCode::FAILURE;
    };
    let load = Load::log_uniform(blocks);
    let named = SCALING.iter().find(|(name, _)| name == allocator);
    let Some(mut runner) = named.and_then(|(_, start)| start(&load)) else {
        let names: Vec<&str> = SCALING.iter().map(|(name, _)| *name).collect();
        eprintln!("no allocator {allocator} that serves {blocks} blocks: {names:?}");
        return ExitCode::FAILURE;
    };
    runner.warm_up(2 * blocks);
    runner.time(rounds * PAIRS_PER_ROUND);
    ExitCode::SUCCESS
}
