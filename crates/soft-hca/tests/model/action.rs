//! What may happen to two devices, and how often it is drawn.

use std::time::Duration;

use proptest::prelude::*;
use soft_hca::{Faults, Outage};

use crate::masked::{Masked, masked};

/// Queue pairs of each device.
pub(crate) const PAIRS: usize = 2;
/// Bytes of the memory that one requester writes at its peer.
pub(crate) const AREA: usize = 16 << 10;
/// Bytes of the longest message.
pub(crate) const LONGEST: usize = 6000;
/// Words that one requester's atomics work on.
pub(crate) const WORDS: usize = 4;

/// One of the four directions: from which device, on which pair.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) side: usize,
    pub(crate) pair: usize,
}

/// Part of an area.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Span {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// What a work request does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Nop,
    Write { to: Span, immediate: Option<u32> },
    WriteInline { at: usize },
    Read { from: Span },
    Send { len: usize, immediate: Option<u32> },
    FetchAdd { word: usize, add: u64 },
    CompareSwap { word: usize, right: bool, swap: u64 },
    Masked(Masked),
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// A work request; where it needs a receive buffer, that is posted before or only later.
    Post {
        lane: Lane,
        work: Work,
        signalled: bool,
        ready: bool,
    },
    /// Everything is waited for and compared.
    Settle,
    /// One device's network turns good or bad.
    Weather { side: usize, faults: Faults },
    /// One device's link is taken down; it comes up before everything is waited for.
    Unplug { side: usize },
    /// Commands, of which each device may fail the one with this number.
    Orders {
        fails: [Option<u64>; 2],
        order: Order,
    },
}

/// Something that commands do.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// A pair is reset at both ends and connected anew.
    Reset { pair: usize, psn: u32 },
    /// One end goes to error: what is posted from then on is flushed. Then as `Reset`.
    Fail { lane: Lane, posts: usize },
    /// Commands that are refused and change nothing.
    Illegal { lane: Lane },
    /// A pair that is connected waits longer or shorter for receive buffers.
    Patience { lane: Lane, min_rnr_nak: u32 },
    /// A completion queue has its events later or sooner.
    Moderate {
        side: usize,
        period: u32,
        count: u16,
    },
    /// Objects come and go beside the traffic.
    Churn { side: usize, count: usize },
}

fn lane() -> impl Strategy<Value = Lane> {
    (0..2usize, 0..PAIRS).prop_map(|(side, pair)| Lane { side, pair })
}

fn span() -> impl Strategy<Value = Span> {
    let len = prop_oneof![Just(0usize), 1..64usize, Just(1024usize), 1025..LONGEST];
    (0..AREA - LONGEST, len).prop_map(|(at, len)| Span { at, len })
}

fn work() -> impl Strategy<Value = Work> {
    let immediate = || prop::option::of(any::<u32>());
    prop_oneof![
        1 => Just(Work::Nop),
        4 => (span(), immediate()).prop_map(|(to, immediate)| Work::Write { to, immediate }),
        2 => (0..AREA - 64).prop_map(|at| Work::WriteInline { at }),
        4 => span().prop_map(|from| Work::Read { from }),
        4 => (span(), immediate())
            .prop_map(|(span, immediate)| Work::Send { len: span.len, immediate }),
        3 => (0..WORDS, any::<u64>()).prop_map(|(word, add)| Work::FetchAdd { word, add }),
        2 => (0..WORDS, any::<bool>(), any::<u64>())
            .prop_map(|(word, right, swap)| Work::CompareSwap { word, right, swap }),
        4 => masked().prop_map(Work::Masked),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let chance = || prop_oneof![2 => Just(0.0), 1 => 0.0..0.08f64];
    let outage = prop::option::weighted(0.2, 1..8u64).prop_map(|millis| {
        millis.map(|millis| Outage {
            from: Duration::from_millis(1),
            until: Duration::from_millis(1 + millis),
        })
    });
    let chances = (chance(), chance(), chance(), chance());
    (chances, 0..300u64, any::<u64>(), outage.clone(), outage).prop_map(
        |((loss, duplicate, corrupt, reorder), delay, seed, frozen, link_down)| Faults {
            loss,
            duplicate,
            corrupt,
            reorder,
            delay: Duration::from_micros(delay),
            seed,
            frozen,
            link_down,
            fail_command: None,
        },
    )
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        2 => (0..PAIRS, 0u32..1 << 24).prop_map(|(pair, psn)| Order::Reset { pair, psn }),
        1 => (lane(), 1..4usize).prop_map(|(lane, posts)| Order::Fail { lane, posts }),
        2 => lane().prop_map(|lane| Order::Illegal { lane }),
        // 0.01 to 1.28 ms.
        2 => (lane(), 1..15u32)
            .prop_map(|(lane, min_rnr_nak)| Order::Patience { lane, min_rnr_nak }),
        2 => (0..2usize, 0..1u32 << 12, any::<u16>())
            .prop_map(|(side, period, count)| Order::Moderate { side, period, count }),
        4 => (0..2usize, 1..4usize).prop_map(|(side, count)| Order::Churn { side, count }),
    ]
}

/// What happens, and how often.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    let ready = prop::bool::weighted(0.9);
    let post = (lane(), work(), any::<bool>(), ready).prop_map(|(lane, work, signalled, ready)| {
        Action::Post {
            lane,
            work,
            signalled,
            ready,
        }
    });
    // About as many as the longest order has commands.
    let fails = || prop::array::uniform2(prop::option::weighted(0.7, 0..16u64));
    prop_oneof![
        40 => post,
        3 => Just(Action::Settle),
        4 => (0..2usize, faults()).prop_map(|(side, faults)| Action::Weather { side, faults }),
        1 => (0..2usize).prop_map(|side| Action::Unplug { side }),
        10 => (fails(), order()).prop_map(|(fails, order)| Action::Orders { fails, order }),
    ]
}
