//! Operations in any order, any number of them, over a network that delays, and
//! what they leave behind: the same bytes, no allocations, true counters.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use ep_buffer::slot::{meta_stride, rows_at};
use ep_buffer::testing::Network;
use ep_buffer::{
    Config, DispatchHandle, DispatchOutput, DispatchType, EpBuffer, EpError, ScaleFormat,
};
use ep_transport::{Epoch, Fabric, Rank};
use half::bf16;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;
use support::{ALL_TYPES, Tokens, check_combine, check_dispatch, on_ranks, run_experts};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and no test either.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller's promise for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's promise for this function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// What all ranks do, in this order.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A dispatch whose handle is kept.
    Dispatch,
    /// A dispatch whose handle is dropped at once.
    Forget,
    /// A combine of one of the kept handles, counted from the last; it stays.
    Combine(usize),
}

struct Kept {
    handle: DispatchHandle,
    step: u64,
    expert_out: Vec<bf16>,
}

fn run(config: &Config, network: Network, ops: &[Op]) -> Vec<Vec<Vec<f32>>> {
    let all: Vec<Rank> = (0..config.capacity()).map(Rank).collect();
    on_ranks(config, network, |mut buffer, _| {
        let tokens = |step: u64| -> Vec<Tokens> {
            all.iter()
                .map(|rank| {
                    let count = support::hash(step ^ u64::from(rank.0) << 8) as usize
                        % (config.max_tokens() as usize + 1);
                    Tokens::hashed(config, step, *rank, count, 3)
                })
                .collect()
        };
        let mut received = buffer.dispatch_output().unwrap();
        let mut combined = buffer.combine_output().unwrap();
        let mut kept: Vec<Kept> = Vec::new();
        let mut results = Vec::new();
        for (epoch, op) in ops.iter().enumerate() {
            let epoch = epoch as u64;
            match *op {
                Op::Combine(back) if !kept.is_empty() => {
                    let it = &kept[kept.len() - 1 - back % kept.len()];
                    buffer
                        .combine(&it.handle, &it.expert_out, &mut combined)
                        .unwrap();
                    let own = &tokens(it.step)[buffer.rank().index()];
                    check_combine(config, own, &combined, &all);
                    results.push(combined.x().iter().map(|x| x.to_f32()).collect());
                }
                op => {
                    let all_tokens = tokens(epoch);
                    let own = &all_tokens[buffer.rank().index()];
                    let handle = buffer
                        .dispatch(&own.x, &own.topk_idx, &own.topk_weights, 3, &mut received)
                        .unwrap();
                    assert_eq!(handle.epoch(), Epoch(epoch));
                    check_dispatch(&buffer, &received, &all_tokens, &all);
                    for (expert, rows) in received.recv_count().iter().enumerate() {
                        for row in 0..*rows as usize {
                            results.push(received.row(expert, row).unwrap().collect());
                        }
                    }
                    if !matches!(op, Op::Forget) {
                        let mut expert_out = buffer.expert_output().unwrap();
                        run_experts(&buffer, &received, &mut expert_out);
                        kept.push(Kept {
                            handle,
                            step: epoch,
                            expert_out,
                        });
                    }
                }
            }
        }
        results
    })
}

