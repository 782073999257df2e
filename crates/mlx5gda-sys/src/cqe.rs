//! Completion queue entries (`mlx5_cqe64` and `mlx5_err_cqe` of `mlx5dv.h`).

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::be::{Be16, Be32, Be64};

mod syndrome;

pub use syndrome::{
    SYNDROME_BAD_RESPONSE, SYNDROME_LOCAL_ACCESS, SYNDROME_LOCAL_LENGTH, SYNDROME_LOCAL_PROTECTION,
    SYNDROME_LOCAL_QP_OPERATION, SYNDROME_MW_BIND, SYNDROME_REMOTE_ABORTED, SYNDROME_REMOTE_ACCESS,
    SYNDROME_REMOTE_INVALID_REQUEST, SYNDROME_REMOTE_OPERATION, SYNDROME_RNR_RETRY_EXCEEDED,
    SYNDROME_TRANSPORT_RETRY_EXCEEDED, SYNDROME_WR_FLUSH, Syndrome,
};

/// Size of a CQE, in bytes.
pub const CQE_BYTES: usize = 64;

/// Bit 0 of `op_own`: the owner bit, which flips on each pass through the ring.
pub const CQE_OWNER_MASK: u8 = 1;

/// A 64-byte completion queue entry.
///
/// One layout serves both kinds of `mlx5dv.h`: an error CQE uses bytes 54 and 55, the last two of
/// `timestamp`, for the vendor syndrome and the syndrome.
///
/// The device writes the entry by DMA with `op_own` last, so a poller reads `op_own` with acquire
/// ordering before the rest. These methods work on a copy taken after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe64 {
    /// Reserved.
    pub rsvd0: [u8; 2],
    /// WQE identifier (shared receive queues).
    pub wqe_id: Be16,
    /// Reserved.
    pub rsvd4: [u8; 13],
    /// Message and path bits.
    pub ml_path: u8,
    /// Reserved.
    pub rsvd18: [u8; 4],
    /// Source LID.
    pub slid: Be16,
    /// Flags (top byte) and the remote QP number of a datagram.
    pub flags_rqpn: Be32,
    /// Header split and IP extension bits.
    pub hds_ip_ext: u8,
    /// Header type bits.
    pub l4_hdr_type_etc: u8,
    /// VLAN tag.
    pub vlan_info: Be16,
    /// Shared receive queue number, or the user index of the queue pair.
    pub srqn_uidx: Be32,
    /// Immediate data, invalidated key or partition key.
    pub imm_inval_pkey: Be32,
    /// Application.
    pub app: u8,
    /// Application operation.
    pub app_op: u8,
    /// Application information.
    pub app_info: Be16,
    /// Bytes received, or read.
    pub byte_cnt: Be32,
    /// Free-running device clock at completion.
    pub timestamp: Be64,
    /// Opcode of the send WQE (top byte) and queue pair number.
    pub sop_drop_qpn: Be32,
    /// Index of the completed WQE: its ring position modulo 65536, in 64-byte blocks.
    pub wqe_counter: Be16,
    /// Checksum, when signatures are on.
    pub signature: u8,
    /// Opcode in the high nibble, format, solicited bit, owner bit 0.
    pub op_own: u8,
}

const _: () = {
    assert!(size_of::<Cqe64>() == CQE_BYTES);
    assert!(offset_of!(Cqe64, wqe_id) == 2);
    assert!(offset_of!(Cqe64, ml_path) == 17);
    assert!(offset_of!(Cqe64, slid) == 22);
    assert!(offset_of!(Cqe64, flags_rqpn) == 24);
    assert!(offset_of!(Cqe64, vlan_info) == 30);
    assert!(offset_of!(Cqe64, srqn_uidx) == 32);
    assert!(offset_of!(Cqe64, imm_inval_pkey) == 36);
    assert!(offset_of!(Cqe64, byte_cnt) == 44);
    assert!(offset_of!(Cqe64, timestamp) == 48);
    assert!(offset_of!(Cqe64, sop_drop_qpn) == 56);
    assert!(offset_of!(Cqe64, wqe_counter) == 60);
    assert!(offset_of!(Cqe64, signature) == 62);
    assert!(offset_of!(Cqe64, op_own) == 63);
};

/// Offset of the vendor syndrome in an error CQE.
const VENDOR_SYNDROME: usize = 54 - offset_of!(Cqe64, timestamp);
/// Offset of the syndrome in an error CQE.
const SYNDROME: usize = 55 - offset_of!(Cqe64, timestamp);

