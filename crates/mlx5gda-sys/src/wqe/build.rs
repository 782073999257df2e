//! The builder: every [`Wqe`] that exists is well formed.

use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use super::seg::{CtrlSeg, DataSeg, INLINE_SEG, InlineHeader, RaddrSeg};
use super::{
    AtomicOp, CtrlFlags, DS_BYTES, DataPtr, MAX_MESSAGE_BYTES, MAX_WQE_BYTES, Opcode, Post, Remote,
    WQEBB_BYTES, WqeError,
};
use crate::be::Be32;

/// One send work queue entry, ready to be copied into a send queue.
///
/// # Invariants
/// `bytes[..len]` holds a control segment whose `ds` counts exactly the segments that its opcode
/// calls for; the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Wqe {
    bytes: [u8; MAX_WQE_BYTES],
    len: usize,
}

impl Wqe {
    /// A WQE that does nothing.
    ///
    /// # Errors
    /// [`WqeError::QpnTooWide`].
    pub fn nop(post: Post) -> Result<Self, WqeError> {
        Self::start(post, Opcode::Nop, 0, None)?.finish()
    }

    /// An RDMA write of the memory in `local`, in order, to `remote`. An empty list writes
    /// nothing, which still reports the peer's health.
    ///
    /// # Errors
    /// Too many segments, a segment or message of a length that cannot be expressed, a queue pair
    /// number that is too wide.
    pub fn rdma_write(
        post: Post,
        remote: Remote,
        local: &[DataPtr],
        imm: Option<u32>,
    ) -> Result<Self, WqeError> {
        let mut wqe = Self::start(post, write_opcode(imm), 0, imm)?;
        wqe.push(&RaddrSeg::from(remote))?;
        wqe.gather(local)?;
        wqe.finish()
    }

    /// An RDMA write of `data`, carried in the WQE itself, to `remote`.
    ///
    /// # Errors
    /// [`WqeError::InlineTooLong`] over [`super::MAX_INLINE_WRITE_BYTES`],
    /// [`WqeError::QpnTooWide`].
    pub fn rdma_write_inline(
        post: Post,
        remote: Remote,
        data: &[u8],
        imm: Option<u32>,
    ) -> Result<Self, WqeError> {
        let mut wqe = Self::start(post, write_opcode(imm), 0, imm)?;
        wqe.push(&RaddrSeg::from(remote))?;
        wqe.inline(data)?;
        wqe.finish()
    }

    /// An RDMA read from `remote` into the memory in `local`, in order.
    ///
    /// # Errors
    /// As [`Wqe::rdma_write`].
    pub fn rdma_read(post: Post, remote: Remote, local: &[DataPtr]) -> Result<Self, WqeError> {
        let mut wqe = Self::start(post, Opcode::RdmaRead, 0, None)?;
        wqe.push(&RaddrSeg::from(remote))?;
        wqe.gather(local)?;
        wqe.finish()
    }

    /// A send of the memory in `local`, in order.
    ///
    /// # Errors
    /// As [`Wqe::rdma_write`].
    pub fn send(post: Post, local: &[DataPtr], imm: Option<u32>) -> Result<Self, WqeError> {
        let mut wqe = Self::start(post, send_opcode(imm), 0, imm)?;
        wqe.gather(local)?;
        wqe.finish()
    }

    /// A send of `data`, carried in the WQE itself.
    ///
    /// # Errors
    /// As [`Wqe::rdma_write_inline`], with 16 bytes more.
    pub fn send_inline(post: Post, data: &[u8], imm: Option<u32>) -> Result<Self, WqeError> {
        let mut wqe = Self::start(post, send_opcode(imm), 0, imm)?;
        wqe.inline(data)?;
        wqe.finish()
    }

    /// An 8-byte fetch and add; the old value lands in `local`.
    ///
    /// # Errors
    /// As [`Wqe::atomic`].
    pub fn fetch_add(
        post: Post,
        remote: Remote,
        local: DataPtr,
        add: u64,
    ) -> Result<Self, WqeError> {
        Self::atomic(post, remote, local, AtomicOp::FetchAdd { add })
    }

    /// An 8-byte compare and swap; the old value lands in `local`.
    ///
    /// # Errors
    /// As [`Wqe::atomic`].
    pub fn compare_swap(
        post: Post,
        remote: Remote,
        local: DataPtr,
        compare: u64,
        swap: u64,
    ) -> Result<Self, WqeError> {
        Self::atomic(post, remote, local, AtomicOp::CompareSwap { compare, swap })
    }

    /// Any atomic; the old value lands in `local`.
    ///
    /// # Errors
    /// A remote address that is not aligned to the operand, a local length that is not the
    /// operand's, an operand that is too wide, a queue pair number that is too wide.
    pub fn atomic(
        post: Post,
        remote: Remote,
        local: DataPtr,
        op: AtomicOp,
    ) -> Result<Self, WqeError> {
        op.check(remote.addr, local.len)?;
        let mut wqe = Self::start(post, op.opcode(), op.modifier(), None)?;
        wqe.push(&RaddrSeg::from(remote))?;
        op.write(&mut wqe)?;
        wqe.push(&DataSeg::from(local))?;
        wqe.finish()
    }

