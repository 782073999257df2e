//! The table in GPU memory that decides who takes part in which operation.
//!
//! Kernels read it at their start; the host changes it by copies. This file holds nothing
//! but its layout, so that a C header can be made from it.
//!
//! An operation has an index, `op`: how many have ended on this rank before it. Its epoch,
//! the number that all ranks agree on, is `op` plus `base_before`, or from `switch_op` on
//! plus `base_after`, wrapping. A rank takes part in an operation if
//! `op >= attached_op` and `active_from <= epoch < active_until`.
//!
//! Each thread block:
//!
//! 1. when the operation before has ended, adds its share to `begun` and reads `op`, the
//!    head and the rows, all of that within a millisecond, in any order;
//! 2. if its epoch is at or beyond `run_limit`, waits until that word has another value,
//!    then reads head and rows again. After `decision_time_out_ns` it swaps the value that
//!    it waited at for [`NEVER`];
//! 3. does its work. About a rank that takes part and does not answer all thread blocks
//!    agree, and whoever finds it absent lowers its `active_until` to `epoch + 1`. One that
//!    is `gone` and sends no more is found absent soon;
//! 4. adds its share to `ended`. No fence goes before it, which would cost a microsecond of the
//!    ten that a small pair takes: what the block has stored may still be on its way. Windows are
//!    taken away by unmapping them. The driver's sources flush and wait for stores then (a
//!    barrier goes with the invalidation of translations); its documentation does not say so.
//!
//! An operation may be several kernels, the first of which adds to `begun` and the last to
//! `ended`.

/// The most ranks that a table holds.
pub const MAX_RANKS: usize = 32;
/// In words that name an epoch or an operation: none.
pub const NEVER: u64 = u64::MAX;
/// What the thread blocks of one operation add to `begun` and to `ended` together. Of a
/// grid of `G`, block 0 adds this less `G - 1`, the others add 1.
pub const OPERATION: u64 = 65_536;
/// In the low two bits of a verdict, above which the operation is: the rank is there.
pub const PRESENT: u64 = 1;
/// The same: the rank is not there.
pub const ABSENT: u64 = 2;

/// What holds for all ranks: one line of 128 bytes, written by the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// No operation at or beyond this epoch goes on.
    pub run_limit: u64,
    /// The first operation whose epoch is counted from `base_after`.
    pub switch_op: u64,
    /// Epoch less operation, before the switch.
    pub base_before: u64,
    /// Epoch less operation, from the switch on.
    pub base_after: u64,
    /// The first operation in which the rows count.
    pub attached_op: u64,
    /// How long a kernel waits for a peer, by `globaltimer`.
    pub time_out_ns: u64,
    /// How long it waits for `run_limit` to change.
    pub decision_time_out_ns: u64,
    /// This rank's incarnation, which its signals carry.
    pub own_incarnation: u32,
    /// Ranks that there can be.
    pub capacity: u32,
    /// Nothing yet.
    pub reserved: [u64; 8],
}

/// A word with a line of its own, written by kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The word.
    pub count: u64,
    /// In `ended`: when the last operation ended, by `globaltimer`.
    pub at_ns: u64,
    /// To the end of the line.
    pub line: [u64; 14],
}

/// When a rank takes part.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// First epoch in which it does.
    pub active_from: u64,
    /// First epoch in which it does not any more; also written by kernels.
    pub active_until: u64,
    /// In which life.
    pub incarnation: u32,
    /// Not 0: it is dead, or seems so. Nobody stores into its memory any more, and nobody
    /// waits for it.
    pub gone: u32,
    /// Nothing yet.
    pub reserved: u64,
}

/// Statistics, written by kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Time waited for each rank, in nanoseconds.
    pub ns: [u64; MAX_RANKS],
    /// Operations that were measured.
    pub ops: u64,
    /// To the end of the line.
    pub line: [u64; 15],
}

/// All of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// What holds for all ranks.
    pub head: Head,
    /// Thread blocks that have begun, as [`OPERATION`] counts them.
    pub begun: Counter,
    /// Thread blocks that have ended; divided by [`OPERATION`], operations.
    pub ended: Counter,
    /// The epoch after the last one in which another rank took part.
    pub shared_until: Counter,
    /// When each rank takes part.
    pub rows: [Row; MAX_RANKS],
    /// For each rank the last operation in which thread blocks had to agree about it, times 4,
    /// and what they agreed on; written by kernels.
    pub verdict: [u64; MAX_RANKS],
    /// Statistics.
    pub waits: Waits,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 128);
    assert!(offset_of!(Head, run_limit) == 0);
    assert!(offset_of!(Head, switch_op) == 8);
    assert!(offset_of!(Head, base_before) == 16);
    assert!(offset_of!(Head, base_after) == 24);
    assert!(offset_of!(Head, attached_op) == 32);
    assert!(offset_of!(Head, time_out_ns) == 40);
    assert!(offset_of!(Head, decision_time_out_ns) == 48);
    assert!(offset_of!(Head, own_incarnation) == 56);
    assert!(offset_of!(Head, capacity) == 60);
    assert!(size_of::<Counter>() == 128);
    assert!(offset_of!(Counter, count) == 0);
    assert!(size_of::<Row>() == 32);
    assert!(offset_of!(Row, active_from) == 0);
    assert!(offset_of!(Row, active_until) == 8);
    assert!(offset_of!(Row, incarnation) == 16);
    assert!(offset_of!(Row, gone) == 20);
    assert!(size_of::<Waits>() == 384);
    assert!(offset_of!(Waits, ops) == 256);
    assert!(offset_of!(Table, head) == 0);
    assert!(offset_of!(Table, begun) == 128);
    assert!(offset_of!(Table, ended) == 256);
    assert!(offset_of!(Table, shared_until) == 384);
    assert!(offset_of!(Table, rows) == 512);
    assert!(offset_of!(Table, verdict) == 1536);
    assert!(offset_of!(Table, waits) == 1792);
    assert!(size_of::<Table>() == 2176);
};
