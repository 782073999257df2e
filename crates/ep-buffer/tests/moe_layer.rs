//! The example's layer on four ranks of one process, every value checked.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../examples/moe/mod.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "written for the example; this is another user of it"
)]
mod moe;
mod support;

use ep_buffer::testing::Network;
use ep_buffer::{Config, DispatchType};
use ep_transport::Rank;
use moe::events::{Event, Step};
use moe::routing::Routing;
use moe::workload::{Shape, Workload};
use moe::{layer, verify};
use std::ops::ControlFlow;
use std::time::Duration;
use support::on_ranks;

fn shape(routing: Routing) -> Shape {
    shape_of(routing, DispatchType::Bf16)
}

fn shape_of(routing: Routing, dispatch: DispatchType) -> Shape {
    Shape {
        seed: 5,
        capacity: 4,
        experts: 10,
        hidden: 128,
        dispatch,
        inter: 16,
        tokens: 24,
        top_k: 4,
        routing,
    }
}

fn config(shape: &Shape) -> Config {
    let (hidden, tokens) = (shape.hidden as u32, shape.tokens as u32);
    Config::builder(shape.capacity, shape.experts, hidden, tokens)
        .max_top_k(shape.top_k as u32)
        .dispatch_type(shape.dispatch)
        .time_out(support::TIME_OUT)
        .build()
        .unwrap()
}

fn steps_of(events: &[Event]) -> Vec<Step> {
    let step = |event: &Event| match event {
        Event::Step(step) => Some(step.clone()),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

#[test]
fn every_kind_of_routing_and_of_rows_is_verified_on_every_rank() {
    let by_routing = [
        Routing::Model,
        Routing::Uniform,
        Routing::Zipf,
        Routing::KHot,
    ]
    .map(shape);
    let by_rows = support::ALL_TYPES.map(|rows| shape_of(Routing::Model, rows));
    for shape in by_routing.into_iter().chain(by_rows) {
        let workload = Workload::new(shape);
        let network = Network {
            delay: Duration::from_micros(200),
            ..Network::default()
        };
        let runs = on_ranks(&config(&workload.shape), network, |mut buffer, _| {
            let mut events = Vec::new();
            let mut emit = |event| events.push(event);
            let summary = layer::run(&mut buffer, &workload, 6, &mut emit, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!((summary.steps, summary.verified_steps), (6, 6));
            steps_of(&events)
        });
        for steps in runs {
            for (i, step) in steps.iter().enumerate() {
                assert_eq!((step.step, step.epoch), (i as u64, 2 * i as u64));
                assert!(step.verified && step.rel_err > 0.0, "{:?}", step.problem);
                assert_eq!((step.missing, step.missing_expected), (0, 0));
                assert_eq!(step.answered, [0, 1, 2, 3]);
            }
        }
    }
}

#[test]
fn the_others_go_on_without_a_dead_rank_and_say_what_is_missing() {
    let workload = Workload::new(shape(Routing::Model));
    let runs = on_ranks(
        &config(&workload.shape),
        Network::default(),
        |mut buffer, _| {
            let last = if buffer.rank() == Rank(2) { 3 } else { 8 };
            let mut events = Vec::new();
            let mut emit = |event| events.push(event);
            layer::run(&mut buffer, &workload, last, &mut emit, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
            events
        },
    );
    for (rank, events) in runs.iter().enumerate().filter(|(rank, _)| *rank != 2) {
        let lost = events
            .iter()
            .filter(|e| matches!(e, Event::PeerLost { rank: 2, .. }));
        assert_eq!(lost.count(), 1, "rank {rank}");
        for step in steps_of(events) {
            assert!(step.verified, "rank {rank}: {:?}", step.problem);
            assert_eq!(step.answered.contains(&2), step.step < 3);
            assert_eq!(step.missing > 0, step.step >= 3);
        }
    }
}

/// One that dispatches in FP8 does not agree with a reference that knows nothing of it, and
/// the other way round: its rounding is far beyond what is allowed.
#[test]
fn the_check_takes_rows_as_they_were_dispatched() {
    for dispatch in support::ALL_TYPES {
        let ours = Workload::new(shape_of(Routing::Model, dispatch));
        let others: Vec<Workload> = support::ALL_TYPES
            .into_iter()
            .filter(|other| *other != dispatch)
            .map(|other| Workload::new(shape_of(Routing::Model, other)))
            .collect();
        on_ranks(&config(&ours.shape), Network::default(), |mut buffer, _| {
            let rank = buffer.rank();
            let own = ours.batch(rank, 0);
            let mut received = buffer.dispatch_output().unwrap();
            let mut combined = buffer.combine_output().unwrap();
            let mut expert_out = buffer.expert_output().unwrap();
            let mut work = moe::model::Activations::default();
            let (idx, weights) = (&own.topk_idx, &own.topk_weights);
            let handle = buffer
                .dispatch(&own.x, idx, weights, 4, &mut received)
                .unwrap();
            layer::run_experts(&ours, rank, &received, &mut work, &mut expert_out);
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            let check = |workload: &Workload| {
                verify::check_dispatch(workload, rank, 0, &received)
                    .err()
                    .or(verify::check_combine(workload, &own, &combined, combined.answered()).fault)
            };
            assert_eq!(check(&ours), None);
            for other in &others {
                let fault = check(other).unwrap();
                assert!(fault.contains("other numbers"), "{fault}");
                let all = combined.answered();
                let sums = verify::check_combine(other, &own, &combined, all).fault;
                assert!(sums.unwrap().contains("relative error"));
            }
        });
    }
}

#[test]
fn the_check_notices_what_is_wrong() {
    let workload = Workload::new(shape(Routing::Model));
    on_ranks(
        &config(&workload.shape),
        Network::default(),
        |mut buffer, _| {
            let rank = buffer.rank();
            let own = workload.batch(rank, 0);
            let mut received = buffer.dispatch_output().unwrap();
            let mut combined = buffer.combine_output().unwrap();
            let (idx, weights) = (&own.topk_idx, &own.topk_weights);
            let handle = buffer
                .dispatch(&own.x, idx, weights, 4, &mut received)
                .unwrap();
            verify::check_dispatch(&workload, rank, 0, &received).unwrap();
            verify::check_dispatch(&workload, rank, 1, &received).unwrap_err();
            verify::check_dispatch(&workload, Rank(rank.0 ^ 1), 0, &received).unwrap_err();

            let mut expert_out = buffer.expert_output().unwrap();
            let mut work = moe::model::Activations::default();
            layer::run_experts(&workload, rank, &received, &mut work, &mut expert_out);
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            let all = combined.answered().clone();
            let check =
                |out: &_, answered: &_| verify::check_combine(&workload, &own, out, answered);
            assert_eq!(check(&combined, &all).fault, None);
            let mut fewer = all.clone();
            fewer.remove(Rank(3));
            let outcome = check(&combined, &fewer);
            assert!(outcome.fault.unwrap().contains("as missing in place of"));
            assert!(outcome.missing_expected > 0 && outcome.missing == 0);

            // Every result of one rank's experts an eighth too large.
            if rank == Rank(1) {
                for value in &mut expert_out {
                    *value = half::bf16::from_f32(value.to_f32() * 1.125);
                }
            }
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            let outcome = check(&combined, &all);
            assert!(outcome.fault.unwrap().contains("relative error"));
            assert!(outcome.rel_err > verify::TOLERANCE);
        },
    );
}
