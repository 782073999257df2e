//! The model: an embedding, a router and experts, all made from one seed.

use half::bf16;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// One gated feed-forward network: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    /// `[hidden][inter]`
    gate: Vec<f32>,
    /// `[hidden][inter]`
    up: Vec<f32>,
    /// `[inter][hidden]`
    down: Vec<f32>,
}

/// All weights.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    hidden: usize,
    inter: usize,
    /// `[vocabulary][hidden]`
    embedding: Vec<bf16>,
    /// `[experts][hidden]`
    router: Vec<f32>,
    experts: Vec<Expert>,
}

/// Memory for one evaluation of an expert.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activations {
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
}

impl Model {
    /// The model of `seed`, the same on every rank.
    pub(crate) fn new(
        seed: u64,
        vocabulary: usize,
        experts: u32,
        hidden: usize,
        inter: usize,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Uniform, scaled so that sums over `fan_in` products keep their variance.
        let mut weights = |fan_in: usize, count: usize| -> Vec<f32> {
            let limit = (3.0 / fan_in as f32).sqrt();
            (0..count)
                .map(|_| rng.random_range(-limit..limit))
                .collect()
        };
        let embedding = weights(1, vocabulary * hidden);
        Self {
            hidden,
            inter,
            embedding: embedding.into_iter().map(bf16::from_f32).collect(),
            router: weights(hidden, experts as usize * hidden),
            experts: (0..experts)
                .map(|_| Expert {
                    gate: weights(hidden, hidden * inter),
                    up: weights(hidden, hidden * inter),
                    down: weights(inter, inter * hidden),
                })
                .collect(),
        }
    }

    /// The row that stands for a word.
    pub(crate) fn embed(&self, word: u32) -> &[bf16] {
        &self.embedding[word as usize * self.hidden..][..self.hidden]
    }

    /// The router's scores of all experts for a row, before softmax.
    pub(crate) fn scores(&self, x: &[bf16]) -> Vec<f64> {
        self.router
            .chunks_exact(self.hidden)
            .map(|row| {
                let products = row.iter().zip(x);
                products.map(|(w, x)| f64::from(*w) * x.to_f64()).sum()
            })
            .collect()
    }

    /// Runs an expert as a rank does it: in f32, rounding the result to bf16.
    pub(crate) fn run(
        &self,
        expert: u32,
        x: impl Iterator<Item = f32>,
        work: &mut Activations,
        out: &mut [bf16],
    ) {
        let weights = &self.experts[expert as usize];
        work.gate.clear();
        work.gate.resize(self.inter, 0.0);
        work.up.clear();
        work.up.resize(self.inter, 0.0);
        work.out.clear();
        work.out.resize(self.hidden, 0.0);
        for (i, x) in x.enumerate() {
            let row = i * self.inter..(i + 1) * self.inter;
            add_scaled(&mut work.gate, x, &weights.gate[row.clone()]);
            add_scaled(&mut work.up, x, &weights.up[row]);
        }
        for (i, (gate, up)) in work.gate.iter().zip(&work.up).enumerate() {
            let activation = gate / (1.0 + (-gate).exp()) * up;
            let row = &weights.down[i * self.hidden..(i + 1) * self.hidden];
            add_scaled(&mut work.out, activation, row);
        }
        for (to, from) in out.iter_mut().zip(&work.out) {
            *to = bf16::from_f32(*from);
        }
    }

    /// The reference: the same expert in f64, nothing rounded.
    pub(crate) fn reference(&self, expert: u32, x: &[f32]) -> Vec<f64> {
        let weights = &self.experts[expert as usize];
        let product = |x: &[f64], matrix: &[f32], columns: usize| -> Vec<f64> {
            let mut out = vec![0.0; columns];
            for (x, row) in x.iter().zip(matrix.chunks_exact(columns)) {
                for (out, w) in out.iter_mut().zip(row) {
                    *out += x * f64::from(*w);
                }
            }
            out
        };
        let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
        let gate = product(&x, &weights.gate, self.inter);
        let up = product(&x, &weights.up, self.inter);
        let silu = |gate: f64| gate / (1.0 + (-gate).exp());
        let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
        product(&inner, &weights.down, self.hidden)
    }
}

fn add_scaled(sum: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_agrees_with_its_reference() {
        let model = Model::new(7, 3, 2, 64, 24);
        let mut out = vec![bf16::ZERO; 64];
        for expert in 0..2 {
            let x: Vec<f32> = model.embed(1).iter().map(|x| x.to_f32()).collect();
            let row = x.iter().copied();
            model.run(expert, row, &mut Activations::default(), &mut out);
            let exact = model.reference(expert, &x);
            let scale = exact.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert!(scale > 0.1);
            for (got, want) in out.iter().zip(&exact) {
                assert!((got.to_f64() - want).abs() < scale * 0.0045);
            }
        }
    }

    #[test]
    fn the_seed_makes_the_model() {
        let x = |seed| Model::new(seed, 3, 2, 8, 4).reference(1, &[1.0; 8]);
        assert_eq!(x(1), x(1));
        assert_ne!(x(1), x(2));
    }
}