    /// The entry, padded with zeros to whole WQEBBs.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.next_multiple_of(WQEBB_BYTES)]
    }

    /// How far the producer counter moves, in WQEBBs: 1 to 4.
    #[must_use]
    pub fn wqebbs(&self) -> u16 {
        const _: () = assert!(MAX_WQE_BYTES / WQEBB_BYTES <= 4);
        match self.len.div_ceil(WQEBB_BYTES) {
            0 | 1 => 1,
            2 => 2,
            3 => 3,
            _ => 4,
        }
    }

    /// The first 8 bytes, in memory order, as the doorbell register takes them: store this value
    /// with one native 64-bit store.
    #[must_use]
    pub fn ctrl_doorbell(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    fn start(post: Post, opcode: Opcode, opmod: u8, imm: Option<u32>) -> Result<Self, WqeError> {
        if post.qpn >> 24 != 0 {
            return Err(WqeError::QpnTooWide { qpn: post.qpn });
        }
        let flag = |set, flag| if set { flag } else { CtrlFlags::NONE };
        let flags = flag(post.signalled, CtrlFlags::CQ_UPDATE)
            | flag(post.solicited, CtrlFlags::SOLICITED)
            | flag(post.fence, CtrlFlags::FENCE);
        let mut wqe = Self {
            bytes: [0; MAX_WQE_BYTES],
            len: 0,
        };
        wqe.push(&CtrlSeg {
            opmod_idx_opcode: CtrlSeg::pack_opcode(opmod, post.index, opcode),
            qpn_ds: Be32::new(post.qpn << 8),
            fm_ce_se: flags.bits(),
            imm: Be32::new(imm.unwrap_or(0)),
            ..CtrlSeg::default()
        })?;
        Ok(wqe)
    }

    /// Writes the size, which is known only now.
    fn finish(mut self) -> Result<Self, WqeError> {
        self.len = self.len.next_multiple_of(DS_BYTES);
        // At most MAX_WQE_BYTES / DS_BYTES = 16.
        let ds = u8::try_from(self.len / DS_BYTES).map_err(|_| self.overflow(0))?;
        self.bytes[7] = ds;
        Ok(self)
    }

    pub(super) fn push(&mut self, segment: &(impl IntoBytes + Immutable)) -> Result<(), WqeError> {
        self.push_bytes(segment.as_bytes())
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), WqeError> {
        let end = self.len + bytes.len();
        let overflow = self.overflow(bytes.len());
        self.bytes
            .get_mut(self.len..end)
            .ok_or(overflow)?
            .copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn overflow(&self, more: usize) -> WqeError {
        WqeError::Truncated {
            need: self.len + more,
            have: MAX_WQE_BYTES,
        }
    }

    fn gather(&mut self, local: &[DataPtr]) -> Result<(), WqeError> {
        let limit = (MAX_WQE_BYTES - self.len) / size_of::<DataSeg>();
        if local.len() > limit {
            return Err(WqeError::TooManySegments {
                count: local.len(),
                limit,
            });
        }
        let mut total = 0;
        for (index, ptr) in local.iter().enumerate() {
            if ptr.len == 0 || ptr.len & INLINE_SEG != 0 {
                return Err(WqeError::SegmentLength {
                    index,
                    len: ptr.len,
                });
            }
            total += u64::from(ptr.len);
            self.push(&DataSeg::from(*ptr))?;
        }
        if total > MAX_MESSAGE_BYTES {
            return Err(WqeError::MessageTooLong {
                len: total,
                limit: MAX_MESSAGE_BYTES,
            });
        }
        Ok(())
    }

    fn inline(&mut self, data: &[u8]) -> Result<(), WqeError> {
        let limit = MAX_WQE_BYTES - self.len - size_of::<InlineHeader>();
        let too_long = WqeError::InlineTooLong {
            len: data.len(),
            limit,
        };
        if data.len() > limit {
            return Err(too_long);
        }
        if data.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(data.len()).map_err(|_| too_long)?;
        self.push(&InlineHeader {
            byte_count: Be32::new(count | INLINE_SEG),
        })?;
        self.push_bytes(data)
    }
}

fn write_opcode(imm: Option<u32>) -> Opcode {
    match imm {
        Some(_) => Opcode::RdmaWriteImm,
        None => Opcode::RdmaWrite,
    }
}

fn send_opcode(imm: Option<u32>) -> Opcode {
    match imm {
        Some(_) => Opcode::SendImm,
        None => Opcode::Send,
    }
}

impl fmt::Debug for Wqe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match super::parse(self.bytes()) {
            Ok(parsed) => parsed.fmt(f),
            Err(error) => write!(f, "Wqe({error})"),
        }
    }
}
