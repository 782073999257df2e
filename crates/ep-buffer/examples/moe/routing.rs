//! Which experts a token chooses.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Ways to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Routing {
    /// The model's router: softmax over its scores, the best `top_k`, renormalised.
    Model,
    /// Every expert alike; one choice in sixteen is left out (-1).
    Uniform,
    /// Few experts are chosen often, most seldom: frequency 1 / (place in the list).
    Zipf,
    /// Nine tokens in ten choose all of their experts among a few.
    KHot,
    /// Every expert alike, and no choice is left out.
    Even,
    /// Every token chooses the first four experts, and any others.
    FourHot,
    /// Only the experts of rank 0; choices beyond them are left out.
    OneRank,
}

/// The choices of one token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choices {
    /// Experts, or -1.
    pub(crate) experts: Vec<i32>,
    /// Their weights; they add up to 1 over the choices that are not -1.
    pub(crate) weights: Vec<f32>,
}

impl Choices {
    /// The `top_k` experts of the highest scores, with softmax weights renormalised
    /// over them. Of equal scores the lower expert wins.
    pub(crate) fn best(scores: &[f64], top_k: usize) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(top_k);
        let most = order.first().map_or(0.0, |best| scores[*best]);
        let weights = order.iter().map(|e| (scores[*e] - most).exp()).collect();
        Self::new(order, weights)
    }

    /// Experts by chance, of which rank 0 has the first `at_rank_0`.
    pub(crate) fn random(
        routing: Routing,
        (experts, at_rank_0): (u32, u32),
        top_k: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let experts = experts as usize;
        let few = (experts / 8).clamp(top_k, experts);
        let pool = match routing {
            Routing::KHot if rng.random_ratio(9, 10) => few,
            Routing::OneRank => at_rank_0 as usize,
            _ => experts,
        };
        let hot = if routing == Routing::FourHot { 4 } else { 0 };
        let mut chosen: Vec<usize> = (0..experts.min(hot).min(top_k)).collect();
        while chosen.len() < top_k.min(pool) {
            let expert = match routing {
                Routing::Zipf => zipf(experts, rng),
                _ => rng.random_range(0..pool),
            };
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        let weights = chosen.iter().map(|_| rng.random_range(0.05..1.0)).collect();
        let mut choices = Self::new(chosen, weights);
        if routing == Routing::Uniform {
            for expert in &mut choices.experts {
                if rng.random_ratio(1, 16) {
                    *expert = -1;
                }
            }
        }
        choices.experts.resize(top_k, -1);
        choices.weights.resize(top_k, 0.0);
        choices
    }

    fn new(experts: Vec<usize>, weights: Vec<f64>) -> Self {
        let sum: f64 = weights.iter().sum();
        Self {
            experts: experts.into_iter().map(|e| e as i32).collect(),
            weights: weights.into_iter().map(|w| (w / sum) as f32).collect(),
        }
    }
}

/// A place of `0 .. count`, place `i` with a frequency of `1 / (i + 1)`.
fn zipf(count: usize, rng: &mut ChaCha8Rng) -> usize {
    let whole: f64 = (1..=count).map(|i| 1.0 / i as f64).sum();
    let mut left = rng.random_range(0.0..whole);
    for i in 0..count {
        left -= 1.0 / (i + 1) as f64;
        if left <= 0.0 {
            return i;
        }
    }
    count - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn the_router_takes_the_best_and_their_weights_add_up() {
        let choices = Choices::best(&[0.5, 2.0, -1.0, 2.0, 1.0], 3);
        assert_eq!(choices.experts, [1, 3, 4]);
        assert_eq!(choices.weights[0], choices.weights[1]);
        assert!((choices.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let ratio = choices.weights[2] / choices.weights[0];
        assert!((ratio - (-1.0f32).exp()).abs() < 1e-6);
    }

    fn many(routing: Routing, experts: u32, top_k: usize) -> Vec<Choices> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..2000)
            .map(|_| Choices::random(routing, (experts, 4), top_k, &mut rng))
            .collect()
    }

    #[test]
    fn choices_of_a_token_differ_and_exist() {
        let by_chance = Routing::value_variants().iter();
        for &routing in by_chance.filter(|routing| **routing != Routing::Model) {
            for choices in many(routing, 9, 9) {
                assert_eq!(choices.experts.len(), 9);
                assert_eq!(choices.weights.len(), 9);
                let mut used: Vec<i32> = choices.experts;
                used.retain(|e| *e != -1);
                used.sort_unstable();
                assert!(used.iter().all(|e| (0..9).contains(e)));
                assert!(used.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }

    #[test]
    fn each_kind_is_what_it_says() {
        let share = |routing, wanted: &dyn Fn(&Choices) -> bool| {
            let all = many(routing, 32, 2);
            all.iter().filter(|c| wanted(c)).count() as f64 / all.len() as f64
        };
        let hot = share(Routing::KHot, &|c| c.experts.iter().all(|e| *e < 4));
        assert!((0.88..0.93).contains(&hot), "{hot}");
        let absent = share(Routing::Uniform, &|c| c.experts[0] == -1);
        assert!((0.05..0.08).contains(&absent), "{absent}");
        let first = share(Routing::Zipf, &|c| c.experts[0] == 0);
        let second = share(Routing::Zipf, &|c| c.experts[0] == 1);
        assert!((1.5..2.5).contains(&(first / second)), "{first} {second}");
        let full = share(Routing::Even, &|c| c.experts.iter().all(|e| *e != -1));
        assert_eq!(full, 1.0);
        let hot = many(Routing::FourHot, 32, 8);
        assert!(hot.iter().all(|c| c.experts[..4] == [0, 1, 2, 3]));
        for choices in many(Routing::OneRank, 32, 8) {
            assert!(choices.experts[..4].iter().all(|e| (0..4).contains(e)));
            assert_eq!(choices.experts[4..], [-1; 4]);
        }
    }
}
