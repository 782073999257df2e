//! Ranks that do not answer, and results that stay the same to the bit.

use crate::meeting::Meeting;
use crate::rank::{Batch, GpuRank};
use ep_buffer::Config;
use ep_buffer::cuda::testing::{Member, cluster, sms_of_each};
use ep_buffer::cuda::{Settings, Tensor};
use ep_transport::{Epoch, Rank};
use half::bf16;
use std::time::{Duration, Instant};

const RANKS: u32 = 3;
const TOP_K: usize = 4;
const EXPERTS: usize = 12;
const TIME_OUT: Duration = Duration::from_millis(300);

/// Tokens of each rank, and elements of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
}

fn config(size: Size) -> Config {
    Config::builder(
        RANKS,
        EXPERTS as u32,
        size.hidden as u32,
        size.tokens as u32,
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
fn check_sums(rank: &GpuRank, own: &Batch, without: Option<u32>) {
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

fn on_ranks(size: Size, run: impl Fn(GpuRank, Batch, &Meeting) + Sync) {
    let config = config(size);
    let settings = Settings {
        sms: sms_of_each(&config).unwrap(),
        ..Settings::default()
    };
    let members: Vec<Member> = cluster(&config).unwrap();
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

fn pair(rank: &mut GpuRank) -> Duration {
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
        assert!(took >= TIME_OUT && took < TIME_OUT * 3, "{took:?}");
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

/// What a lying rank says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    /// That more rows and tokens come than can come.
    Counts,
    /// That rows of its tokens are those of others.
    Rows,
}

/// One rank says that more comes than can come: what it delivers is taken, and nobody reads or
/// writes where nothing is.
pub(crate) fn lying_rank(size: Size) {
    lie(size, Lie::Counts);
}

/// One rank says that its tokens are rows beyond its own: those of others stay what they are.
pub(crate) fn greedy_rank(size: Size) {
    lie(size, Lie::Rows);
}

fn lie(size: Size, what: Lie) {
    const LIAR: u32 = 1;
    on_ranks(size, |mut rank, own, barrier| {
        pair(&mut rank);
        barrier.wait();
        let lies = rank.buffer.rank() == Rank(LIAR);
        if lies {
            rank.dispatch_send();
            rank.stream.synchronize().unwrap();
        }
        barrier.wait();
        if !lies {
            change_what_was_said(&rank, Rank(LIAR), what);
        }
        // Copies wait for kernels of other ranks on the same GPU.
        barrier.wait();
        if lies {
            rank.dispatch_receive();
        } else {
            rank.dispatch(false);
        }
        rank.combine(false);
        rank.stream.synchronize().unwrap();
        if !lies || what == Lie::Counts {
            check_sums(&rank, &own, None);
        } else {
            // Nobody has rows of some of its tokens, so nobody returns sums of them.
            let answered = rank.buffer.combine_answers().unwrap().answered;
            assert_eq!(answered, [Rank(LIAR)]);
        }
        let received = rank.fetch();
        for (e, count) in received.count.iter().enumerate() {
            assert!(*count as usize <= RANKS as usize * size.tokens, "{e}");
        }
        for range in received.ranges {
            assert!((range >> 32) as usize <= size.tokens, "{range:#x}");
        }
    });
}

/// In the window of `rank`, for the second dispatch, which is the third operation.
fn change_what_was_said(rank: &GpuRank, liar: Rank, what: Lie) {
    let (fabric, config) = (rank.buffer.fabric(), rank.buffer.config());
    let changed = match what {
        Lie::Counts => {
            // Rows of each expert, and tokens; behind them stands which tokens come.
            let words = fabric.counts_from(config, liar, Epoch(2));
            let words = Tensor::new(words.address, (EXPERTS as u64 / u64::from(RANKS) + 1) * 8);
            rank.change(words, |_, word: u64| {
                assert_ne!(word >> 32, 0, "nothing was sent");
                word | u64::from(u32::MAX)
            })
        }
        Lie::Rows => {
            let words = fabric.meta_from(config, liar, Epoch(2));
            rank.change(words, |i, word: u32| match i % 32 {
                k if k % 2 == 1 && k < 1 + 2 * TOP_K && word != u32::MAX => {
                    word.wrapping_add((config.max_tokens() / 3) << 16)
                }
                _ => word,
            })
        }
    };
    assert!(changed > 0, "nothing was changed");
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
