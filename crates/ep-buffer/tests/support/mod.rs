//! What the tests share: threads as ranks, inputs, and the obvious reference.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part"
)]

pub(crate) mod fake;

use ep_buffer::testing::reference::{self, Batch, Delivered, Reference, Rows};
use ep_buffer::testing::{Cluster, Network, TestFabric};
use ep_buffer::{Config, DispatchType, EpBuffer, ScaleFormat};
use ep_transport::{Fabric, Rank};
use half::bf16;
use std::thread;
use std::time::Duration;

pub(crate) type Buffer = EpBuffer<TestFabric>;

/// A short time-out for tests in which somebody is dead, long enough for a machine
/// on which many tests share two cores.
pub(crate) const TIME_OUT: Duration = Duration::from_millis(400);

/// All that rows can be dispatched as.
pub(crate) const ALL_TYPES: [DispatchType; 3] = [
    DispatchType::Bf16,
    DispatchType::Fp8(ScaleFormat::F32),
    DispatchType::Fp8(ScaleFormat::Ue8m0),
];

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

    fn batch(&self) -> Batch {
        Batch {
            top_k: self.top_k,
            x: self.x.clone(),
            topk_idx: self.topk_idx.clone(),
            topk_weights: self.topk_weights.clone(),
        }
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
        let hidden = buffer.config().hidden() as usize;
        let rows = expert_out[range].chunks_exact_mut(hidden);
        for (at, results) in rows.enumerate() {
            for (result, x) in results.iter_mut().zip(out.row(local, at).unwrap()) {
                *result = bf16::from_f64(expert(first + local as u32, x.into()));
            }
        }
    }
}

/// Compares all that a dispatch delivered with what `sources` brought.
pub(crate) fn check_dispatch<F: Fabric>(
    buffer: &EpBuffer<F>,
    out: &ep_buffer::DispatchOutput,
    tokens: &[Tokens],
    sources: &[Rank],
) {
    assert_eq!(out.answered().iter().collect::<Vec<_>>(), sources);
    let batches: Vec<Batch> = tokens.iter().map(Tokens::batch).collect();
    let reference = Reference::new(buffer.config(), &batches, out.answered());
    let delivered = Delivered {
        recv_count: out.recv_count(),
        src_info: out.src_info(),
        layout_range: out.layout_range(),
        rows: out.rows(),
    };
    let rows = match delivered.rows {
        Rows::Bf16(_) => DispatchType::Bf16,
        Rows::Fp8(..) => DispatchType::Fp8(ScaleFormat::F32),
        Rows::Fp8Ue8m0(..) => DispatchType::Fp8(ScaleFormat::Ue8m0),
    };
    assert_eq!(rows, buffer.config().dispatch_type());
    reference.check_dispatch(buffer.rank(), &delivered).unwrap();
}

/// Compares what a combine delivered with a sum over the choices whose owners are among
/// `present`, and the missing bits with the others.
pub(crate) fn check_combine(
    config: &Config,
    own: &Tokens,
    out: &ep_buffer::CombineOutput,
    present: &[Rank],
) {
    let hidden = config.hidden() as usize;
    assert_eq!(out.missing().len(), own.count());
    assert_eq!(out.x().len(), own.x.len());
    let result = |e: u32, token: usize, row: &mut [bf16]| {
        let x = &own.x[token * hidden..(token + 1) * hidden];
        let seen = reference::as_dispatched(config.dispatch_type(), x);
        for (to, x) in row.iter_mut().zip(seen) {
            *to = bf16::from_f64(expert(e, x.into()));
        }
    };
    let present = present.iter().copied().collect();
    let delivered = (out.x(), out.missing());
    // Whose they are is only for the error.
    reference::check_combine(config, Rank(0), &own.batch(), &present, delivered, result).unwrap();
}
