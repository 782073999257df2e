//! Ranks that die, are slow, or are given up, and the others that go on.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use ep_buffer::testing::{Cluster, Network};
use ep_buffer::{Config, DispatchType, EpBuffer, LossCause, ScaleFormat};
use ep_transport::{Epoch, Fabric, Incarnation, Rank};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::{TIME_OUT, Tokens, check_combine, check_dispatch, on_ranks, run_experts};

const DEAD: Rank = Rank(3);

/// Four ranks, of which the last one will die.
fn config(rows: DispatchType) -> Config {
    Config::builder(4, 9, 128, 12)
        .max_top_k(4)
        .dispatch_type(rows)
        .time_out(TIME_OUT)
        .build()
        .unwrap()
}

fn tokens(config: &Config, step: u64) -> Vec<Tokens> {
    (0..config.capacity())
        .map(|r| Tokens::hashed(config, step, Rank(r), 12 - r as usize, 4))
        .collect()
}

fn dispatch(
    buffer: &mut support::Buffer,
    own: &Tokens,
    out: &mut ep_buffer::DispatchOutput,
) -> ep_buffer::DispatchHandle {
    buffer
        .dispatch(&own.x, &own.topk_idx, &own.topk_weights, own.top_k, out)
        .unwrap()
}

/// Rank 3 dies in the first operation after it has sent to `reached` peers, which
/// are ranks 0, 1, ... in this order.
fn dies_after_reaching(reached: u32, rows: DispatchType) {
    let config = config(rows);
    let survivors = [Rank(0), Rank(1), Rank(2)];
    let (cluster, fabrics) = Cluster::with_ranks(&config, Network::default(), 4).unwrap();
    std::thread::scope(|scope| {
        for mut fabric in fabrics {
            let (config, cluster) = (&config, &cluster);
            scope.spawn(move || {
                let rank = fabric.rank();
                if rank == DEAD {
                    fabric.die_after(reached);
                }
                let mut buffer = EpBuffer::new(config.clone(), fabric).unwrap();
                let mut received = buffer.dispatch_output().unwrap();
                let mut combined = buffer.combine_output().unwrap();
                let mut expert_out = buffer.expert_output().unwrap();
                for step in 0..3 {
                    let all = tokens(config, step);
                    let own = &all[rank.index()];
                    let began = Instant::now();
                    let handle = dispatch(&mut buffer, own, &mut received);
                    if rank == DEAD {
                        assert!(buffer.fabric().is_dead());
                        return;
                    }
                    let mut sources = survivors.to_vec();
                    if step == 0 && rank.0 < reached {
                        sources.push(DEAD);
                    }
                    check_dispatch(&buffer, &received, &all, &sources);
                    run_experts(&buffer, &received, &mut expert_out);
                    if rank != Rank(0) && step == 0 {
                        // Slow experts: this rank's partial sums come well over a
                        // time-out after rank 0 has begun to wait for them.
                        sleep(TIME_OUT / 2);
                    }
                    buffer.combine(&handle, &expert_out, &mut combined).unwrap();
                    check_combine(config, own, &combined, &survivors);
                    assert!(began.elapsed() < TIME_OUT * 4);
                    let control = cluster.control(rank).unwrap();
                    for other in survivors.iter().filter(|r| **r != rank) {
                        assert!(control.is_active(*other, Epoch(1000)), "{rank}: {other}");
                    }
                    assert!(!control.is_active(DEAD, Epoch(2 * step + 1)));
                }
            });
        }
    });
}

#[test]
fn a_rank_that_dies_before_it_sent_anything() {
    dies_after_reaching(0, DispatchType::Bf16);
}

/// Also: ranks 1 and 2 wait for the dead one in the dispatch, while rank 0, whom the
/// dead one has reached, waits for them in the combine and must not give them up.
#[test]
fn a_rank_that_dies_after_reaching_one_peer() {
    dies_after_reaching(1, DispatchType::Bf16);
}

#[test]
fn a_rank_that_dies_after_reaching_two_peers() {
    dies_after_reaching(2, DispatchType::Bf16);
}

#[test]
fn a_rank_that_dies_while_rows_are_in_fp8() {
    for (reached, format) in [(1, ScaleFormat::F32), (2, ScaleFormat::Ue8m0)] {
        dies_after_reaching(reached, DispatchType::Fp8(format));
    }
}

#[test]
fn a_rank_that_only_reports_stalls_is_given_up_in_the_end() {
    let config = Config::builder(3, 3, 8, 4)
        .max_top_k(1)
        .time_out(Duration::from_millis(100))
        .build()
        .unwrap();
    let (cluster, fabrics) = Cluster::with_ranks(&config, Network::default(), 3).unwrap();
    let layout = ep_buffer::Layout::new(&config);
    let region = cluster.region(Rank(0)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut word = 1;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                word += 1 << 20;
                region.store_release(layout.stall(Rank(1)), word).unwrap();
                sleep(Duration::from_millis(5));
            }
        });
        let mut buffer =
            EpBuffer::new(config.clone(), fabrics.into_iter().next().unwrap()).unwrap();
        let mut out = buffer.dispatch_output().unwrap();
        buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let waited = |rank| {
            let loss = buffer.losses().iter().find(|l| l.rank == rank).unwrap();
            match loss.cause {
                LossCause::Silent { waited } => waited.as_millis(),
                _ => 0,
            }
        };
        assert!((100..300).contains(&waited(Rank(2))), "{}", waited(Rank(2)));
        assert!(waited(Rank(1)) >= 300);
        assert!(buffer.stats().stall_reports >= 8);
        assert_eq!(buffer.stats().losses, 2);
    });
}

