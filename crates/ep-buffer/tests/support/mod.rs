//! What the tests share: threads as ranks, inputs, and the obvious reference.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part"
)]

pub(crate) mod fake;

use ep_buffer::testing::{Cluster, Network, TestFabric};
use ep_buffer::{Config, EpBuffer};
use ep_transport::{Fabric, Rank};
use half::bf16;
use std::thread;
use std::time::Duration;

pub(crate) type Buffer = EpBuffer<TestFabric>;

/// A short time-out for tests in which somebody is dead, long enough for a machine
/// on which many tests share two cores.
pub(crate) const TIME_OUT: Duration = Duration::from_millis(400);

/// Runs `body` for every rank, each on a thread, and returns what they return.
pub(crate) fn on_ranks<T: Send>(
    config: &Config,
    network: Network,
    body: impl Fn(Buffer, &Cluster) -> T + Sync,
) -> Vec<T> {
    let (cluster, fabrics) = Cluster::with_ranks(config, network, config.capacity()).unwrap();
    thread::scope(|scope| {
        let threads: Vec<_> = fabrics
            .into_iter()
            .map(|fabric| {
                let buffer = EpBuffer::new(config.clone(), fabric).unwrap();
                let (body, cluster) = (&body, &cluster);
                scope.spawn(move || body(buffer, cluster))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// What one rank brings to a dispatch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) x: Vec<bf16>,
    pub(crate) topk_idx: Vec<i32>,
    pub(crate) topk_weights: Vec<f32>,
    pub(crate) top_k: usize,
}

impl Tokens {
    pub(crate) fn count(&self) -> usize {
        self.topk_idx.len() / self.top_k
    }

    /// `count` tokens of `hidden` elements that depend on everything, with choices
    /// and weights from a simple hash.
    pub(crate) fn hashed(
        config: &Config,
        seed: u64,
        rank: Rank,
        count: usize,
        top_k: usize,
    ) -> Self {
        let hidden = config.hidden() as usize;
        let mut state = hash(seed ^ hash(u64::from(rank.0) + 1));
        let mut next = || {
            state = hash(state);
            state
        };
        let x = (0..count * hidden)
            .map(|_| bf16::from_f32((next() % 2001) as f32 / 1000.0 - 1.0))
            .collect();
        let topk_idx = (0..count * top_k)
            .map(|_| (next() % (u64::from(config.experts()) + 1)) as i32 - 1)
            .collect();
        let topk_weights = (0..count * top_k)
            .map(|_| (next() % 1000) as f32 / 1000.0)
            .collect();
        Self {
            x,
            topk_idx,
            topk_weights,
            top_k,
        }
    }
}

pub(crate) fn hash(x: u64) -> u64 {
    let x = (x ^ x >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
    let x = (x ^ x >> 27).wrapping_mul(0x81da_def4_bc2d_d44d);
    x ^ x >> 33
}

/// What the experts of these tests compute: not linear in the expert, so that a row
/// at the wrong expert shows.
pub(crate) fn expert(expert: u32, x: f64) -> f64 {
    x * (1.0 + f64::from(expert % 7)) + f64::from(expert) / 8.0
}

/// Runs the experts of `buffer` on what a dispatch delivered.
pub(crate) fn run_experts<F: Fabric>(
    buffer: &EpBuffer<F>,
    out: &ep_buffer::DispatchOutput,
    expert_out: &mut [bf16],
) {
    let first = buffer.config().placement().experts_of(buffer.rank()).start;
    for local in 0..out.recv_count().len() {
        let range = out.expert_range(local).unwrap();
        for i in range {
            let x = out.recv_x()[i].to_f64();
            expert_out[i] = bf16::from_f64(expert(first + local as u32, x));
        }
    }
}

/// What `rank` must receive for its local expert: (source, token), in order.
pub(crate) fn expected_rows(
    config: &Config,
    tokens: &[Tokens],
    sources: &[Rank],
    expert: u32,
) -> Vec<(Rank, u32)> {
    let mut rows = Vec::new();
    for source in sources {
        let of = &tokens[source.index()];
        for token in 0..of.count() {
            let choices = &of.topk_idx[token * of.top_k..(token + 1) * of.top_k];
            if choices.contains(&(expert as i32)) {
                rows.push((*source, token as u32));
            }
        }
    }
    assert!(rows.len() <= config.rows_per_expert());
    rows
}

/// Compares all that a dispatch delivered with what `sources` brought.
pub(crate) fn check_dispatch<F: Fabric>(
    buffer: &EpBuffer<F>,
    out: &ep_buffer::DispatchOutput,
    tokens: &[Tokens],
    sources: &[Rank],
) {
    let config = buffer.config();
    let hidden = config.hidden() as usize;
    let capacity = config.capacity() as usize;
    assert_eq!(out.answered().iter().collect::<Vec<_>>(), sources);
    for (local, expert) in config.placement().experts_of(buffer.rank()).enumerate() {
        let rows = expected_rows(config, tokens, sources, expert);
        assert_eq!(out.recv_count()[local] as usize, rows.len());
        let got = out.expert_rows(local).unwrap();
        for (i, (source, token)) in rows.iter().enumerate() {
            assert_eq!(out.src_info()[local * config.rows_per_expert() + i], *token);
            let t = *token as usize;
            let sent = &tokens[source.index()].x[t * hidden..(t + 1) * hidden];
            assert_eq!(&got[i * hidden..(i + 1) * hidden], sent);
        }
        for source in (0..config.capacity()).map(Rank) {
            let range = out.layout_range()[local * capacity + source.index()];
            let count = rows.iter().filter(|(s, _)| *s == source).count();
            assert_eq!(range.count as usize, count);
            if count > 0 {
                let begin = rows.iter().position(|(s, _)| *s == source).unwrap();
                assert_eq!(range.begin as usize, begin);
            }
        }
    }
}

/// Compares what a combine delivered with an f64 sum over the choices whose owners
/// are among `present`, and the missing bits with the others.
pub(crate) fn check_combine(
    config: &Config,
    own: &Tokens,
    out: &ep_buffer::CombineOutput,
    present: &[Rank],
) {
    let hidden = config.hidden() as usize;
    let placement = config.placement();
    assert_eq!(out.missing().len(), own.count());
    assert_eq!(out.x().len(), own.x.len());
    for token in 0..own.count() {
        let mut missing = 0;
        let mut sum = vec![0.0; hidden];
        let mut scale = vec![0.0; hidden];
        for k in 0..own.top_k {
            let Ok(e) = u32::try_from(own.topk_idx[token * own.top_k + k]) else {
                continue;
            };
            if !present.contains(&placement.owner(e)) {
                missing |= 1 << k;
                continue;
            }
            let weight = f64::from(own.topk_weights[token * own.top_k + k]);
            for i in 0..hidden {
                let x = own.x[token * hidden + i].to_f64();
                let result = bf16::from_f64(expert(e, x)).to_f64();
                sum[i] += weight * result;
                scale[i] += (weight * result).abs();
            }
        }
        assert_eq!(out.missing()[token], missing, "token {token}");
        for i in 0..hidden {
            let got = out.x()[token * hidden + i].to_f64();
            // Two roundings to bf16, whose significand has 8 bits: of the partial sums
            // and of the sum, each by at most 2^-8 of what is rounded; f32 adds little.
            let bound = scale[i] * (2.0 / 256.0 + 1e-4) + 1e-30;
            assert!((got - sum[i]).abs() <= bound, "token {token}, element {i}");
        }
    }
}
