//! The segments of a WQE, as the device reads them.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{DataPtr, Opcode, Remote};
use crate::be::{Be32, Be64};

/// Bit 31 of a byte count: inline data follows (`MLX5_INLINE_SEG`).
pub const INLINE_SEG: u32 = 0x8000_0000;

macro_rules! segment {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty = $at:literal,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable,
            KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(offset_of!($name, $field) == $at);)*
        };
    };
}

segment!(
    /// The control segment, first in every WQE (`mlx5_wqe_ctrl_seg`).
    CtrlSeg, 16 {
        /// Opcode modifier in bits 31:24, WQE index in 23:8, opcode in 7:0.
        opmod_idx_opcode: Be32 = 0,
        /// Queue pair number in bits 31:8, WQE size in 16-byte units in 5:0.
        qpn_ds: Be32 = 4,
        /// Checksum, when signatures are on.
        signature: u8 = 8,
        /// Stream of a dynamically connected initiator, big endian.
        dci_stream_channel_id: [u8; 2] = 9,
        /// See [`super::CtrlFlags`].
        fm_ce_se: u8 = 11,
        /// Immediate data.
        imm: Be32 = 12,
    }
);

segment!(
    /// The remote address segment (`mlx5_wqe_raddr_seg`).
    RaddrSeg, 16 {
        /// Remote virtual address.
        raddr: Be64 = 0,
        /// Remote key.
        rkey: Be32 = 8,
        /// Reserved.
        reserved: Be32 = 12,
    }
);

segment!(
    /// A pointer to local memory (`mlx5_wqe_data_seg`).
    DataSeg, 16 {
        /// Length in bytes, bit 31 clear.
        byte_count: Be32 = 0,
        /// Local key.
        lkey: Be32 = 4,
        /// Local virtual address.
        addr: Be64 = 8,
    }
);

segment!(
    /// What precedes inline data (`mlx5_wqe_inl_data_seg`); the data follow at once and are
    /// padded to a multiple of 16 bytes, these four included.
    InlineHeader, 4 {
        /// Length in bytes, bit 31 ([`INLINE_SEG`]) set.
        byte_count: Be32 = 0,
    }
);

segment!(
    /// Operands of an 8-byte atomic (`mlx5_wqe_atomic_seg`). An 8-byte masked compare and swap
    /// has two of these: operands, then masks.
    AtomicSeg, 16 {
        /// New value, or addend.
        swap_add: Be64 = 0,
        /// Expected value.
        compare: Be64 = 8,
    }
);

segment!(
    /// Operands of an 8-byte masked fetch and add.
    MaskedFetchAdd8Seg, 16 {
        /// Addend.
        add: Be64 = 0,
        /// Top bit of each field.
        boundary: Be64 = 8,
    }
);

segment!(
    /// Operands of a 4-byte masked fetch and add.
    MaskedFetchAdd4Seg, 16 {
        /// Addend.
        add: Be32 = 0,
        /// Top bit of each field.
        boundary: Be32 = 4,
        /// Reserved.
        reserved: Be64 = 8,
    }
);

segment!(
    /// Operands of a 4-byte masked compare and swap.
    MaskedCompareSwap4Seg, 16 {
        /// New bits.
        swap: Be32 = 0,
        /// Expected bits.
        compare: Be32 = 4,
        /// Bits replaced.
        swap_mask: Be32 = 8,
        /// Bits compared.
        compare_mask: Be32 = 12,
    }
);

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
