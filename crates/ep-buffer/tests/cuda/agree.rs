//! The same tokens on GPUs and on the host.

use crate::meeting::Meeting;
use crate::rank::{Batch, GpuRank, Received};
use crate::shapes::{Case, Routing};
use ep_buffer::cuda::testing::{cluster, sms_of_each};
use ep_buffer::cuda::{DispatchType, IndexType, Settings};
use ep_buffer::testing::{Cluster, Network};
use ep_buffer::{Config, Rows};
use half::bf16;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn batch(case: &Case, rank: u32, seed: u64) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed * 1000 + u64::from(rank));
    let local = case.experts.div_ceil(case.ranks).max(1);
    let tokens = match case.routing {
        Routing::Ragged => rng.random_range(0..=case.tokens) * (rank % 3).min(1),
        _ => case.tokens,
    };
    let mut idx = Vec::new();
    let mut all: Vec<i32> = (0..case.experts as i32).collect();
    for _ in 0..tokens {
        all.shuffle(&mut rng);
        for k in 0..case.top_k as usize {
            let chosen = all[k % all.len()];
            idx.push(match case.routing {
                Routing::Uniform | Routing::Ragged => chosen,
                Routing::Sparse if rng.random_range(0..3) == 0 => -1,
                Routing::Sparse => chosen,
                Routing::OneRank => (chosen as u32 % local) as i32,
                Routing::Twice => all[k / 2],
                Routing::Nowhere => -1,
            });
        }
    }
    Batch {
        top_k: case.top_k as usize,
        x: (0..(tokens * case.hidden) as usize)
            .map(|_| bf16::from_f32(rng.random_range(-3.0..3.0_f32)))
            .collect(),
        weights: idx
            .iter()
            .map(|_| rng.random_range(1..1000) as f32 / 1000.0)
            .collect(),
        topk_idx: idx,
    }
}

/// What an expert makes of a row, whatever is in it.
fn expert_out(rank: u32, row: usize, channel: usize) -> bf16 {
    let mut z = ((rank as u64 + 1) * 0x9E37_79B9)
        ^ (row as u64 * 0x85EB_CA6B)
        ^ (channel as u64 * 0xC2B2_AE35);
    z ^= z >> 15;
    z = z.wrapping_mul(0x2C1B_3C6D);
    z ^= z >> 12;
    bf16::from_f32((z % 4001) as f32 / 1000.0 - 2.0)
}

fn y_of(rank: u32, rows: usize, hidden: usize) -> Vec<bf16> {
    let row = |r| (0..hidden).map(move |c| expert_out(rank, r, c));
    (0..rows).flat_map(row).collect()
}

struct Expected {
    received: Received,
    sums: Vec<bf16>,
    y: Vec<bf16>,
}

