//! RoCE v2 packets: headers, invariant CRC, encoding and decoding.
//!
//! Layouts from the InfiniBand Architecture specification, volume 1, chapter 9,
//! and its annexes A16 and A17 (RoCE, RoCE v2). What is called a *datagram*
//! here is the payload of a UDP datagram to port [`UDP_PORT`]: BTH, extended
//! headers, payload, padding, invariant CRC.

mod grh;
mod header;
pub mod icrc;
mod masked;
mod opcode;
mod packet;
mod pseudo;

pub use grh::Grh;
pub use header::{AckCode, Aeth, AtomicEth, Bth, NakCode, Reth, rnr_timer};
pub use icrc::Flow;
pub use masked::MaskedAtomicEth;
pub use opcode::{Opcode, Position};
pub use packet::{DecodeError, Headers, MAX_HEADER_BYTES, Packet, decode, encode};

/// UDP destination port of RoCE v2 (IANA).
pub const UDP_PORT: u16 = 4791;

/// Bytes of the invariant CRC at the end of each datagram.
pub const ICRC_BYTES: usize = 4;
