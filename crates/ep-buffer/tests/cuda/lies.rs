//! Ranks whose words are not what they should be: what they claim leads nobody astray.

use crate::faults::{EXPERTS, RANKS, Size, TOP_K, check_sums, on_ranks, pair};
use crate::rank::GpuRank;
use ep_buffer::cuda::Tensor;
use ep_transport::{Epoch, Rank};

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

/// What of a rank's own does not come.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Counts,
    /// All counts come.
    Rows,
}

/// Rows that a rank sends to itself do not come: they are in no sum of it, and said to be missing.
pub(crate) fn own_rows_lost(size: Size) {
    lose_own(size, Lost::Rows);
    lose_own(size, Lost::Counts);
}

fn lose_own(size: Size, what: Lost) {
    const UNLUCKY: u32 = 1;
    on_ranks(size, |mut rank, own, barrier| {
        let unlucky = rank.buffer.rank() == Rank(UNLUCKY);
        let lost = unlucky.then_some(UNLUCKY);
        pair(&mut rank);
        barrier.wait();
        rank.dispatch_send();
        rank.stream.synchronize().unwrap();
        barrier.wait();
        if unlucky {
            let (fabric, config) = (rank.buffer.fabric(), rank.buffer.config());
            // Tags: the last word of a line, the upper half of a count.
            let (words, tag) = match what {
                Lost::Counts => (fabric.counts_from(config, Rank(UNLUCKY), Epoch(2)), 1),
                Lost::Rows => (fabric.meta_from(config, Rank(UNLUCKY), Epoch(2)), 31),
            };
            let changed = rank.change(
                words,
                |i, word: u32| {
                    if i % (tag + 1) == tag { 0 } else { word }
                },
            );
            assert!(changed > 0, "nothing was sent");
        }
        // Copies wait for kernels of other ranks on the same GPU.
        barrier.wait();
        rank.dispatch_receive();
        rank.stream.synchronize().unwrap();
        barrier.wait();
        rank.combine(false);
        rank.stream.synchronize().unwrap();
        check_sums(&rank, &own, lost);
        let answered = rank.buffer.combine_answers().unwrap().answered;
        let dispatched = rank.handle.answers().unwrap().answered;
        assert_eq!(dispatched.contains(&Rank(UNLUCKY)), !unlucky);
        assert_eq!(answered.len(), RANKS as usize);
        // It is there again with the next operation.
        barrier.wait();
        pair(&mut rank);
        check_sums(&rank, &own, None);
    });
}
