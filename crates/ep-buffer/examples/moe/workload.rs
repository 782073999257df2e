//! What each rank brings to each step, a pure function of (seed, rank, step).

use super::model::Model;
use super::routing::{Choices, Routing};
use super::text::Text;
use ep_buffer::{DispatchType, Placement};
use ep_transport::Rank;
use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Everything that decides what is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) capacity: u32,
    pub(crate) experts: u32,
    pub(crate) hidden: usize,
    /// What experts see of a row is rounded as this has it.
    pub(crate) dispatch: DispatchType,
    pub(crate) inter: usize,
    /// Most tokens of a rank in a step.
    pub(crate) tokens: usize,
    pub(crate) top_k: usize,
    pub(crate) routing: Routing,
}

/// The model, the text, and who gets which part of it when.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) shape: Shape,
    pub(crate) placement: Placement,
    pub(crate) model: Model,
    text: Text,
}

/// The tokens of one rank in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Batch {
    /// `[tokens][hidden]`
    pub(crate) x: Vec<bf16>,
    /// `[tokens][top_k]`
    pub(crate) topk_idx: Vec<i32>,
    /// `[tokens][top_k]`
    pub(crate) topk_weights: Vec<f32>,
    pub(crate) tokens: usize,
}

impl Workload {
    pub(crate) fn new(shape: Shape) -> Self {
        let text = Text::load();
        Self {
            shape,
            placement: Placement::new(shape.capacity, shape.experts),
            model: Model::new(
                shape.seed,
                text.vocabulary,
                shape.experts,
                shape.hidden,
                shape.inter,
            ),
            text,
        }
    }

    /// The tokens of `rank` in `step`: the next words of the text, and up to an
    /// eighth less of them than there could be.
    pub(crate) fn batch(&self, rank: Rank, step: u64) -> Batch {
        let shape = &self.shape;
        let mut rng = ChaCha8Rng::seed_from_u64(shape.seed);
        // Stream 0 is the model's.
        rng.set_stream(1 + step * u64::from(shape.capacity) + u64::from(rank.0));
        let tokens = shape.tokens - rng.random_range(0..=shape.tokens / 8);
        let experts = (shape.experts, self.placement.local_experts(Rank(0)));
        let mut batch = Batch {
            tokens,
            ..Batch::default()
        };
        let begin = step * u64::from(shape.capacity) + u64::from(rank.0);
        for i in 0..tokens {
            let place = begin as usize * shape.tokens + i;
            let word = self.text.words[place % self.text.words.len()];
            let x = self.model.embed(word);
            let choices = match shape.routing {
                Routing::Model => Choices::best(&self.model.scores(x), shape.top_k),
                by_chance => Choices::random(by_chance, experts, shape.top_k, &mut rng),
            };
            batch.x.extend_from_slice(x);
            batch.topk_idx.extend(choices.experts);
            batch.topk_weights.extend(choices.weights);
        }
        batch
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn small() -> Workload {
        Workload::new(Shape {
            seed: 11,
            capacity: 3,
            experts: 8,
            hidden: 16,
            dispatch: DispatchType::Bf16,
            inter: 8,
            tokens: 24,
            top_k: 3,
            routing: Routing::Model,
        })
    }

    #[test]
    fn batches_depend_on_rank_and_step_and_nothing_else() {
        let (one, other) = (small(), small());
        assert_eq!(one.batch(Rank(2), 5), other.batch(Rank(2), 5));
        assert_ne!(one.batch(Rank(2), 5), one.batch(Rank(1), 5));
        assert_ne!(one.batch(Rank(2), 5), one.batch(Rank(2), 6));
    }

    #[test]
    fn batches_have_the_shapes_that_dispatch_wants() {
        let workload = small();
        let mut counts = Vec::new();
        for step in 0..20 {
            let batch = workload.batch(Rank(0), step);
            assert!((21..=24).contains(&batch.tokens));
            assert_eq!(batch.x.len(), batch.tokens * 16);
            assert_eq!(batch.topk_idx.len(), batch.tokens * 3);
            assert_eq!(batch.topk_weights.len(), batch.tokens * 3);
            counts.push(batch.tokens);
        }
        counts.sort_unstable();
        assert_ne!(counts[0], counts[19]);
    }
}
