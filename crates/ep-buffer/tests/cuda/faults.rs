//! Ranks that do not answer, and results that stay the same to the bit.

use crate::meeting::Meeting;
use crate::rank::{Batch, GpuRank};
use ep_buffer::Config;
use ep_buffer::cuda::Settings;
use ep_buffer::cuda::testing::{Member, cluster, sms_of_each, strangers};
use ep_transport::{Epoch, Rank};
use half::bf16;
use std::time::{Duration, Instant};

pub(crate) const RANKS: u32 = 3;
pub(crate) const TOP_K: usize = 4;
pub(crate) const EXPERTS: usize = 12;
const TIME_OUT: Duration = Duration::from_millis(300);

/// Tokens of each rank, how many there can be, and elements of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) tokens: usize,
    pub(crate) max_tokens: usize,
    pub(crate) hidden: usize,
}

fn config(size: Size) -> Config {
    Config::builder(
        RANKS,
        EXPERTS as u32,
        size.hidden as u32,
        size.max_tokens as u32,
    )
    .max_top_k(TOP_K as u32)
    .time_out(TIME_OUT)
    .build()
    .unwrap()
}

/// Token t chooses experts t, t + 1, t + 5 and t + 6: of two ranks or of all three.
fn batch(rank: usize, size: Size) -> Batch {
    let choice = |t: usize, k: usize| ((t + [0, 1, 5, 6][k]) % EXPERTS) as i32;
    Batch {
        top_k: TOP_K,
        x: (0..size.tokens * size.hidden)
            .map(|i| bf16::from_f32(((i * 7 + rank * 13) % 64) as f32 - 32.0))
            .collect(),
        topk_idx: (0..size.tokens * TOP_K)
            .map(|i| choice(i / TOP_K, i % TOP_K))
            .collect(),
        weights: (0..size.tokens * TOP_K)
            .map(|i| [0.5, 0.25, 0.125, 0.0625][i % TOP_K])
            .collect(),
    }
}

/// The experts return their input, so a sum is the token times the weights that count.
pub(crate) fn check_sums(rank: &GpuRank, own: &Batch, without: Option<u32>) {
    let local = EXPERTS / RANKS as usize;
    let (sums, missing) = rank.fetch_sums();
    let hidden = own.x.len() / own.tokens();
    for t in 0..own.tokens() {
        let lost = |k: usize| {
            let owner = own.topk_idx[t * TOP_K + k] as usize / local;
            Some(owner as u32) == without
        };
        let bits: u32 = (0..TOP_K).filter(|k| lost(*k)).map(|k| 1 << k).sum();
        assert_eq!(missing[t], bits, "token {t}");
        let weight: f32 = (0..TOP_K)
            .filter(|k| !lost(*k))
            .map(|k| own.weights[t * TOP_K + k])
            .sum();
        for c in 0..hidden {
            let want = own.x[t * hidden + c].to_f32() * weight;
            let got = sums[t * hidden + c].to_f32();
            assert!(
                (got - want).abs() <= want.abs() / 64.0,
                "token {t}, {c}: {got} for {want}"
            );
        }
    }
}

pub(crate) fn on_ranks(size: Size, run: impl Fn(GpuRank, Batch, &Meeting) + Sync) {
    on(cluster(&config(size)).unwrap(), size, run);
}

fn on(members: Vec<Member>, size: Size, run: impl Fn(GpuRank, Batch, &Meeting) + Sync) {
    let config = config(size);
    let settings = Settings {
        sms: sms_of_each(&config).unwrap(),
        ..Settings::default()
    };
    let barrier = Meeting::new(members.len());
    std::thread::scope(|scope| {
        for (r, member) in members.into_iter().enumerate() {
            let (config, barrier, run) = (&config, &barrier, &run);
            scope.spawn(move || {
                let _participant = barrier.participant();
                let mut rank = GpuRank::new(config, settings, member);
                let own = batch(r, size);
                rank.load(&own);
                rank.use_received_as_output();
                barrier.wait();
                run(rank, own, barrier);
                barrier.wait();
            });
        }
    });
}

pub(crate) fn pair(rank: &mut GpuRank) -> Duration {
    let began = Instant::now();
    rank.dispatch(false);
    rank.combine(false);
    rank.stream.synchronize().unwrap();
    began.elapsed()
}

