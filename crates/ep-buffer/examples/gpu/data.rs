//! What each rank brings, and what experts make of it: pure functions of the seed, so that any
//! rank knows what any other has.

use crate::gpu_args::Args;
use crate::moe::routing::{Choices, Routing};
use ep_buffer::Config;
use ep_buffer::testing::reference::Batch;
use ep_transport::Rank;
use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Values that rows are cut from; a prime, so that cuts seldom meet.
const POOL: usize = 1_048_573;

/// Everything that is random.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    config: Config,
    seed: u64,
    routing: Routing,
    /// Of each rank.
    tokens: Vec<u32>,
    pool: Vec<bf16>,
}

impl Data {
    pub(crate) fn new(config: &Config, args: &Args) -> Self {
        let (seed, routing) = (args.common.seed, args.common.routing);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values = POOL + config.hidden() as usize;
        let mut value = || bf16::from_f32(rng.random_range(-3.0..3.0));
        Self {
            config: config.clone(),
            seed,
            routing,
            tokens: (0..config.capacity()).map(|r| args.tokens_of(r)).collect(),
            pool: (0..values).map(|_| value()).collect(),
        }
    }

    /// As many values as a row has, another range of the pool for every `what`.
    fn row(&self, what: [u64; 4]) -> &[bf16] {
        let mix = |state: u64, word: u64| {
            let state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            state ^ state >> 29
        };
        let at = what.into_iter().fold(self.seed, mix) % POOL as u64;
        &self.pool[at as usize..at as usize + self.config.hidden() as usize]
    }

    /// The tokens of `rank` in round `round`; the routing is the same in all of them.
    pub(crate) fn batch(&self, rank: Rank, round: u64) -> Batch {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(1 + u64::from(rank.0));
        let at_rank_0 = self.config.placement().local_experts(Rank(0));
        let (experts, top_k) = (self.config.experts(), self.config.max_top_k() as usize);
        let mut batch = Batch {
            top_k,
            ..Batch::default()
        };
        for token in 0..self.tokens[rank.index()] {
            let choices = Choices::random(self.routing, (experts, at_rank_0), top_k, &mut rng);
            batch.topk_idx.extend(choices.experts);
            batch.topk_weights.extend(choices.weights);
            let what = [0, round, rank.0.into(), token.into()];
            batch.x.extend_from_slice(self.row(what));
        }
        batch
    }

    /// What `expert` makes of a token of `rank`: nothing that the token has to do with, so that
    /// one row in the place of another shows.
    pub(crate) fn result(&self, expert: u32, rank: Rank, token: u32) -> &[bf16] {
        self.row([1, expert.into(), rank.0.into(), token.into()])
    }
}
