//! Send work queue entries (`mlx5_wqe_*_seg` of `mlx5dv.h`): layouts, a builder that cannot write
//! a malformed entry, and a parser for what somebody else wrote.
//!
//! A WQE is a control segment, then, by opcode, a remote address segment, atomic segments, and
//! data segments or inline data, in units of 16 bytes (`ds`). It fills whole 64-byte blocks
//! (WQEBBs) of the send queue.

mod atomic;
mod build;
mod opcode;
mod parse;
mod seg;

pub use atomic::{AtomicOp, AtomicWidth};
pub use build::Wqe;
pub use opcode::{CTRL_CQ_UPDATE, CTRL_FENCE, CTRL_SMALL_FENCE, CTRL_SOLICITED, CtrlFlags, Opcode};
pub use parse::{MAX_GATHER, ParsedWqe, Payload, SegList, parse};
pub use seg::{
    AtomicSeg, CtrlSeg, DataSeg, INLINE_SEG, InlineHeader, MaskedCompareSwap4Seg,
    MaskedFetchAdd4Seg, MaskedFetchAdd8Seg, RaddrSeg,
};

/// Size of a WQE basic block, the stride of a send queue, in bytes.
pub const WQEBB_BYTES: usize = 64;

/// Size of the unit that the `ds` field of the control segment counts, in bytes.
pub const DS_BYTES: usize = 16;

/// Size of the largest WQE that [`Wqe`] builds, in bytes.
pub const MAX_WQE_BYTES: usize = 256;

/// Most inline bytes that fit an RDMA write built by [`Wqe`]; a send has 16 more.
pub const MAX_INLINE_WRITE_BYTES: usize =
    MAX_WQE_BYTES - size_of::<CtrlSeg>() - size_of::<RaddrSeg>() - size_of::<InlineHeader>();

/// A message is at most this long, in bytes: one data segment counts to 2 GiB.
pub const MAX_MESSAGE_BYTES: u64 = 1 << 31;

/// What every WQE says about its posting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// Queue pair number, 24 bits.
    pub qpn: u32,
    /// Producer counter of the send queue at this WQE, in WQEBBs, modulo 65536.
    pub index: u16,
    /// Write a completion when done; an error is reported either way.
    pub signalled: bool,
    /// Raise a solicited event at the responder.
    pub solicited: bool,
    /// Wait for earlier reads and atomics before starting.
    pub fence: bool,
}

/// Where in the peer's memory an operation works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Remote virtual address.
    pub addr: u64,
    /// Remote key.
    pub rkey: u32,
}

/// A stretch of registered local memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataPtr {
    /// Local virtual address.
    pub addr: u64,
    /// Local key.
    pub lkey: u32,
    /// Length in bytes, 1 to 2^31 - 1 to post; 2^31 is what the device takes a length of 0 for.
    pub len: u32,
}

/// Why a WQE could not be built, or is not well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WqeError {
    /// The queue pair number is wider than 24 bits.
    #[error("queue pair number {qpn:#x} is wider than 24 bits")]
    QpnTooWide {
        /// The number given.
        qpn: u32,
    },
    /// More data segments than fit.
    #[error("{count} data segments, at most {limit} fit")]
    TooManySegments {
        /// Segments given.
        count: usize,
        /// Most that fit.
        limit: usize,
    },
    /// More inline data than fits.
    #[error("{len} bytes of inline data, at most {limit} fit")]
    InlineTooLong {
        /// Bytes given.
        len: usize,
        /// Most that fit.
        limit: usize,
    },
    /// A data segment whose length is zero or reaches 2^31.
    #[error("data segment {index} has length {len}, must be 1 to 2147483647")]
    SegmentLength {
        /// Position in the list.
        index: usize,
        /// Length given.
        len: u32,
    },
    /// A message over 2^31 bytes.
    #[error("message of {len} bytes, at most {limit}")]
    MessageTooLong {
        /// Sum of the segments.
        len: u64,
        /// Longest message.
        limit: u64,
    },
    /// An atomic on an address that is not a multiple of its width.
    #[error("atomic on remote address {addr:#x}, not a multiple of {width} bytes")]
    AtomicAlignment {
        /// Remote address.
        addr: u64,
        /// Operand width in bytes.
        width: u32,
    },
    /// An atomic whose local buffer is not one segment of its width.
    #[error("atomic of {width} bytes returns into {len} bytes")]
    AtomicLength {
        /// Operand width in bytes.
        width: u32,
        /// Local length.
        len: u32,
    },
    /// An operand does not fit the width of the atomic.
    #[error("atomic operand {value:#x} does not fit {width} bytes")]
    AtomicOperand {
        /// The operand.
        value: u64,
        /// Operand width in bytes.
        width: u32,
    },
    /// An opcode that a reliable connection does not know.
    #[error("opcode {opcode:#04x} is not supported")]
    Opcode {
        /// The opcode byte.
        opcode: u8,
    },
    /// An opcode modifier that the opcode does not have.
    #[error("opcode modifier {opmod:#04x} is not valid for opcode {opcode:#04x}")]
    OpcodeModifier {
        /// The modifier.
        opmod: u8,
        /// The opcode byte.
        opcode: u8,
    },
    /// The bytes end before the segment does.
    #[error("WQE has {have} bytes, its segments need {need}")]
    Truncated {
        /// Bytes that the segments need.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Bytes are left over after the last segment.
    #[error("{extra} bytes follow the last segment of the WQE")]
    Trailing {
        /// Bytes left over.
        extra: usize,
    },
    /// Inline data where the opcode takes none, or mixed with data segments.
    #[error("inline data is not allowed here")]
    UnexpectedInline,
}
