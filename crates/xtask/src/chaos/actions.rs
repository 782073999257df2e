//! What is done to the ranks, drawn from a seed.

use super::Args;
use crate::demo::plan::DataPath;
use crate::demo::store::StoreKind;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Something bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// SIGKILL; a new process is started after so many milliseconds.
    Kill {
        back_ms: u64,
    },
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Freeze {
        ms: u64,
    },
    /// SIGSTOP, and SIGCONT when a new process has taken the rank.
    Oust,
    Lose {
        percent: u64,
        ms: u64,
    },
    LinkDown {
        ms: u64,
    },
    FailCommand {
        number: u64,
    },
    /// SIGKILL for the etcd that everybody meets on, which is started again after so
    /// many milliseconds.
    EtcdRestart {
        back_ms: u64,
    },
}

/// One of them, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) harm: Harm,
    /// Not before everybody counts everybody again: else also in the middle of an update.
    pub(crate) settled: bool,
    /// How long after the last one, or after everything had settled.
    pub(crate) delay_us: u64,
}

/// Draws all of them, in order.
pub(crate) fn draw(args: &Args, seed: u64) -> Vec<Action> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Stream 0 makes the weights, and those after it the tokens.
    rng.set_stream(u64::MAX);
    let half = args.kills.div_ceil(2);
    let mut harms = Vec::new();
    for _ in 0..args.kills {
        let back_ms = rng.random_range(0..200);
        harms.push(Harm::Kill { back_ms });
    }
    for freeze in 0..args.freezes.unwrap_or(half) {
        harms.push(match freeze % 3 {
            2 => Harm::Oust,
            // Too short for anybody to notice ...
            0 => Harm::Freeze {
                ms: rng.random_range(5..300),
            },
            // ... long enough for the others to go on, and for the lease to end.
            _ => Harm::Freeze {
                ms: rng.random_range(1_000..4_000),
            },
        });
    }
    if args.path == DataPath::Rdma {
        for _ in 0..args.faults.unwrap_or(half) {
            harms.push(Harm::Lose {
                percent: rng.random_range(1..20),
                ms: rng.random_range(50..500),
            });
            harms.push(Harm::LinkDown {
                ms: rng.random_range(10..400),
            });
            harms.push(Harm::FailCommand {
                number: rng.random_range(0..8),
            });
        }
    }
    if args.meeting.store == StoreKind::Etcd {
        for _ in 0..args.etcd_restarts.unwrap_or(half) {
            let back_ms = rng.random_range(0..3_000);
            harms.push(Harm::EtcdRestart { back_ms });
        }
    }
    harms.shuffle(&mut rng);
    harms
        .into_iter()
        .map(|harm| Action {
            harm,
            settled: rng.random_ratio(2, 3),
            delay_us: rng.random_range(0..150_000),
        })
        .collect()
}
