//! Random operations against the model, for as long as asked:
//! `cargo run --release -p memheap --example soak -- --seconds 60 [--seed N]`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program stops at the first difference and says what it did"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Op, Pair};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Operations between checks of the whole heap, which take time in proportion
/// to it.
const OPS_PER_CHECK: u64 = 20_000;
/// Operations until a heap is emptied and another made.
const OPS_PER_HEAP: u64 = 400_000;

fn main() {
    let seconds = argument("--seconds").unwrap_or(10);
    let seed = argument("--seed").unwrap_or(1);
    let mut random = SmallRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut operations, mut heaps, mut most_live) = (0u64, 0u64, 0);
    while Instant::now() < end {
        let granule = 1 << random.random_range(0..13);
        let mut pair = Pair::new(1 << random.random_range(20..32), granule);
        for op in 0..OPS_PER_HEAP {
            pair.apply(Op::decode(random.random()));
            operations += 1;
            if op % OPS_PER_CHECK == 0 {
                pair.check();
                most_live = most_live.max(pair.live());
                if Instant::now() >= end {
                    break;
                }
            }
        }
        pair.finish();
        heaps += 1;
    }
    println!(
        "{operations} operations on {heaps} heaps, up to {most_live} live blocks, seed {seed}: no difference"
    );
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|a| a != name).skip(1);
    arguments.next()?.parse().ok()
}
