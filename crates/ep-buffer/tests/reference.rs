//! Dispatch and combine against the obvious reference.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use ep_buffer::testing::Network;
use ep_buffer::{Config, DispatchType};
use ep_transport::Rank;
use proptest::prelude::*;
use std::time::Duration;
use support::{ALL_TYPES, Tokens, check_combine, check_dispatch, on_ranks, run_experts};

/// One pair of operations on all ranks, checked on each.
fn pairs(config: &Config, network: Network, steps: &[Vec<Tokens>]) {
    let all: Vec<Rank> = (0..config.capacity()).map(Rank).collect();
    on_ranks(config, network, |mut buffer, _| {
        let mut received = buffer.dispatch_output().unwrap();
        let mut expert_out = buffer.expert_output().unwrap();
        let mut combined = buffer.combine_output().unwrap();
        for tokens in steps {
            let own = &tokens[buffer.rank().index()];
            let handle = buffer
                .dispatch(
                    &own.x,
                    &own.topk_idx,
                    &own.topk_weights,
                    own.top_k,
                    &mut received,
                )
                .unwrap();
            check_dispatch(&buffer, &received, tokens, &all);
            run_experts(&buffer, &received, &mut expert_out);
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            check_combine(config, own, &combined, &all);
            assert!(buffer.losses().is_empty());
        }
    });
}

fn hashed_steps(config: &Config, steps: u64, top_k: usize) -> Vec<Vec<Tokens>> {
    (0..steps)
        .map(|step| {
            (0..config.capacity())
                .map(|r| {
                    let count = support::hash(step * 100 + u64::from(r)) as usize
                        % (config.max_tokens() as usize + 1);
                    Tokens::hashed(config, step, Rank(r), count, top_k)
                })
                .collect()
        })
        .collect()
}

#[test]
fn four_ranks_with_uneven_experts() {
    let config = Config::builder(4, 10, 72, 20).lanes(3).build().unwrap();
    pairs(&config, Network::default(), &hashed_steps(&config, 30, 4));
}

#[test]
fn rows_in_fp8_are_those_of_the_reference() {
    for rows in ALL_TYPES {
        // Nine groups: words of four exponents that are full, and one that is not.
        let config = Config::builder(4, 10, 9 * 128, 12)
            .dispatch_type(rows)
            .lanes(3)
            .build()
            .unwrap();
        pairs(&config, Network::default(), &hashed_steps(&config, 6, 4));
    }
}

#[test]
fn delays_and_overtaking_lanes_change_nothing() {
    let config = Config::builder(3, 7, 1024, 24).lanes(4).build().unwrap();
    let network = Network {
        delay: Duration::from_millis(1),
        ..Network::default()
    };
    pairs(&config, network, &hashed_steps(&config, 30, 3));
}

#[test]
fn a_queue_of_one_entry_is_enough() {
    let config = Config::builder(3, 7, 1024, 24).lanes(2).build().unwrap();
    for delay in [0, 200] {
        let network = Network {
            depth: 1,
            delay: Duration::from_micros(delay),
            ..Network::default()
        };
        pairs(&config, network, &hashed_steps(&config, 5, 3));
    }
}

#[test]
fn one_rank_alone_and_ranks_without_experts() {
    let alone = Config::builder(1, 3, 8, 5).build().unwrap();
    pairs(&alone, Network::default(), &hashed_steps(&alone, 4, 2));
    for rows in ALL_TYPES {
        let few = Config::builder(3, 2, 128, 5).dispatch_type(rows);
        let few = few.build().unwrap();
        pairs(&few, Network::default(), &hashed_steps(&few, 4, 2));
    }
}

fn any_tokens(hidden: usize, experts: i32, max_tokens: usize) -> impl Strategy<Value = Tokens> {
    (1usize..=5, 0..=max_tokens, any::<u64>()).prop_flat_map(move |(top_k, count, seed)| {
        // Groups of channels have magnitudes of their own, and scales.
        let magnitude = move |i: usize| {
            let group = seed ^ (i / 128) as u64;
            2f32.powi(support::hash(group) as i32 % 40)
        };
        // All over the experts, all to a few of them, or to one: with repeats and -1.
        let choice = prop_oneof![
            4 => (-1..experts).boxed(),
            1 => (0..experts.min(2)).boxed(),
            1 => Just(experts - 1).boxed(),
        ];
        let choices = proptest::collection::vec(choice, count * top_k);
        let weights = proptest::collection::vec(-2.0f32..2.0, count * top_k);
        (choices, weights).prop_map(move |(topk_idx, topk_weights)| {
            let x = (0..count * hidden)
                .map(|i| {
                    let word = support::hash(seed.wrapping_add(i as u64)) % 4001;
                    half::bf16::from_f32((word as f32 / 1000.0 - 2.0) * magnitude(i))
                })
                .collect();
            Tokens {
                x,
                topk_idx,
                topk_weights,
                top_k,
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 120,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_routing(
        (config, steps) in (
            (1u32..=4, 1u32..=9, 1u32..=6, 1u32..=8),
            proptest::sample::select(&ALL_TYPES[..]),
        ).prop_flat_map(
            |((ranks, experts, units, max_tokens), rows)| {
                let experts = experts.max(5);
                let hidden = units * if rows == DispatchType::Bf16 { 8 } else { 128 };
                let config = Config::builder(ranks, experts, hidden, max_tokens)
                    .max_top_k(5)
                    .dispatch_type(rows)
                    .build()
                    .unwrap();
                let tokens = any_tokens(hidden as usize, experts as i32, max_tokens as usize);
                let step = proptest::collection::vec(tokens, ranks as usize);
                (Just(config), proptest::collection::vec(step, 1..4))
            }
        )
    ) {
        pairs(&config, Network::default(), &steps);
    }
}
