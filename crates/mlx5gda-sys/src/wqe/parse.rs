//! The parser: reads a WQE that somebody else wrote, and refuses what the device would.

use core::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::seg::{CtrlSeg, DataSeg, INLINE_SEG, InlineHeader, RaddrSeg};
use super::{AtomicOp, CtrlFlags, DS_BYTES, DataPtr, MAX_MESSAGE_BYTES, Opcode, Remote, WqeError};

/// Most data segments that [`parse`] takes in one WQE.
pub const MAX_GATHER: usize = 30;

/// A WQE, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedWqe {
    /// Operation.
    pub opcode: Opcode,
    /// Position in the send queue, in WQEBBs, modulo 65536.
    pub index: u16,
    /// Queue pair number.
    pub qpn: u32,
    /// Size in 16-byte units, 1 to 63.
    pub ds: u8,
    /// Fence, completion and event bits.
    pub flags: CtrlFlags,
    /// Immediate data, for the opcodes that have them.
    pub imm: Option<u32>,
    /// Remote memory, for the opcodes that have it.
    pub remote: Option<Remote>,
    /// The atomic operation, for the opcodes that have one.
    pub atomic: Option<AtomicOp>,
    /// Where the local bytes are.
    pub payload: Payload,
}

impl ParsedWqe {
    /// How many WQEBBs of the send queue it takes, 1 to 16.
    #[must_use]
    pub fn wqebbs(&self) -> u16 {
        u16::from(self.ds.div_ceil(4))
    }
}

/// The local bytes of a WQE.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack of whoever executes the entry; a box would allocate per entry"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// In registered memory; the list may be empty.
    Gather(SegList),
    /// In the WQE itself, at this range of the parsed bytes.
    Inline {
        /// First byte.
        start: usize,
        /// Number of bytes.
        len: usize,
    },
}

impl Payload {
    /// The message length, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Gather(list) => list.total(),
            Self::Inline { len, .. } => *len as u64,
        }
    }

    /// Whether the message is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in the parsed bytes the inline data are, if they are inline.
    #[must_use]
    pub fn inline_range(&self) -> Option<Range<usize>> {
        match *self {
            Self::Gather(_) => None,
            Self::Inline { start, len } => Some(start..start + len),
        }
    }
}

/// The data segments of a WQE: 0 to [`MAX_GATHER`], none empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegList {
    segments: [DataPtr; MAX_GATHER],
    len: usize,
}

impl SegList {
    const EMPTY: Self = Self {
        segments: [DataPtr {
            addr: 0,
            lkey: 0,
            len: 0,
        }; MAX_GATHER],
        len: 0,
    };

    /// The segments, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[DataPtr] {
        &self.segments[..self.len]
    }

    /// The sum of the lengths, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.as_slice().iter().map(|seg| u64::from(seg.len)).sum()
    }

    fn push(&mut self, ptr: DataPtr) -> Result<(), WqeError> {
        let slot = self
            .segments
            .get_mut(self.len)
            .ok_or(WqeError::TooManySegments {
                count: self.len + 1,
                limit: MAX_GATHER,
            })?;
        *slot = ptr;
        self.len += 1;
        Ok(())
    }
}