impl Default for Cqe64 {
    /// An entry that holds no completion, as software leaves it before handing the ring over.
    fn default() -> Self {
        Self {
            rsvd0: [0; 2],
            wqe_id: Be16::default(),
            rsvd4: [0; 13],
            ml_path: 0,
            rsvd18: [0; 4],
            slid: Be16::default(),
            flags_rqpn: Be32::default(),
            hds_ip_ext: 0,
            l4_hdr_type_etc: 0,
            vlan_info: Be16::default(),
            srqn_uidx: Be32::default(),
            imm_inval_pkey: Be32::default(),
            app: 0,
            app_op: 0,
            app_info: Be16::default(),
            byte_cnt: Be32::default(),
            timestamp: Be64::default(),
            sop_drop_qpn: Be32::default(),
            wqe_counter: Be16::default(),
            signature: 0,
            op_own: (CqeOpcode::Invalid as u8) << 4 | CQE_OWNER_MASK,
        }
    }
}

/// What a completion belongs to; every constructor of [`Cqe64`] takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqeOrigin {
    /// Queue pair number, 24 bits.
    pub qpn: u32,
    /// Index of the completed WQE.
    pub wqe_counter: u16,
    /// Owner bit for this pass through the ring.
    pub owner: bool,
}

impl Cqe64 {
    /// The completion of a send-side WQE whose opcode is `send_opcode`; `byte_cnt` counts the
    /// bytes that a read or an atomic returned.
    #[must_use]
    pub fn requester(origin: CqeOrigin, send_opcode: u8, byte_cnt: u32) -> Self {
        Self {
            byte_cnt: Be32::new(byte_cnt),
            sop_drop_qpn: Be32::new(u32::from(send_opcode) << 24 | origin.qpn & 0x00ff_ffff),
            ..Self::with_origin(origin, CqeOpcode::Req)
        }
    }

    /// The completion of a receive WQE. `opcode` is one of the `Resp*` opcodes, `imm` the
    /// immediate data if the message carried any.
    #[must_use]
    pub fn responder(
        origin: CqeOrigin,
        opcode: CqeOpcode,
        byte_cnt: u32,
        imm: Option<u32>,
        user_index: u32,
    ) -> Self {
        Self {
            srqn_uidx: Be32::new(user_index & 0x00ff_ffff),
            imm_inval_pkey: Be32::new(imm.unwrap_or(0)),
            byte_cnt: Be32::new(byte_cnt),
            ..Self::with_origin(origin, opcode)
        }
    }

    /// An error completion: `opcode` is [`CqeOpcode::ReqErr`] or [`CqeOpcode::RespErr`].
    #[must_use]
    pub fn error(
        origin: CqeOrigin,
        opcode: CqeOpcode,
        send_opcode: u8,
        syndrome: Syndrome,
        vendor_syndrome: u8,
    ) -> Self {
        let mut stamp = [0; 8];
        stamp[VENDOR_SYNDROME] = vendor_syndrome;
        stamp[SYNDROME] = syndrome.code();
        Self {
            timestamp: Be64::new(u64::from_be_bytes(stamp)),
            sop_drop_qpn: Be32::new(u32::from(send_opcode) << 24 | origin.qpn & 0x00ff_ffff),
            ..Self::with_origin(origin, opcode)
        }
    }

    fn with_origin(origin: CqeOrigin, opcode: CqeOpcode) -> Self {
        Self {
            sop_drop_qpn: Be32::new(origin.qpn & 0x00ff_ffff),
            wqe_counter: Be16::new(origin.wqe_counter),
            op_own: (opcode as u8) << 4 | u8::from(origin.owner),
            ..Self::default()
        }
    }

    /// Index of the completed WQE.
    #[must_use]
    pub fn wqe_counter(&self) -> u16 {
        self.wqe_counter.get()
    }

    /// Queue pair number, 24 bits.
    #[must_use]
    pub fn qpn(&self) -> u32 {
        self.sop_drop_qpn.get() & 0x00ff_ffff
    }

    /// Opcode byte of the send WQE.
    #[must_use]
    pub fn send_opcode(&self) -> u8 {
        self.sop_drop_qpn.get().to_be_bytes()[0]
    }

    /// Bytes received, or read.
    #[must_use]
    pub fn byte_cnt(&self) -> u32 {
        self.byte_cnt.get()
    }

    /// Immediate data, meaningful for the opcodes with an immediate.
    #[must_use]
    pub fn imm(&self) -> u32 {
        self.imm_inval_pkey.get()
    }

    /// Shared receive queue number or user index, 24 bits.
    #[must_use]
    pub fn srqn(&self) -> u32 {
        self.srqn_uidx.get() & 0x00ff_ffff
    }