/// One rank takes part in two pairs and then no more; nobody tells the others.
pub(crate) fn silent_rank(size: Size) {
    const SILENT: u32 = 1;
    on_ranks(size, |mut rank, own, barrier| {
        for _ in 0..2 {
            pair(&mut rank);
            check_sums(&rank, &own, None);
        }
        barrier.wait();
        if rank.buffer.rank() == Rank(SILENT) {
            return;
        }
        let took = pair(&mut rank);
        assert!(took >= TIME_OUT && took < TIME_OUT * 2, "{took:?}");
        check_sums(&rank, &own, Some(SILENT));
        let answered = rank.buffer.combine_answers().unwrap().answered;
        assert_eq!(answered, [Rank(0), Rank(2)]);
        assert_eq!(rank.handle.answers().unwrap().answered, answered);
        // From now on it is not waited for.
        for _ in 0..5 {
            let took = pair(&mut rank);
            assert!(took < TIME_OUT / 4, "{took:?}");
            check_sums(&rank, &own, Some(SILENT));
        }
        let control = rank.buffer.fabric().control();
        let row = control.participation(Rank(SILENT)).unwrap();
        assert_eq!(row.active_until.0, 5);
    });
}

/// One rank dispatches and does not combine: sums of the others are without it, all of them.
pub(crate) fn silent_in_the_middle(size: Size) {
    const SILENT: u32 = 2;
    on_ranks(size, |mut rank, own, barrier| {
        pair(&mut rank);
        barrier.wait();
        if rank.buffer.rank() == Rank(SILENT) {
            rank.dispatch(false);
            rank.stream.synchronize().unwrap();
            return;
        }
        pair(&mut rank);
        check_sums(&rank, &own, Some(SILENT));
        let answered = rank.buffer.combine_answers().unwrap().answered;
        assert_eq!(answered, [Rank(0), Rank(1)]);
    });
}

/// The host knows of a death: nobody waits for the time-out, also not while waiting already.
pub(crate) fn known_death(size: Size) {
    const DEAD: u32 = 1;
    on_ranks(size, |mut rank, own, barrier| {
        pair(&mut rank);
        barrier.wait();
        if rank.buffer.rank() == Rank(DEAD) {
            return;
        }
        let began = Instant::now();
        rank.dispatch(false);
        rank.combine(false);
        std::thread::sleep(Duration::from_millis(20));
        let control = rank.buffer.fabric().control();
        control.mask_now(Rank(DEAD)).unwrap();
        rank.stream.synchronize().unwrap();
        assert!(began.elapsed() < TIME_OUT * 3 / 4, "{:?}", began.elapsed());
        check_sums(&rank, &own, Some(DEAD));
        assert!(rank.buffer.fabric().control().quiesce(TIME_OUT).unwrap());
    });
}

/// Ranks warm up alone, with other tokens, and then begin together: at an epoch that they have
/// used before.
pub(crate) fn warmed_up(size: Size) {
    warmed_up_by(&[1], size);
    // What the first one leaves behind the tokens of the second stays.
    warmed_up_by(&[1, 2], size);
}

/// By a pair of all tokens divided by each of `parts`.
fn warmed_up_by(parts: &[usize], size: Size) {
    let members = strangers(&config(size)).unwrap();
    on(members, size, |mut rank, own, barrier| {
        let me = rank.buffer.rank().0;
        let local = EXPERTS / RANKS as usize;
        for part in parts {
            let tokens = size.tokens.div_ceil(*part);
            // All to one expert of its own.
            let alone = Batch {
                topk_idx: vec![me as i32 * local as i32; tokens * TOP_K],
                ..batch(7, Size { tokens, ..size })
            };
            rank.load(&alone);
            pair(&mut rank);
        }
        rank.load(&own);
        barrier.wait();
        rank.buffer.fabric().admit_all(Epoch(0)).unwrap();
        barrier.wait();
        let chosen = &own.topk_idx;
        let here = |e: &&i32| **e as usize / local == me as usize;
        let rows = chosen.iter().filter(here).count() * RANKS as usize;
        for _ in 0..2 {
            pair(&mut rank);
            check_sums(&rank, &own, None);
            assert_eq!(rank.fetch().count.iter().sum::<u32>() as usize, rows);
            barrier.wait();
        }
        let answered = rank.buffer.combine_answers().unwrap().answered;
        assert_eq!(answered.len(), RANKS as usize);
    });
}

/// A rank that is late by less than the time-out is waited for.
pub(crate) fn late_rank(size: Size) {
    on_ranks(size, |mut rank, own, _| {
        for i in 0..4 {
            if rank.buffer.rank() == Rank(i % RANKS) {
                std::thread::sleep(TIME_OUT / 4);
            }
            pair(&mut rank);
            check_sums(&rank, &own, None);
        }
    });
}

/// A thousand replays of a graph give the same bits.
pub(crate) fn same_bits(size: Size) {
    on_ranks(size, |mut rank, own, barrier| {
        pair(&mut rank);
        check_sums(&rank, &own, None);
        let (received, sums) = (rank.fetch(), rank.fetch_sums());
        barrier.wait();
        let graph = rank.capture(1);
        barrier.wait();
        for _ in 0..10 {
            for _ in 0..100 {
                graph.launch().unwrap();
            }
            rank.stream.synchronize().unwrap();
            assert!(rank.fetch() == received);
            assert!(rank.fetch_sums() == sums);
            barrier.wait();
        }
    });
}
