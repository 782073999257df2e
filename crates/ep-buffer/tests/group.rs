//! The buffer on real groups: queue pairs of the software NIC, and windows.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use ep_buffer::{Config, DispatchType, EpBuffer, ScaleFormat};
use ep_transport::store::MemStore;
use ep_transport::{Epoch, Error, Fabric, Group, GroupConfig, Path, Rank};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use support::{ALL_TYPES, Tokens, check_combine, check_dispatch, run_experts};

const PATIENCE: Duration = Duration::from_secs(60);
const VICTIM: Rank = Rank(2);
/// The victim dies after the dispatch with this epoch.
const LAST_OF_VICTIM: Epoch = Epoch(6);
/// Epochs that all ranks do together after the victim is back.
const TOGETHER: u64 = 8;

fn open(config: &Config, path: Path, rank: Rank, store: &MemStore) -> (EpBuffer<Group>, Epoch) {
    let settings = GroupConfig {
        path,
        ..config.group(rank)
    };
    let store = Arc::new(store.clone());
    let mut group = Group::open(&settings, config.footprint(), store).unwrap();
    let from = group.wait_admitted(PATIENCE).unwrap();
    (EpBuffer::new(config.clone(), group).unwrap(), from)
}

/// Steps until `until`, each checked. Returns the epochs of steps that somebody was
/// missing from.
fn live(config: &Config, mut buffer: EpBuffer<Group>, until: &AtomicU64, dies: bool) -> Vec<Epoch> {
    let rank = buffer.rank();
    let mut received = buffer.dispatch_output().unwrap();
    let mut combined = buffer.combine_output().unwrap();
    let mut expert_out = buffer.expert_output().unwrap();
    let mut lacking = Vec::new();
    while buffer.fabric().control().next_epoch().0 < until.load(SeqCst) {
        let epoch = buffer.fabric().control().next_epoch();
        let all: Vec<Tokens> = (0..config.capacity())
            .map(|r| Tokens::hashed(config, epoch.0, Rank(r), 16, 4))
            .collect();
        let own = &all[rank.index()];
        let handle = buffer
            .dispatch(&own.x, &own.topk_idx, &own.topk_weights, 4, &mut received)
            .unwrap();
        assert_eq!(handle.epoch(), epoch);
        let sources: Vec<Rank> = received.answered().iter().collect();
        check_dispatch(&buffer, &received, &all, &sources);
        if dies && epoch == LAST_OF_VICTIM {
            break;
        }
        run_experts(&buffer, &received, &mut expert_out);
        buffer.combine(&handle, &expert_out, &mut combined).unwrap();
        let present: Vec<Rank> = combined.answered().iter().collect();
        check_combine(config, own, &combined, &present);
        if present.len() < config.capacity() as usize {
            assert_eq!(present, [Rank(0), Rank(1)]);
            lacking.push(epoch);
        }
    }
    if !dies {
        buffer.fabric().finish(PATIENCE).unwrap();
    }
    lacking
}

fn a_rank_dies_in_the_middle_of_a_step_and_another_takes_its_place(path: Path, rows: DispatchType) {
    // Slots of several chunks, so that all lanes carry some of each.
    let config = Config::builder(3, 7, 1024, 16)
        .max_top_k(4)
        .dispatch_type(rows)
        .time_out(Duration::from_secs(3))
        .build()
        .unwrap();
    let store = MemStore::new();
    let until = AtomicU64::new(u64::MAX);
    let come_back = AtomicU64::new(0);
    thread::scope(|scope| {
        for rank in (0..3).map(Rank) {
            let (config, store, until, come_back) = (&config, &store, &until, &come_back);
            scope.spawn(move || {
                let (buffer, from) = open(config, path, rank, store);
                assert_eq!(from, Epoch(0));
                let lacking = live(config, buffer, until, rank == VICTIM);
                if rank == VICTIM {
                    assert_eq!(lacking, []);
                    let (buffer, from) = open(config, path, rank, store);
                    assert!(from > LAST_OF_VICTIM && from.0.is_multiple_of(2));
                    come_back.store(from.0, SeqCst);
                    until.store(from.0 + TOGETHER, SeqCst);
                    assert_eq!(live(config, buffer, until, false), []);
                } else {
                    // From the step of its death to the one before its return.
                    let from = come_back.load(SeqCst);
                    let expected: Vec<Epoch> =
                        (LAST_OF_VICTIM.0..from).step_by(2).map(Epoch).collect();
                    assert_eq!(lacking, expected);
                }
            });
        }
    });
}

#[test]
fn over_queue_pairs() {
    a_rank_dies_in_the_middle_of_a_step_and_another_takes_its_place(Path::Rdma, DispatchType::Bf16);
}

#[test]
fn over_windows() {
    a_rank_dies_in_the_middle_of_a_step_and_another_takes_its_place(
        Path::Window,
        DispatchType::Bf16,
    );
}

#[test]
fn over_queue_pairs_in_fp8() {
    let fp8 = DispatchType::Fp8(ScaleFormat::F32);
    a_rank_dies_in_the_middle_of_a_step_and_another_takes_its_place(Path::Rdma, fp8);
}

#[test]
fn over_windows_in_fp8() {
    let ue8m0 = DispatchType::Fp8(ScaleFormat::Ue8m0);
    a_rank_dies_in_the_middle_of_a_step_and_another_takes_its_place(Path::Window, ue8m0);
}

/// Also those whose buffers have the same size, as these two kinds of FP8.
#[test]
fn ranks_that_dispatch_other_rows_refuse_each_other() {
    let refusal = |rank, rows, store: MemStore| {
        let config = Config::builder(2, 4, 512, 8).dispatch_type(rows);
        let config = config.build().unwrap();
        let settings = GroupConfig {
            path: Path::Window,
            ..config.group(rank)
        };
        let mut group = Group::open(&settings, config.footprint(), Arc::new(store)).unwrap();
        let error = group.wait_admitted(PATIENCE).unwrap_err();
        // The other one is to see this one too.
        (error, group)
    };
    for rows in ALL_TYPES {
        for others in ALL_TYPES.into_iter().filter(|others| *others != rows) {
            let store = MemStore::new();
            let (one, other) = thread::scope(|scope| {
                let other = scope.spawn(|| refusal(Rank(1), others, store.clone()));
                (refusal(Rank(0), rows, store.clone()), other.join().unwrap())
            });
            for ((error, _group), rows, others) in [(one, rows, others), (other, others, rows)] {
                let Error::ConfigMismatch { ours, theirs, .. } = error else {
                    panic!("{error}");
                };
                assert!(ours.ends_with(&format!(" rows={rows}")), "{ours}");
                assert!(theirs.ends_with(&format!(" rows={others}")), "{theirs}");
            }
        }
    }
}