    /// The opcode, or the raw nibble when it is none of those that RC queues produce.
    ///
    /// # Errors
    /// The nibble itself.
    pub fn opcode(&self) -> Result<CqeOpcode, u8> {
        CqeOpcode::from_nibble(self.op_own >> 4)
    }

    /// The owner bit.
    #[must_use]
    pub fn owner(&self) -> bool {
        self.op_own & CQE_OWNER_MASK != 0
    }

    /// The syndrome of an error CQE; in any other CQE part of the time stamp.
    #[must_use]
    pub fn syndrome(&self) -> Syndrome {
        Syndrome::from_code(self.timestamp.get().to_be_bytes()[SYNDROME])
    }

    /// The vendor syndrome of an error CQE; in any other CQE part of the time stamp.
    #[must_use]
    pub fn vendor_syndrome(&self) -> u8 {
        self.timestamp.get().to_be_bytes()[VENDOR_SYNDROME]
    }
}

/// What kind of completion a CQE reports: the high nibble of `op_own` (`MLX5_CQE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum CqeOpcode {
    /// A send-side WQE is done.
    Req = 0,
    /// An RDMA write with immediate arrived.
    RespWriteImm = 1,
    /// A send arrived.
    RespSend = 2,
    /// A send with immediate arrived.
    RespSendImm = 3,
    /// A send with invalidate arrived.
    RespSendInval = 4,
    /// The queue was resized.
    Resize = 5,
    /// A send-side WQE failed.
    ReqErr = 0xd,
    /// A receive WQE failed.
    RespErr = 0xe,
    /// No completion has been written here.
    Invalid = 0xf,
}

impl CqeOpcode {
    /// Decodes the high nibble of `op_own`.
    ///
    /// # Errors
    /// The nibble, when it is none of these.
    pub fn from_nibble(nibble: u8) -> Result<Self, u8> {
        Ok(match nibble {
            0 => Self::Req,
            1 => Self::RespWriteImm,
            2 => Self::RespSend,
            3 => Self::RespSendImm,
            4 => Self::RespSendInval,
            5 => Self::Resize,
            0xd => Self::ReqErr,
            0xe => Self::RespErr,
            0xf => Self::Invalid,
            other => return Err(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: CqeOrigin = CqeOrigin {
        qpn: 0x12_3456,
        wqe_counter: 0xfffe,
        owner: true,
    };

    #[test]
    fn requester_cqe_has_the_device_layout() {
        let cqe = Cqe64::requester(ORIGIN, 0x10, 4096);
        let bytes = cqe.as_bytes();
        assert_eq!(bytes[44..48], [0, 0, 0x10, 0]);
        assert_eq!(
            bytes[56..],
            [0x10, 0x12, 0x34, 0x56, 0xff, 0xfe, 0x00, 0x01]
        );
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::Req));
        assert_eq!(
            (cqe.qpn(), cqe.wqe_counter(), cqe.byte_cnt()),
            (0x12_3456, 0xfffe, 4096)
        );
        assert_eq!((cqe.send_opcode(), cqe.owner()), (0x10, true));
    }

    #[test]
    fn error_cqe_has_its_syndromes_at_54_and_55() {
        let cqe = Cqe64::error(
            ORIGIN,
            CqeOpcode::ReqErr,
            0x08,
            Syndrome::TransportRetryExceeded,
            0x81,
        );
        assert_eq!(cqe.as_bytes()[54..56], [0x81, 0x15]);
        assert_eq!(cqe.as_bytes()[63], 0xd1);
        assert_eq!(cqe.syndrome(), Syndrome::TransportRetryExceeded);
        assert_eq!(cqe.vendor_syndrome(), 0x81);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr));
    }

    #[test]
    fn responder_cqe_carries_the_immediate() {
        let cqe = Cqe64::responder(
            CqeOrigin {
                owner: false,
                ..ORIGIN
            },
            CqeOpcode::RespWriteImm,
            7,
            Some(0xdead_beef),
            0x55,
        );
        assert_eq!(cqe.as_bytes()[36..40], [0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(cqe.as_bytes()[63], 0x10);
        assert_eq!(
            (cqe.imm(), cqe.srqn(), cqe.owner()),
            (0xdead_beef, 0x55, false)
        );
    }

    #[test]
    fn fresh_entry_is_invalid() {
        assert_eq!(Cqe64::default().opcode(), Ok(CqeOpcode::Invalid));
    }

    #[test]
    fn every_opcode_round_trips() {
        for nibble in 0..16 {
            match CqeOpcode::from_nibble(nibble) {
                Ok(opcode) => assert_eq!(opcode as u8, nibble),
                Err(other) => assert!((6..=12).contains(&other)),
            }
        }
    }
}