#[test]
fn a_death_seen_by_the_host_ends_the_wait() {
    let config = Config::builder(2, 2, 8, 4)
        .time_out(Duration::from_secs(60))
        .build()
        .unwrap();
    let (cluster, fabrics) = Cluster::with_ranks(&config, Network::default(), 2).unwrap();
    let control = cluster.control(Rank(0)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_millis(30));
            control.mask_now(Rank(1));
        });
        let mut buffer =
            EpBuffer::new(config.clone(), fabrics.into_iter().next().unwrap()).unwrap();
        let mut out = buffer.dispatch_output().unwrap();
        let began = Instant::now();
        buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(matches!(buffer.losses()[0].cause, LossCause::Withdrawn));
        assert_eq!(out.missing().collect::<Vec<_>>(), [Rank(1)]);
    });
}

/// Rank 3's first life ends after `before` operations. Its second life is admitted
/// `later` operations after that.
fn comes_back(before: u64, later: u64, rows: DispatchType) {
    let config = config(rows);
    let from = Epoch(before + later);
    let steps = from.0 + 5;
    let all_ranks = [Rank(0), Rank(1), Rank(2), DEAD];
    on_ranks(&config, Network::default(), |mut buffer, cluster| {
        let rank = buffer.rank();
        let config = buffer.config().clone();
        let mut received = buffer.dispatch_output().unwrap();
        for epoch in 0..steps {
            if rank == DEAD && epoch == before {
                cluster.reborn(DEAD, Incarnation(2)).unwrap();
                let control = cluster.control(DEAD).unwrap();
                for other in &all_ranks[..3] {
                    control.admit(*other, Incarnation(1), from);
                }
                control.resume_at(from);
                buffer = EpBuffer::new(config.clone(), cluster.fabric(DEAD).unwrap()).unwrap();
                // The others take time-outs to get there.
                let first = cluster.control(Rank(0)).unwrap();
                while first.next_epoch() < from {
                    sleep(Duration::from_millis(1));
                }
            }
            if rank == DEAD && (before..from.0).contains(&epoch) {
                continue;
            }
            if rank != DEAD && epoch == from.0 - 1 {
                let control = cluster.control(rank).unwrap();
                assert!(!control.is_active(DEAD, Epoch(epoch)));
                control.admit(DEAD, Incarnation(2), from);
            }
            let all = tokens(&config, epoch);
            let handle = dispatch(&mut buffer, &all[rank.index()], &mut received);
            assert_eq!(handle.epoch(), Epoch(epoch));
            let complete = epoch < before || epoch >= from.0;
            let sources = if complete {
                &all_ranks[..]
            } else {
                &all_ranks[..3]
            };
            check_dispatch(&buffer, &received, &all, sources);
        }
    });
}

#[test]
fn a_rank_comes_back_after_odd_and_even_numbers_of_operations() {
    for (before, later) in [(2, 2), (3, 2), (2, 3), (3, 4)] {
        comes_back(before, later, DispatchType::Bf16);
    }
}

#[test]
fn a_rank_comes_back_where_rows_are_in_fp8() {
    comes_back(3, 2, DispatchType::Fp8(ScaleFormat::F32));
}

#[test]
fn a_combine_leaves_out_the_new_life_of_a_rank_that_was_in_its_dispatch() {
    let config = Config::builder(2, 4, 8, 4)
        .max_top_k(2)
        .time_out(TIME_OUT)
        .build()
        .unwrap();
    on_ranks(&config, Network::default(), |mut buffer, cluster| {
        let rank = buffer.rank();
        let mut out = buffer.dispatch_output().unwrap();
        let own = Tokens {
            x: vec![half::bf16::ONE; 8],
            topk_idx: vec![0, 2],
            topk_weights: vec![0.5, 0.5],
            top_k: 2,
        };
        let first = dispatch(&mut buffer, &own, &mut out);
        let from = Epoch(2);
        let mut combined = buffer.combine_output().unwrap();
        let expert_out = vec![half::bf16::ONE; buffer.expert_output().unwrap().len()];
        if rank == Rank(1) {
            cluster.reborn(rank, Incarnation(2)).unwrap();
            let control = cluster.control(rank).unwrap();
            let fabric = cluster.fabric(rank).unwrap();
            buffer = EpBuffer::new(buffer.config().clone(), fabric).unwrap();
            control.resume_at(Epoch(1));
            let alone = dispatch(&mut buffer, &own, &mut out);
            control.admit(Rank(0), Incarnation(1), from);
            while cluster.control(Rank(0)).unwrap().next_epoch() < from {
                sleep(Duration::from_millis(1));
            }
            buffer.combine(&alone, &expert_out, &mut combined).unwrap();
            assert!(buffer.losses().is_empty());
            assert_eq!(combined.missing(), [0b01]);
            return;
        }
        dispatch(&mut buffer, &own, &mut out);
        assert_eq!(out.answered().len(), 1);
        cluster
            .control(rank)
            .unwrap()
            .admit(Rank(1), Incarnation(2), from);
        buffer.combine(&first, &expert_out, &mut combined).unwrap();
        // The new life answered in this operation, but never had the token.
        assert!(buffer.losses().is_empty());
        assert_eq!(combined.missing(), [0b10]);
        assert_eq!(combined.x()[0].to_f32(), 0.5);
    });
}

