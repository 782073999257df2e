//! The transport headers of a RoCE v2 packet.

use std::time::Duration;

use super::Opcode;
use crate::psn::Psn;

/// Base transport header, 12 bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Bth {
    /// What the packet is.
    pub opcode: Opcode,
    /// Solicited event: the receiver raises an event for this message.
    pub solicited: bool,
    /// Padding bytes after the payload, 0 to 3.
    pub pad: u8,
    /// Destination queue pair, 24 bits.
    pub dest_qpn: u32,
    /// The responder is asked to acknowledge this packet.
    pub ack_request: bool,
    /// Packet sequence number.
    pub psn: Psn,
}

impl Bth {
    /// Bytes on the wire.
    pub const BYTES: usize = 12;

    /// The default partition, full member.
    const PKEY: u16 = 0xffff;

    /// Whether a header is of the default partition. Its sender may be a limited
    /// member (bit 15), since this device is a full one.
    pub fn in_partition(bytes: &[u8; Self::BYTES]) -> bool {
        const NUMBER: u16 = 0x7fff;
        u16::from_be_bytes([bytes[2], bytes[3]]) & NUMBER == Self::PKEY & NUMBER
    }

    /// The bytes on the wire. The migration bit is set: no path migration.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.opcode as u8;
        bytes[1] = u8::from(self.solicited) << 7 | 1 << 6 | (self.pad & 3) << 4;
        bytes[2..4].copy_from_slice(&Self::PKEY.to_be_bytes());
        bytes[4..8].copy_from_slice(&(self.dest_qpn & 0x00ff_ffff).to_be_bytes());
        bytes[8..12].copy_from_slice(&self.psn.get().to_be_bytes());
        bytes[8] = u8::from(self.ack_request) << 7;
        bytes
    }

    /// Reads a header; `None` for an opcode that is not RC's, or another
    /// transport version than 0.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let [op, flags, _, _, _, q2, q1, q0, ack, p2, p1, p0] = *bytes;
        if flags & 0x0f != 0 {
            return None;
        }
        Some(Self {
            opcode: Opcode::from_byte(op)?,
            solicited: flags & 0x80 != 0,
            pad: flags >> 4 & 3,
            dest_qpn: u32::from_be_bytes([0, q2, q1, q0]),
            ack_request: ack & 0x80 != 0,
            psn: Psn::new(u32::from_be_bytes([0, p2, p1, p0])),
        })
    }
}

/// RDMA extended transport header, 16 bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Reth {
    /// Virtual address at the responder.
    pub addr: u64,
    /// Remote key.
    pub rkey: u32,
    /// Bytes of the whole message.
    pub len: u32,
}

impl Reth {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.addr.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.rkey.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            r0,
            r1,
            r2,
            r3,
            l0,
            l1,
            l2,
            l3,
        ] = *bytes;
        Self {
            addr: u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            rkey: u32::from_be_bytes([r0, r1, r2, r3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

/// Atomic extended transport header, 28 bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AtomicEth {
    /// Virtual address at the responder, 8-byte aligned.
    pub addr: u64,
    /// Remote key.
    pub rkey: u32,
    /// Value to add, or to store when the comparison holds.
    pub swap_or_add: u64,
    /// Value to compare with.
    pub compare: u64,
}

impl AtomicEth {
    /// Bytes on the wire.
    pub const BYTES: usize = 28;

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.addr.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.rkey.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.swap_or_add.to_be_bytes());
        bytes[20..].copy_from_slice(&self.compare.to_be_bytes());
        bytes
    }

    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        Self {
            addr: word(0),
            rkey: u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            swap_or_add: word(12),
            compare: word(20),
        }
    }
}

/// Reason of a negative acknowledgement (table 45 of the specification).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NakCode {
    /// A packet is missing; the AETH's PSN is the one expected.
    SequenceError = 0,
    /// The request makes no sense here.
    InvalidRequest = 1,
    /// Key, range or access right refused.
    RemoteAccess = 2,
    /// The responder failed for a reason of its own.
    RemoteOperational = 3,
}

