//! Opcodes and the completion, fence and event bits of the control segment.

use core::fmt;
use core::ops::BitOr;

use super::WqeError;

/// Operation of a send WQE (`MLX5_OPCODE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Opcode {
    /// Nothing; may be signalled.
    Nop = 0x00,
    /// RDMA write.
    RdmaWrite = 0x08,
    /// RDMA write that consumes a receive WQE and delivers 4 bytes with its completion.
    RdmaWriteImm = 0x09,
    /// Send.
    Send = 0x0a,
    /// Send with 4 bytes delivered in the completion.
    SendImm = 0x0b,
    /// RDMA read.
    RdmaRead = 0x10,
    /// Compare and swap of 8 bytes.
    AtomicCs = 0x11,
    /// Fetch and add of 8 bytes.
    AtomicFa = 0x12,
    /// Masked compare and swap of 4 or 8 bytes.
    AtomicMaskedCs = 0x14,
    /// Masked fetch and add of 4 or 8 bytes.
    AtomicMaskedFa = 0x15,
}

impl Opcode {
    /// Decodes the opcode byte.
    ///
    /// # Errors
    /// [`WqeError::Opcode`] for an operation that is not listed here.
    pub const fn from_byte(byte: u8) -> Result<Self, WqeError> {
        Ok(match byte {
            0x00 => Self::Nop,
            0x08 => Self::RdmaWrite,
            0x09 => Self::RdmaWriteImm,
            0x0a => Self::Send,
            0x0b => Self::SendImm,
            0x10 => Self::RdmaRead,
            0x11 => Self::AtomicCs,
            0x12 => Self::AtomicFa,
            0x14 => Self::AtomicMaskedCs,
            0x15 => Self::AtomicMaskedFa,
            opcode => return Err(WqeError::Opcode { opcode }),
        })
    }

    /// Whether a remote address segment follows the control segment.
    #[must_use]
    pub const fn has_remote(self) -> bool {
        !matches!(self, Self::Nop | Self::Send | Self::SendImm)
    }

    /// Whether the control segment's `imm` is delivered to the responder.
    #[must_use]
    pub const fn has_immediate(self) -> bool {
        matches!(self, Self::RdmaWriteImm | Self::SendImm)
    }

    /// Whether atomic segments follow the remote address segment.
    #[must_use]
    pub const fn is_atomic(self) -> bool {
        matches!(
            self,
            Self::AtomicCs | Self::AtomicFa | Self::AtomicMaskedCs | Self::AtomicMaskedFa
        )
    }
}

/// Bits of `fm_ce_se`: write a completion on success too (`MLX5_WQE_CTRL_CQ_UPDATE`).
pub const CTRL_CQ_UPDATE: u8 = 8;
/// Bit of `fm_ce_se`: raise a solicited event at the responder (`MLX5_WQE_CTRL_SOLICITED`).
pub const CTRL_SOLICITED: u8 = 2;
/// Bits of `fm_ce_se`: wait for earlier reads and atomics (`MLX5_WQE_CTRL_FENCE`).
pub const CTRL_FENCE: u8 = 128;
/// Bits of `fm_ce_se`: wait for earlier local operations
/// (`MLX5_WQE_CTRL_INITIATOR_SMALL_FENCE`).
pub const CTRL_SMALL_FENCE: u8 = 32;

/// The `fm_ce_se` byte: fence mode in bits 7:5, completion mode in 3:2, solicited event in 1.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CtrlFlags(u8);

impl CtrlFlags {
    /// No fence, a completion only on error.
    pub const NONE: Self = Self(0);
    /// Always write a completion (`MLX5_WQE_CTRL_CQ_UPDATE`).
    pub const CQ_UPDATE: Self = Self(CTRL_CQ_UPDATE);
    /// Raise a solicited event at the responder (`MLX5_WQE_CTRL_SOLICITED`).
    pub const SOLICITED: Self = Self(CTRL_SOLICITED);
    /// Wait for earlier reads and atomics (`MLX5_WQE_CTRL_FENCE`).
    pub const FENCE: Self = Self(CTRL_FENCE);
    /// Wait for earlier local operations (`MLX5_WQE_CTRL_INITIATOR_SMALL_FENCE`).
    pub const SMALL_FENCE: Self = Self(CTRL_SMALL_FENCE);

    /// Takes the byte as it is in a WQE.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The byte as it is in a WQE.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether success writes a completion: completion mode 2, or 3 (with event).
    #[must_use]
    pub const fn signalled(self) -> bool {
        self.0 & Self::CQ_UPDATE.0 != 0
    }

    /// Whether the solicited event bit is set.
    #[must_use]
    pub const fn solicited(self) -> bool {
        self.0 & Self::SOLICITED.0 != 0
    }

    /// Whether earlier reads and atomics must be done first: fence mode 2 or above.
    #[must_use]
    pub const fn fenced(self) -> bool {
        self.0 >> 5 >= 2
    }
}

impl BitOr for CtrlFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for CtrlFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CtrlFlags({:#04x})", self.0)
    }
}