fn delayed(seed: u64) -> Network {
    Network {
        depth: 5,
        delay: Duration::from_micros(300),
        seed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_sequence_of_operations(
        ops in proptest::collection::vec(
            prop_oneof![
                2 => Just(Op::Dispatch),
                1 => Just(Op::Forget),
                3 => (0usize..3).prop_map(Op::Combine),
            ],
            1..24,
        ),
        seed in any::<u64>(),
        rows in proptest::sample::select(&ALL_TYPES[..]),
    ) {
        let config = Config::builder(3, 7, 640, 16)
            .max_top_k(3)
            .lanes(3)
            .ops_per_round(3)
            .dispatch_type(rows)
            .time_out(Duration::from_secs(10))
            .build()
            .unwrap();
        run(&config, delayed(seed), &ops);
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let bf16 = Config::builder(4, 6, 136, 10).max_top_k(3);
    let fp8 = Config::builder(4, 6, 256, 10)
        .max_top_k(3)
        .dispatch_type(DispatchType::Fp8(ScaleFormat::F32));
    let ops = [
        Op::Dispatch,
        Op::Combine(0),
        Op::Dispatch,
        Op::Combine(1),
        Op::Combine(0),
    ];
    for config in [bf16, fp8].map(|config| config.build().unwrap()) {
        let first = run(&config, Network::default(), &ops);
        for seed in 0..4 {
            assert_eq!(run(&config, delayed(seed), &ops), first);
        }
    }
}

#[test]
fn nothing_is_allocated_once_warm() {
    for rows in ALL_TYPES {
        let config = Config::builder(3, 6, 128, 16).max_top_k(4);
        allocates_nothing_once_warm(&config.dispatch_type(rows).build().unwrap());
    }
}

fn allocates_nothing_once_warm(config: &Config) {
    let counts = on_ranks(config, Network::default(), |mut buffer, _| {
        let steps: Vec<Tokens> = (0..20)
            .map(|step| Tokens::hashed(config, step, buffer.rank(), 16 - step as usize % 5, 4))
            .collect();
        let mut received = buffer.dispatch_output().unwrap();
        let mut combined = buffer.combine_output().unwrap();
        let expert_out = buffer.expert_output().unwrap();
        let mut after_first = 0;
        for (i, own) in steps.iter().enumerate() {
            let (idx, weights) = (&own.topk_idx, &own.topk_weights);
            let handle = buffer
                .dispatch(&own.x, idx, weights, 4, &mut received)
                .unwrap();
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            if i == 0 {
                after_first = allocations();
            }
        }
        assert!(buffer.losses().is_empty());
        assert!(after_first > 0);
        allocations() - after_first
    });
    assert_eq!(counts, [0, 0, 0]);
}

/// Has two tokens of ones dispatched, each to four experts of the other rank.
fn two_tokens_to_the_other<F: Fabric>(
    buffer: &mut EpBuffer<F>,
) -> (DispatchHandle, DispatchOutput) {
    let other = 1 - buffer.rank().0 as i32;
    let idx: Vec<i32> = (0..8).map(|k| other * 4 + k % 4).collect();
    let x = vec![bf16::ONE; 2 * buffer.config().hidden() as usize];
    let mut received = buffer.dispatch_output().unwrap();
    let handle = buffer
        .dispatch(&x, &idx, &[0.25; 8], 4, &mut received)
        .unwrap();
    (handle, received)
}

#[test]
fn a_token_travels_once_to_each_rank_and_one_partial_sum_comes_back() {
    let config = Config::builder(2, 8, 64, 4)
        .max_top_k(4)
        .lanes(1)
        .build()
        .unwrap();
    on_ranks(&config, Network::default(), |mut buffer, _| {
        let (handle, received) = two_tokens_to_the_other(&mut buffer);
        let mut combined = buffer.combine_output().unwrap();
        assert_eq!(received.recv_count(), [2; 4]);
        let sent = buffer.stats().last;
        assert_eq!(sent.bytes, rows_at(2, 4) + 2 * 128);
        assert_eq!(rows_at(2, 4), 192);
        assert_eq!(meta_stride(4), 56);
        assert_eq!(sent.messages, 2);
        buffer
            .combine(&handle, received.recv_x(), &mut combined)
            .unwrap();
        assert_eq!(buffer.stats().last.bytes, 64 + 2 * 128);
        assert_eq!(combined.x(), [bf16::ONE; 2 * 64]);
        let stats = buffer.stats();
        assert_eq!((stats.operations, stats.losses), (2, 0));
        assert_eq!(stats.tokens_per_expert, [2; 4]);
        assert_eq!(stats.total.messages, 4);
    });
}

/// Of 256 channels, 512 bytes in bf16, go 256 bytes and two scales.
#[test]
fn in_fp8_half_of_the_bytes_travel_and_partial_sums_stay_bf16() {
    for (format, scales) in [(ScaleFormat::F32, 8), (ScaleFormat::Ue8m0, 4)] {
        let config = Config::builder(2, 8, 256, 4)
            .max_top_k(4)
            .dispatch_type(DispatchType::Fp8(format))
            .build()
            .unwrap();
        on_ranks(&config, Network::default(), |mut buffer, _| {
            let (handle, _received) = two_tokens_to_the_other(&mut buffer);
            let mut combined = buffer.combine_output().unwrap();
            let sent = buffer.stats().last;
            assert_eq!(sent.bytes, rows_at(2, 4) + 2 * (256 + scales));
            let expert_out = buffer.expert_output().unwrap();
            buffer.combine(&handle, &expert_out, &mut combined).unwrap();
            assert_eq!(buffer.stats().last.bytes, 64 + 2 * 512);
        });
    }
}

#[test]
fn numbers_that_are_none_stay_in_their_groups_in_fp8() {
    for format in [ScaleFormat::F32, ScaleFormat::Ue8m0] {
        let config = Config::builder(2, 2, 256, 4)
            .max_top_k(1)
            .dispatch_type(DispatchType::Fp8(format))
            .build()
            .unwrap();
        on_ranks(&config, Network::default(), |mut buffer, _| {
            let mut x = vec![bf16::ONE; 2 * 256];
            (x[3], x[130]) = (bf16::NAN, bf16::INFINITY);
            let mut out = buffer.dispatch_output().unwrap();
            buffer
                .dispatch(&x, &[0, 0], &[1.0; 2], 1, &mut out)
                .unwrap();
            let rows = out.recv_count()[0] as usize;
            assert_eq!(rows, if buffer.rank() == Rank(0) { 4 } else { 0 });
            for row in 0..rows {
                let numbers: Vec<f32> = out.row(0, row).unwrap().collect();
                let (first, second) = numbers.split_at(128);
                let whole = |group: &[f32]| group.iter().all(|x| (x - 1.0).abs() < 1e-6);
                if row % 2 == 1 {
                    assert!(whole(first) && whole(second));
                    continue;
                }
                assert!(first[3].is_nan() && whole(&first[..3]) && whole(&first[4..]));
                // An infinity leaves nothing of its group.
                assert!(second.iter().all(|x| x.is_nan()));
            }
        });
    }
}

#[test]
fn weights_that_are_no_numbers_stay_with_their_token() {
    let config = Config::builder(2, 2, 8, 4).max_top_k(1).build().unwrap();
    on_ranks(&config, Network::default(), |mut buffer, _| {
        let mut received = buffer.dispatch_output().unwrap();
        let mut combined = buffer.combine_output().unwrap();
        let x = [bf16::ONE; 3 * 8];
        let weights = [f32::NAN, 1.0, f32::INFINITY];
        let handle = buffer
            .dispatch(&x, &[0, 0, 1], &weights, 1, &mut received)
            .unwrap();
        buffer
            .combine(&handle, received.recv_x(), &mut combined)
            .unwrap();
        assert!(combined.x()[0].is_nan());
        assert_eq!(combined.x()[8], bf16::ONE);
        assert!(combined.x()[16].is_infinite());
    });
}

#[test]
fn bad_arguments_are_refused_and_cost_no_epoch() {
    let config = Config::builder(1, 4, 8, 2).max_top_k(2).build().unwrap();
    on_ranks(&config, Network::default(), |mut buffer, _| {
        let mut out = buffer.dispatch_output().unwrap();
        let x = [bf16::ONE; 24];
        let w = [1.0; 8];
        let mut refused = |x: &[bf16], idx: &[i32], w: &[f32], k| {
            buffer
                .dispatch(x, idx, w, k, &mut out)
                .unwrap_err()
                .to_string()
        };
        for (error, words) in [
            (
                refused(&x[..8], &[0, 4], &w[..2], 2),
                "token 0 chooses expert 4 at k = 1",
            ),
            (refused(&x[..8], &[0, -2], &w[..2], 2), "chooses expert -2"),
            (
                refused(&x[..8], &[], &[], 0),
                "top_k is 0, allowed are 1 to 2",
            ),
            (refused(&x[..8], &[0, 1, 2], &w[..3], 3), "top_k is 3"),
            (
                refused(&x[..24], &[0, 1, 2], &w[..3], 1),
                "number of tokens is 3, allowed are 0 to 2",
            ),
            (
                refused(&x[..7], &[0], &w[..1], 1),
                "x has 7 elements, expected 8",
            ),
            (
                refused(&x[..8], &[0], &w[..2], 1),
                "topk_weights has 2 elements, expected 1",
            ),
            (
                refused(&x[..8], &[0, 1, 2], &w[..2], 2),
                "topk_idx has 3 elements, expected 2",
            ),
        ] {
            assert!(error.contains(words) && error.contains("rank 0"), "{error}");
        }
        let handle = buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
        assert_eq!(handle.epoch(), Epoch(0));
        let mut combined = buffer.combine_output().unwrap();
        let short = buffer.combine(&handle, &[], &mut combined).unwrap_err();
        assert!(matches!(short, EpError::Length { len: 0, .. }));

        let other = Config::builder(1, 4, 16, 2).build().unwrap();
        on_ranks(&other, Network::default(), |mut other, _| {
            let expert_out = other.expert_output().unwrap();
            let mut mine = other.combine_output().unwrap();
            let error = other.combine(&handle, &expert_out, &mut mine).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("the handle belongs to another buffer")
            );
            let own = other
                .dispatch(&[], &[], &[], 1, &mut other.dispatch_output().unwrap())
                .unwrap();
            let mut foreign = ep_buffer::EpBuffer::new(
                Config::builder(1, 4, 8, 2).build().unwrap(),
                ep_buffer::testing::Cluster::with_ranks(
                    &Config::builder(1, 4, 8, 2).build().unwrap(),
                    Network::default(),
                    1,
                )
                .unwrap()
                .1
                .remove(0),
            )
            .map(|buffer| {
                (
                    buffer.dispatch_output().unwrap(),
                    buffer.combine_output().unwrap(),
                )
            })
            .unwrap();
            let error = other
                .combine(&own, &expert_out, &mut foreign.1)
                .unwrap_err();
            assert!(error.to_string().contains("the combine output belongs"));
            let error = other
                .dispatch(&[], &[], &[], 1, &mut foreign.0)
                .unwrap_err();
            assert!(error.to_string().contains("the dispatch output belongs"));
        });
    });
}

#[test]
fn an_output_for_other_rows_is_refused() {
    let config = |rows| Config::builder(1, 4, 128, 2).dispatch_type(rows);
    let config = |rows| config(rows).build().unwrap();
    for theirs in ALL_TYPES {
        let other = config(theirs);
        let mut outputs = on_ranks(&other, Network::default(), |buffer, _| {
            buffer.dispatch_output().unwrap()
        });
        for ours in ALL_TYPES {
            let out = std::sync::Mutex::new(&mut outputs[0]);
            on_ranks(&config(ours), Network::default(), |mut buffer, _| {
                let done = buffer.dispatch(&[], &[], &[], 1, &mut out.lock().unwrap());
                let refused = matches!(done, Err(EpError::Foreign { .. }));
                assert_eq!(refused, ours != theirs, "{ours}, {theirs}: {done:?}");
            });
        }
    }
}

#[test]
fn a_group_that_does_not_fit_is_refused() {
    use ep_buffer::EpBuffer;
    use ep_buffer::testing::Cluster;
    let small = Config::builder(2, 4, 8, 2).build().unwrap();
    let refused = |config: Config| {
        let (_cluster, mut fabrics) = Cluster::with_ranks(&small, Network::default(), 2).unwrap();
        EpBuffer::new(config, fabrics.remove(0))
            .unwrap_err()
            .to_string()
    };
    let error = refused(Config::builder(3, 4, 8, 2).build().unwrap());
    assert!(
        error.contains("capacity is 3 in the configuration and 2"),
        "{error}"
    );
    let error = refused(Config::builder(2, 4, 8, 2).lanes(1).build().unwrap());
    assert!(
        error.contains("lanes is 1 in the configuration and 2"),
        "{error}"
    );
    let larger = Config::builder(2, 4, 800, 20).build().unwrap();
    let error = refused(larger.clone());
    let words = format!("the configuration needs {}", larger.footprint());
    assert!(error.contains(&words), "{error}");
}