/// What an AETH's syndrome says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AckCode {
    /// Everything up to the packet's PSN has arrived. Flow-control credits are
    /// not used (value 31).
    Ack,
    /// No receive buffer: try again after the encoded time.
    RnrNak {
        /// Encoded delay, 0 to 31; see [`rnr_timer`].
        timer: u8,
    },
    /// Refused.
    Nak(NakCode),
}

impl AckCode {
    /// The syndrome byte.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Ack => 0x1f,
            Self::RnrNak { timer } => 0x20 | timer & 0x1f,
            Self::Nak(code) => 0x60 | code as u8,
        }
    }

    /// Reads a syndrome; `None` for reserved values.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match (byte >> 5, byte & 0x1f) {
            (0, _) => Self::Ack,
            (1, timer) => Self::RnrNak { timer },
            (3, 0) => Self::Nak(NakCode::SequenceError),
            (3, 1) => Self::Nak(NakCode::InvalidRequest),
            (3, 2) => Self::Nak(NakCode::RemoteAccess),
            (3, 3) => Self::Nak(NakCode::RemoteOperational),
            _ => return None,
        })
    }
}

/// Acknowledge extended transport header, 4 bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Aeth {
    /// Positive, negative, or not ready.
    pub code: AckCode,
    /// Message sequence number: messages completed by the responder, 24 bits.
    pub msn: u32,
}

impl Aeth {
    /// Bytes on the wire.
    pub const BYTES: usize = 4;

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = self.msn.to_be_bytes();
        bytes[0] = self.code.to_byte();
        bytes
    }

    /// Reads a header; `None` for a reserved syndrome.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let [syndrome, m2, m1, m0] = *bytes;
        Some(Self {
            code: AckCode::from_byte(syndrome)?,
            msn: u32::from_be_bytes([0, m2, m1, m0]),
        })
    }
}

/// Time that an encoded RNR timer stands for (table 46 of the specification).
pub const fn rnr_timer(code: u8) -> Duration {
    /// Units of 10 microseconds.
    const TABLE: [u64; 32] = [
        65_536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768, 49_152,
    ];
    Duration::from_micros(TABLE[(code & 0x1f) as usize] * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bth_is_laid_out_as_in_the_specification() {
        let bth = Bth {
            opcode: Opcode::WriteOnly,
            solicited: true,
            pad: 3,
            dest_qpn: 0x0001_0203,
            ack_request: true,
            psn: Psn::new(0x00a0_b0c0),
        };
        let bytes = bth.to_bytes();
        assert_eq!(
            bytes,
            [0x0a, 0xf0, 0xff, 0xff, 0, 1, 2, 3, 0x80, 0xa0, 0xb0, 0xc0]
        );
        assert_eq!(Bth::from_bytes(&bytes), Some(bth));
        for (pkey, ours) in [
            (0xffffu16, true),
            (0x7fff, true),
            (0x8001, false),
            (0, false),
        ] {
            let mut bytes = bytes;
            bytes[2..4].copy_from_slice(&pkey.to_be_bytes());
            assert_eq!(Bth::in_partition(&bytes), ours, "{pkey:#x}");
        }
    }

    #[test]
    fn unknown_opcode_and_version_are_refused() {
        let mut bytes = [0; 12];
        bytes[0] = 0x64;
        assert_eq!(Bth::from_bytes(&bytes), None);
        bytes[0] = 0x0a;
        bytes[1] = 0x41;
        assert_eq!(Bth::from_bytes(&bytes), None);
    }

    #[test]
    fn syndromes_survive_a_round_trip() {
        for byte in 0..=u8::MAX {
            if let Some(code) = AckCode::from_byte(byte) {
                assert_eq!(AckCode::from_byte(code.to_byte()), Some(code));
            }
        }
        assert_eq!(AckCode::Nak(NakCode::RemoteAccess).to_byte(), 0x62);
        assert_eq!(AckCode::from_byte(0x80), None);
    }

    #[test]
    fn rnr_timer_follows_the_table() {
        assert_eq!(rnr_timer(0), Duration::from_micros(655_360));
        assert_eq!(rnr_timer(1), Duration::from_micros(10));
        assert_eq!(rnr_timer(12), Duration::from_micros(640));
        assert_eq!(rnr_timer(31), Duration::from_micros(491_520));
    }
}