fn on_the_host(config: &Config, batches: &[Batch]) -> Vec<Expected> {
    let (_cluster, fabrics) =
        Cluster::with_ranks(config, Network::default(), config.capacity()).unwrap();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = fabrics
            .into_iter()
            .zip(batches)
            .map(|(fabric, batch)| {
                scope.spawn(move || {
                    let mut buffer = ep_buffer::EpBuffer::new(config.clone(), fabric).unwrap();
                    let mut received = buffer.dispatch_output().unwrap();
                    let mut combined = buffer.combine_output().unwrap();
                    let handle = buffer
                        .dispatch(
                            &batch.x,
                            &batch.topk_idx,
                            &batch.weights,
                            batch.top_k,
                            &mut received,
                        )
                        .unwrap();
                    let hidden = config.hidden() as usize;
                    let rows = received.src_info().len();
                    let y = y_of(buffer.rank().0, rows, hidden);
                    buffer.combine(&handle, &y, &mut combined).unwrap();
                    let ranges = received.layout_range().iter();
                    let (x, scales): (&[u8], &[u8]) = match received.rows() {
                        Rows::Bf16(x) => (bytemuck::cast_slice(x), &[]),
                        Rows::Fp8(x, scales) => (x, bytemuck::cast_slice(scales)),
                        Rows::Fp8Ue8m0(x, scales) => (x, scales),
                    };
                    Expected {
                        received: Received {
                            x: x.to_vec(),
                            scales: scales.to_vec(),
                            count: received.recv_count().to_vec(),
                            src_info: received.src_info().to_vec(),
                            ranges: ranges
                                .map(|r| u64::from(r.count) << 32 | u64::from(r.begin))
                                .collect(),
                        },
                        sums: combined.x().to_vec(),
                        y,
                    }
                })
            })
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

/// Compares the valid rows.
fn check(case: &Case, rank: u32, got: &Received, want: &Received) {
    assert_eq!(
        got.count[..want.count.len()],
        want.count,
        "rank {rank}: recv_count"
    );
    assert_eq!(
        got.ranges[..want.ranges.len()],
        want.ranges,
        "rank {rank}: layout_range"
    );
    let rows = (case.ranks * case.tokens) as usize;
    let element = match case.dispatch {
        DispatchType::Bf16 => 2,
        _ => 1,
    };
    let row_bytes = case.hidden as usize * element;
    // Scales of a group, or of four, lie together for all rows of an expert.
    let groups = want.scales.len() / 4 / (want.count.len().max(1) * rows);
    for (e, count) in want.count.iter().enumerate() {
        for at in 0..*count as usize {
            let row = e * rows + at;
            assert_eq!(
                got.src_info[row], want.src_info[row],
                "rank {rank}: src_info of {e}, {at}"
            );
            let bytes = row * row_bytes..(row + 1) * row_bytes;
            assert!(
                got.x[bytes.clone()] == want.x[bytes],
                "rank {rank}: row {e}, {at}"
            );
            for g in 0..groups {
                let word = ((e * groups + g) * rows + at) * 4;
                assert_eq!(
                    got.scales[word..word + 4],
                    want.scales[word..word + 4],
                    "rank {rank}: scales {g} of row {e}, {at}"
                );
            }
        }
    }
}

pub(crate) fn agree(case: &Case) {
    let config = Config::builder(case.ranks, case.experts, case.hidden, case.tokens)
        .max_top_k(case.top_k)
        .dispatch_type(case.dispatch)
        .build()
        .unwrap();
    let settings = Settings {
        sms: case.sms.or(sms_of_each(&config).unwrap()),
        senders: case.senders,
        ..Settings::default()
    };
    let rounds: Vec<Vec<Batch>> = (0..2)
        .map(|seed| (0..case.ranks).map(|r| batch(case, r, seed)).collect())
        .collect();
    let expected: Vec<_> = rounds.iter().map(|b| on_the_host(&config, b)).collect();
    let members = cluster(&config).unwrap();
    let barrier = Meeting::new(members.len());
    std::thread::scope(|scope| {
        for (r, member) in members.into_iter().enumerate() {
            let (rounds, expected, barrier, config) = (&rounds, &expected, &barrier, &config);
            scope.spawn(move || {
                let _participant = barrier.participant();
                let mut rank = GpuRank::new(config, settings, member);
                // Odd numbers of operations, halves and wholes, in turn.
                for (i, halves) in [false, true, false, false].into_iter().enumerate() {
                    let round = i % 2;
                    let want = &expected[round][r];
                    rank.index_type = [IndexType::I64, IndexType::I32][round];
                    rank.load(&rounds[round][r]);
                    rank.y.write(0, bytemuck::cast_slice(&want.y)).unwrap();
                    barrier.wait();
                    rank.dispatch(halves);
                    rank.stream.synchronize().unwrap();
                    check(case, r as u32, &rank.fetch(), &want.received);
                    rank.combine(halves);
                    rank.stream.synchronize().unwrap();
                    check_sums(case, r, &rank, want, &rounds[round][r]);
                }
                let answers = rank.buffer.combine_answers().unwrap();
                assert_eq!(answers.answered.len(), case.ranks as usize);
                assert_eq!(rank.handle.answers().unwrap().answered, answers.answered);
                // A graph gives the same again and again.
                barrier.wait();
                let graph = rank.capture(3);
                barrier.wait();
                for _ in 0..4 {
                    graph.launch().unwrap();
                }
                rank.stream.synchronize().unwrap();
                check(case, r as u32, &rank.fetch(), &expected[1][r].received);
                check_sums(case, r, &rank, &expected[1][r], &rounds[1][r]);
                barrier.wait();
            });
        }
    });
}

fn check_sums(case: &Case, r: usize, rank: &GpuRank, want: &Expected, batch: &Batch) {
    let (sums, missing) = rank.fetch_sums();
    assert!(
        missing.iter().all(|m| *m == 0),
        "rank {r}: missing {missing:?}"
    );
    assert_eq!(sums.len(), want.sums.len());
    let hidden = case.hidden as usize;
    for (t, (got, want)) in sums
        .chunks(hidden)
        .zip(want.sums.chunks(hidden))
        .enumerate()
    {
        let weights = &batch.weights[t * batch.top_k..(t + 1) * batch.top_k];
        let size: f32 = weights.iter().sum::<f32>() * 2.0;
        for (c, (got, want)) in got.iter().zip(want).enumerate() {
            let off = (got.to_f32() - want.to_f32()).abs();
            assert!(
                off <= size / 128.0,
                "rank {r}: token {t}, {c}: {got} for {want}"
            );
        }
    }
}
