//! Work requests and where each stands in the sequence.

use mlx5gda_sys::wqe::AtomicOp;

use crate::psn::Seq;

/// What a work request does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Nothing; completes in order.
    Nop,
    /// Sends to the peer's receive queue.
    Send {
        /// Immediate data.
        immediate: Option<u32>,
    },
    /// Writes to the peer's memory.
    Write {
        /// Address at the peer.
        addr: u64,
        /// Remote key.
        rkey: u32,
        /// Immediate data, which consumes a receive buffer.
        immediate: Option<u32>,
    },
    /// Reads from the peer's memory.
    Read {
        /// Address at the peer.
        addr: u64,
        /// Remote key.
        rkey: u32,
    },
    /// Changes 4 or 8 bytes at the peer and returns what they were.
    Atomic {
        /// Address at the peer, a multiple of the operand's width.
        addr: u64,
        /// Remote key.
        rkey: u32,
        /// What to do.
        op: AtomicOp,
    },
}

impl Op {
    /// Whether the responder answers it with data, so that a plain
    /// acknowledgement cannot complete it.
    pub const fn wants_data(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Atomic { .. })
    }
}

/// One entry of a send queue. `P` says where its local data is; the transport
/// hands it back with each packet and never looks inside.
#[derive(Clone, Debug)]
pub struct WorkRequest<P> {
    /// Index of the WQE, for the completion.
    pub index: u16,
    /// What to do.
    pub op: Op,
    /// Bytes of local data (4 or 8 for an atomic).
    pub len: u32,
    /// Whether success is reported.
    pub signalled: bool,
    /// Whether the receiver is asked to raise an event.
    pub solicited: bool,
    /// Whether to wait for all earlier reads and atomics.
    pub fence: bool,
    /// Where the local data is.
    pub payload: P,
}

/// A work request with its place in the sequence: packets `first..end`.
#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) wr: WorkRequest<P>,
    pub(super) first: Seq,
    pub(super) end: Seq,
    /// It cannot be executed; it fails when all before it are done.
    pub(super) failure: Option<super::Status>,
}

impl<P> Entry<P> {
    pub(super) fn new(wr: WorkRequest<P>, first: Seq, mtu: u32) -> Self {
        let packets = match wr.op {
            Op::Nop => 0,
            Op::Atomic { .. } => 1,
            Op::Send { .. } | Op::Write { .. } | Op::Read { .. } => packets(wr.len, mtu),
        };
        Self {
            wr,
            first,
            end: first.plus(packets),
            failure: None,
        }
    }
}

/// Packets of a message of `len` bytes; an empty one takes one packet.
pub(super) const fn packets(len: u32, mtu: u32) -> u64 {
    if len == 0 {
        1
    } else {
        len.div_ceil(mtu) as u64
    }
}
