//! The segments of a WQE, as the device reads them.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{DataPtr, Opcode, Remote};
use crate::be::{Be32, Be64};

/// Bit 31 of a byte count: inline data follows (`MLX5_INLINE_SEG`).
pub const INLINE_SEG: u32 = 0x8000_0000;

/// The control segment, first in every WQE (`mlx5_wqe_ctrl_seg`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CtrlSeg {
    /// Opcode modifier in bits 31:24, WQE index in 23:8, opcode in 7:0.
    pub opmod_idx_opcode: Be32,
    /// Queue pair number in bits 31:8, WQE size in 16-byte units in 5:0.
    pub qpn_ds: Be32,
    /// Checksum, when signatures are on.
    pub signature: u8,
    /// Stream of a dynamically connected initiator, big endian.
    pub dci_stream_channel_id: [u8; 2],
    /// Fence mode in bits 7:5, completion mode in 3:2, solicited event in 1.
    pub fm_ce_se: u8,
    /// Immediate data.
    pub imm: Be32,
}

/// The remote address segment (`mlx5_wqe_raddr_seg`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RaddrSeg {
    /// Remote virtual address.
    pub raddr: Be64,
    /// Remote key.
    pub rkey: Be32,
    /// Reserved.
    pub reserved: Be32,
}

/// A pointer to local memory (`mlx5_wqe_data_seg`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DataSeg {
    /// Length in bytes, bit 31 clear.
    pub byte_count: Be32,
    /// Local key.
    pub lkey: Be32,
    /// Local virtual address.
    pub addr: Be64,
}

/// What precedes inline data (`mlx5_wqe_inl_data_seg`); the data follow at once and are
/// padded to a multiple of 16 bytes, these four included.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InlineHeader {
    /// Length in bytes, bit 31 (`INLINE_SEG`) set.
    pub byte_count: Be32,
}

/// Operands of an 8-byte atomic (`mlx5_wqe_atomic_seg`). An 8-byte masked compare and swap
/// has two of these: operands, then masks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AtomicSeg {
    /// New value, or addend.
    pub swap_add: Be64,
    /// Expected value.
    pub compare: Be64,
}

/// Operands of an 8-byte masked fetch and add.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MaskedFetchAdd8Seg {
    /// Addend.
    pub add: Be64,
    /// Top bit of each field.
    pub boundary: Be64,
}

/// Operands of a 4-byte masked fetch and add.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MaskedFetchAdd4Seg {
    /// Addend.
    pub add: Be32,
    /// Top bit of each field.
    pub boundary: Be32,
    /// Reserved.
    pub reserved: Be64,
}

/// Operands of a 4-byte masked compare and swap.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MaskedCompareSwap4Seg {
    /// New bits.
    pub swap: Be32,
    /// Expected bits.
    pub compare: Be32,
    /// Bits replaced.
    pub swap_mask: Be32,
    /// Bits compared.
    pub compare_mask: Be32,
}

/// Size and offsets, in bytes.
macro_rules! laid_out {
    ($($name:ident, $size:literal { $($field:ident: $at:literal),* })*) => {
        const _: () = {
            $(
                assert!(size_of::<$name>() == $size);
                $(assert!(offset_of!($name, $field) == $at);)*
            )*
        };
    };
}

laid_out! {
    CtrlSeg, 16 {
        opmod_idx_opcode: 0,
        qpn_ds: 4,
        signature: 8,
        dci_stream_channel_id: 9,
        fm_ce_se: 11,
        imm: 12
    }
    RaddrSeg, 16 { raddr: 0, rkey: 8, reserved: 12 }
    DataSeg, 16 { byte_count: 0, lkey: 4, addr: 8 }
    InlineHeader, 4 { byte_count: 0 }
    AtomicSeg, 16 { swap_add: 0, compare: 8 }
    MaskedFetchAdd8Seg, 16 { add: 0, boundary: 8 }
    MaskedFetchAdd4Seg, 16 { add: 0, boundary: 4, reserved: 8 }
    MaskedCompareSwap4Seg, 16 { swap: 0, compare: 4, swap_mask: 8, compare_mask: 12 }
}

impl CtrlSeg {
    /// The opcode byte.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.opmod_idx_opcode.get().to_be_bytes()[3]
    }

    /// The opcode modifier.
    #[must_use]
    pub fn opmod(&self) -> u8 {
        self.opmod_idx_opcode.get().to_be_bytes()[0]
    }

    /// The WQE index.
    #[must_use]
    pub fn index(&self) -> u16 {
        let [_, high, low, _] = self.opmod_idx_opcode.get().to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The queue pair number.
    #[must_use]
    pub fn qpn(&self) -> u32 {
        self.qpn_ds.get() >> 8
    }

    /// The size of the WQE in 16-byte units, 0 to 63.
    #[must_use]
    pub fn ds(&self) -> u8 {
        self.qpn_ds.get().to_be_bytes()[3] & 0x3f
    }

    pub(super) fn pack_opcode(opmod: u8, index: u16, opcode: Opcode) -> Be32 {
        let [high, low] = index.to_be_bytes();
        Be32::new(u32::from_be_bytes([opmod, high, low, opcode as u8]))
    }
}

impl From<Remote> for RaddrSeg {
    fn from(remote: Remote) -> Self {
        Self {
            raddr: Be64::new(remote.addr),
            rkey: Be32::new(remote.rkey),
            reserved: Be32::default(),
        }
    }
}

impl From<DataPtr> for DataSeg {
    fn from(local: DataPtr) -> Self {
        Self {
            byte_count: Be32::new(local.len),
            lkey: Be32::new(local.lkey),
            addr: Be64::new(local.addr),
        }
    }
}
