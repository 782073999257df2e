//! Doorbell records and the doorbell (UAR) page.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::be::Be32;

/// Size of a UAR page, in bytes, as the devx UAR calls hand it out.
pub const UAR_PAGE_BYTES: usize = 4096;

/// Offset of the first BlueFlame register in a UAR page (`reg_addr` of `mlx5dv_devx_uar`).
pub const UAR_BLUEFLAME: usize = 0x800;

/// Size of one BlueFlame buffer; a page has two of them, used alternately when whole WQEs are
/// written through them.
pub const UAR_BLUEFLAME_BYTES: usize = 0x100;

/// Offset of the CQ doorbell register in a UAR page (`MLX5_CQ_DOORBELL`).
pub const UAR_CQ_DOORBELL: usize = 0x20;

/// The doorbell record of a queue pair: how far software has produced.
///
/// The device reads it by DMA, so the counters must be in memory before the doorbell register is
/// written. Only the low 16 bits of each counter count.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct QpDoorbellRecord {
    /// Receive WQEs posted so far, modulo 65536 (`MLX5_RCV_DBR`).
    pub receive: Be32,
    /// 64-byte blocks (WQEBBs) posted to the send queue so far, modulo 65536 (`MLX5_SND_DBR`).
    pub send: Be32,
}

/// The doorbell record of a completion queue.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CqDoorbellRecord {
    /// Completions consumed so far, low 24 bits.
    pub consumer: Be32,
    /// Arming: sequence in bits 29:28, command in bit 24, consumer counter in the low 24 bits.
    pub arm: Be32,
}

const _: () = {
    assert!(size_of::<QpDoorbellRecord>() == 8);
    assert!(offset_of!(QpDoorbellRecord, receive) == 0);
    assert!(offset_of!(QpDoorbellRecord, send) == 4);
    assert!(size_of::<CqDoorbellRecord>() == 8);
    assert!(offset_of!(CqDoorbellRecord, arm) == 4);
    assert!(UAR_BLUEFLAME + 2 * UAR_BLUEFLAME_BYTES <= UAR_PAGE_BYTES);
};