#[test]
fn an_operation_waits_for_a_decision_but_not_for_ever() {
    let config = Config::builder(1, 1, 8, 1)
        .decision_time_out(Duration::from_millis(200))
        .build()
        .unwrap();
    let (cluster, fabrics) = Cluster::with_ranks(&config, Network::default(), 1).unwrap();
    let control = cluster.control(Rank(0)).unwrap();
    let mut buffer = EpBuffer::new(config, fabrics.into_iter().next().unwrap()).unwrap();
    let mut out = buffer.dispatch_output().unwrap();
    assert_eq!(control.promise(1), Epoch(1));
    buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_millis(50));
            control.release();
        });
        let began = Instant::now();
        let handle = buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
        assert_eq!(handle.epoch(), Epoch(1));
        assert!((50..200).contains(&began.elapsed().as_millis()));
    });
    assert_eq!(control.promise(1), Epoch(3));
    buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
    let began = Instant::now();
    let handle = buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
    assert_eq!(handle.epoch(), Epoch(3));
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(control.quiesce(Duration::ZERO));
}

/// Rank 2 is admitted from epoch 1 on and waits there already, while rank 0 waits in
/// epoch 0 for a dead rank 1: rank 0 must not be given up for it.
#[test]
fn a_newcomer_is_patient_with_those_who_wait_for_a_dead_rank() {
    let config = Config::builder(3, 3, 8, 2)
        .max_top_k(1)
        .time_out(TIME_OUT)
        .build()
        .unwrap();
    let cluster = Cluster::new(&config, Network::default()).unwrap();
    let (old, new) = (Rank(0), Rank(2));
    let control = cluster.control(old).unwrap();
    control.admit(Rank(1), Incarnation(1), Epoch(0));
    control.admit(new, Incarnation(1), Epoch(1));
    let control = cluster.control(new).unwrap();
    control.admit(old, Incarnation(1), Epoch(1));
    control.resume_at(Epoch(1));
    std::thread::scope(|scope| {
        for rank in [old, new] {
            let fabric = cluster.fabric(rank).unwrap();
            let mut buffer = EpBuffer::new(config.clone(), fabric).unwrap();
            scope.spawn(move || {
                let mut out = buffer.dispatch_output().unwrap();
                if rank == old {
                    sleep(TIME_OUT / 2);
                    buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
                    assert_eq!(buffer.losses()[0].rank, Rank(1));
                }
                let handle = buffer.dispatch(&[], &[], &[], 1, &mut out).unwrap();
                assert_eq!(handle.epoch(), Epoch(1));
                assert!(out.answered().contains(old) && out.answered().contains(new));
                assert!(buffer.losses().is_empty());
            });
        }
    });
}

/// A rank that was thought dead and has run ahead alone goes on where the others
/// are, but not in the middle of a round.
#[test]
fn a_rank_that_ran_ahead_goes_on_at_the_agreed_epoch() {
    let config = Config::builder(2, 2, 8, 2).build().unwrap();
    let cluster = Cluster::new(&config, Network::default()).unwrap();
    let mut buffer = EpBuffer::new(config.clone(), cluster.fabric(Rank(1)).unwrap()).unwrap();
    let control = cluster.control(Rank(1)).unwrap();
    let mut out = buffer.dispatch_output().unwrap();
    let own = Tokens {
        x: vec![half::bf16::ONE; 8],
        topk_idx: vec![0],
        topk_weights: vec![1.0],
        top_k: 1,
    };
    for epoch in 0..6 {
        assert_eq!(control.next_epoch(), Epoch(epoch));
        dispatch(&mut buffer, &own, &mut out);
    }
    assert_eq!(buffer.begin_round(), Epoch(6));
    control.detach();
    control.resume_at(Epoch(4));
    // This round was begun before: the caller has made its input for epoch 6.
    dispatch(&mut buffer, &own, &mut out);
    assert_eq!(buffer.begin_round(), Epoch(4));
    dispatch(&mut buffer, &own, &mut out);
    assert_eq!(control.next_epoch(), Epoch(5));
}