/// Takes a WQE apart. `bytes` starts at the control segment and holds at least `ds` units of 16
/// bytes; what follows them is ignored.
///
/// # Errors
/// Whatever a reliable connection could not carry out: an unknown opcode or modifier, segments
/// that are missing, left over, empty or of the wrong kind, an unaligned or ill-sized atomic.
pub fn parse(bytes: &[u8]) -> Result<ParsedWqe, WqeError> {
    let ctrl: CtrlSeg = Cursor { bytes, at: 0 }.take()?;
    let need = usize::from(ctrl.ds()) * DS_BYTES;
    let have = bytes.len();
    let wqe = bytes
        .get(..need)
        .ok_or(WqeError::Truncated { need, have })?;
    let mut rest = Cursor { bytes: wqe, at: 0 };
    let _: CtrlSeg = rest.take()?;

    let opcode = Opcode::from_byte(ctrl.opcode())?;
    let remote = if opcode.has_remote() {
        let seg: RaddrSeg = rest.take()?;
        Some(Remote {
            addr: seg.raddr.get(),
            rkey: seg.rkey.get(),
        })
    } else {
        None
    };
    let atomic = AtomicOp::read(&mut rest, opcode, ctrl.opmod())?;
    let payload = match opcode {
        Opcode::Nop => Payload::Gather(SegList::EMPTY),
        Opcode::RdmaWrite | Opcode::RdmaWriteImm | Opcode::Send | Opcode::SendImm => {
            match rest.peek_count() {
                Some(count) if count & INLINE_SEG != 0 => rest.inline()?,
                _ => Payload::Gather(rest.gather()?),
            }
        }
        Opcode::RdmaRead
        | Opcode::AtomicCs
        | Opcode::AtomicFa
        | Opcode::AtomicMaskedCs
        | Opcode::AtomicMaskedFa => Payload::Gather(rest.gather()?),
    };
    rest.end()?;
    if let (Some(op), Some(remote)) = (&atomic, &remote) {
        check_atomic(op, remote, &payload)?;
    }
    Ok(ParsedWqe {
        opcode,
        index: ctrl.index(),
        qpn: ctrl.qpn(),
        ds: ctrl.ds(),
        flags: CtrlFlags::from_bits(ctrl.fm_ce_se),
        imm: opcode.has_immediate().then(|| ctrl.imm.get()),
        remote,
        atomic,
        payload,
    })
}

fn check_atomic(op: &AtomicOp, remote: &Remote, payload: &Payload) -> Result<(), WqeError> {
    let Payload::Gather(list) = payload else {
        return Err(WqeError::UnexpectedInline);
    };
    match list.as_slice() {
        [] => op.check(remote.addr, 0),
        [one] => op.check(remote.addr, one.len),
        many => Err(WqeError::TooManySegments {
            count: many.len(),
            limit: 1,
        }),
    }
}

/// A reader that moves along the bytes of a WQE.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    pub(super) fn take<T: FromBytes + Immutable + KnownLayout>(&mut self) -> Result<T, WqeError> {
        let need = self.at + size_of::<T>();
        let (value, _) = T::read_from_prefix(self.bytes.get(self.at..).unwrap_or_default())
            .map_err(|_| WqeError::Truncated {
                need,
                have: self.bytes.len(),
            })?;
        self.at = need;
        Ok(value)
    }

    fn peek_count(&self) -> Option<u32> {
        let mut ahead = Cursor { ..*self };
        ahead
            .take::<InlineHeader>()
            .ok()
            .map(|header| header.byte_count.get())
    }

    fn gather(&mut self) -> Result<SegList, WqeError> {
        let mut list = SegList::EMPTY;
        while self.at < self.bytes.len() {
            let seg: DataSeg = self.take()?;
            let len = seg.byte_count.get();
            if len & INLINE_SEG != 0 {
                return Err(WqeError::UnexpectedInline);
            }
            list.push(DataPtr {
                addr: seg.addr.get(),
                lkey: seg.lkey.get(),
                // The length that its 31 bits have no room for.
                len: if len == 0 { INLINE_SEG } else { len },
            })?;
        }
        let len = list.total();
        if len > MAX_MESSAGE_BYTES {
            return Err(WqeError::MessageTooLong {
                len,
                limit: MAX_MESSAGE_BYTES,
            });
        }
        Ok(list)
    }

    fn inline(&mut self) -> Result<Payload, WqeError> {
        let header: InlineHeader = self.take()?;
        let len = (header.byte_count.get() & !INLINE_SEG) as usize;
        let start = self.at;
        let end = start + len;
        if end > self.bytes.len() {
            return Err(WqeError::Truncated {
                need: end,
                have: self.bytes.len(),
            });
        }
        self.at = end.next_multiple_of(DS_BYTES);
        Ok(Payload::Inline { start, len })
    }

    fn end(&self) -> Result<(), WqeError> {
        match self.bytes.len().saturating_sub(self.at) {
            0 => Ok(()),
            extra => Err(WqeError::Trailing { extra }),
        }
    }
}
