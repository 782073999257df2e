//! BTH opcodes of the reliable connected service.

/// Where a packet stands in its message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// First of several packets.
    First,
    /// Neither first nor last.
    Middle,
    /// Last of several packets.
    Last,
    /// The only packet of its message.
    Only,
}

impl Position {
    /// Whether the packet opens a message.
    pub const fn is_start(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    /// Whether the packet closes a message.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }
}

/// BTH opcode of an RC packet (table 38 of the specification, transport 000b),
/// and of the masked atomics, which are in the manufacturers' range.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// SEND first.
    SendFirst = 0x00,
    /// SEND middle.
    SendMiddle = 0x01,
    /// SEND last.
    SendLast = 0x02,
    /// SEND last with immediate.
    SendLastImm = 0x03,
    /// SEND only.
    SendOnly = 0x04,
    /// SEND only with immediate.
    SendOnlyImm = 0x05,
    /// RDMA WRITE first.
    WriteFirst = 0x06,
    /// RDMA WRITE middle.
    WriteMiddle = 0x07,
    /// RDMA WRITE last.
    WriteLast = 0x08,
    /// RDMA WRITE last with immediate.
    WriteLastImm = 0x09,
    /// RDMA WRITE only.
    WriteOnly = 0x0a,
    /// RDMA WRITE only with immediate.
    WriteOnlyImm = 0x0b,
    /// RDMA READ request.
    ReadRequest = 0x0c,
    /// RDMA READ response first.
    ReadResponseFirst = 0x0d,
    /// RDMA READ response middle.
    ReadResponseMiddle = 0x0e,
    /// RDMA READ response last.
    ReadResponseLast = 0x0f,
    /// RDMA READ response only.
    ReadResponseOnly = 0x10,
    /// Acknowledge.
    Acknowledge = 0x11,
    /// Atomic acknowledge.
    AtomicAcknowledge = 0x12,
    /// Compare and swap.
    CompareSwap = 0x13,
    /// Fetch and add.
    FetchAdd = 0x14,
    /// Masked compare and swap, see [`super::MaskedAtomicEth`].
    MaskedCompareSwap = 0xd3,
    /// Masked fetch and add.
    MaskedFetchAdd = 0xd4,
}

impl Opcode {
    /// The opcode with this number, if it is one of the RC opcodes above.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::SendFirst,
            0x01 => Self::SendMiddle,
            0x02 => Self::SendLast,
            0x03 => Self::SendLastImm,
            0x04 => Self::SendOnly,
            0x05 => Self::SendOnlyImm,
            0x06 => Self::WriteFirst,
            0x07 => Self::WriteMiddle,
            0x08 => Self::WriteLast,
            0x09 => Self::WriteLastImm,
            0x0a => Self::WriteOnly,
            0x0b => Self::WriteOnlyImm,
            0x0c => Self::ReadRequest,
            0x0d => Self::ReadResponseFirst,
            0x0e => Self::ReadResponseMiddle,
            0x0f => Self::ReadResponseLast,
            0x10 => Self::ReadResponseOnly,
            0x11 => Self::Acknowledge,
            0x12 => Self::AtomicAcknowledge,
            0x13 => Self::CompareSwap,
            0x14 => Self::FetchAdd,
            0xd3 => Self::MaskedCompareSwap,
            0xd4 => Self::MaskedFetchAdd,
            _ => return None,
        })
    }

    /// Whether a requester sends it (the rest are a responder's answers).
    pub const fn is_request(self) -> bool {
        !matches!(
            self,
            Self::ReadResponseFirst
                | Self::ReadResponseMiddle
                | Self::ReadResponseLast
                | Self::ReadResponseOnly
                | Self::Acknowledge
                | Self::AtomicAcknowledge
        )
    }

    /// Whether it belongs to a SEND.
    pub const fn is_send(self) -> bool {
        (self as u8) <= Self::SendOnlyImm as u8
    }

    /// Whether it belongs to an RDMA WRITE.
    pub const fn is_write(self) -> bool {
        (self as u8) >= Self::WriteFirst as u8 && (self as u8) <= Self::WriteOnlyImm as u8
    }

    /// Whether it carries a part of an RDMA READ's data.
    pub const fn is_read_response(self) -> bool {
        (self as u8) >= Self::ReadResponseFirst as u8
            && (self as u8) <= Self::ReadResponseOnly as u8
    }

    /// Whether it is an atomic request, masked or not.
    pub const fn is_atomic(self) -> bool {
        self.has_atomic() || self.has_masked()
    }

    /// Whether the header of an atomic follows the BTH.
    pub const fn has_atomic(self) -> bool {
        matches!(self, Self::CompareSwap | Self::FetchAdd)
    }

    /// Whether the header of a masked atomic follows the BTH.
    pub const fn has_masked(self) -> bool {
        matches!(self, Self::MaskedCompareSwap | Self::MaskedFetchAdd)
    }

    /// Where the packet stands in its message.
    pub const fn position(self) -> Position {
        match self {
            Self::SendFirst | Self::WriteFirst | Self::ReadResponseFirst => Position::First,
            Self::SendMiddle | Self::WriteMiddle | Self::ReadResponseMiddle => Position::Middle,
            Self::SendLast
            | Self::SendLastImm
            | Self::WriteLast
            | Self::WriteLastImm
            | Self::ReadResponseLast => Position::Last,
            _ => Position::Only,
        }
    }

    /// Whether an RETH follows the BTH.
    pub const fn has_reth(self) -> bool {
        matches!(
            self,
            Self::WriteFirst | Self::WriteOnly | Self::WriteOnlyImm | Self::ReadRequest
        )
    }

    /// Whether an AETH follows the BTH.
    pub const fn has_aeth(self) -> bool {
        matches!(
            self,
            Self::ReadResponseFirst
                | Self::ReadResponseLast
                | Self::ReadResponseOnly
                | Self::Acknowledge
                | Self::AtomicAcknowledge
        )
    }

    /// Whether 4 bytes of immediate data precede the payload.
    pub const fn has_immediate(self) -> bool {
        matches!(
            self,
            Self::SendLastImm | Self::SendOnlyImm | Self::WriteLastImm | Self::WriteOnlyImm
        )
    }

    /// The RDMA WRITE opcode for a packet at `position`.
    pub const fn write(position: Position, immediate: bool) -> Self {
        match (position, immediate) {
            (Position::First, _) => Self::WriteFirst,
            (Position::Middle, _) => Self::WriteMiddle,
            (Position::Last, false) => Self::WriteLast,
            (Position::Last, true) => Self::WriteLastImm,
            (Position::Only, false) => Self::WriteOnly,
            (Position::Only, true) => Self::WriteOnlyImm,
        }
    }

    /// The SEND opcode for a packet at `position`.
    pub const fn send(position: Position, immediate: bool) -> Self {
        match (position, immediate) {
            (Position::First, _) => Self::SendFirst,
            (Position::Middle, _) => Self::SendMiddle,
            (Position::Last, false) => Self::SendLast,
            (Position::Last, true) => Self::SendLastImm,
            (Position::Only, false) => Self::SendOnly,
            (Position::Only, true) => Self::SendOnlyImm,
        }
    }

    /// The RDMA READ response opcode for a packet at `position`.
    pub const fn read_response(position: Position) -> Self {
        match position {
            Position::First => Self::ReadResponseFirst,
            Position::Middle => Self::ReadResponseMiddle,
            Position::Last => Self::ReadResponseLast,
            Position::Only => Self::ReadResponseOnly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_decodes_to_itself() {
        for byte in 0..=u8::MAX {
            match Opcode::from_byte(byte) {
                Some(opcode) => assert_eq!(opcode as u8, byte),
                None => assert!(byte > 0x14),
            }
        }
    }

    #[test]
    fn chosen_opcodes_keep_their_position() {
        for position in [
            Position::First,
            Position::Middle,
            Position::Last,
            Position::Only,
        ] {
            for immediate in [false, true] {
                assert_eq!(Opcode::write(position, immediate).position(), position);
                assert_eq!(Opcode::send(position, immediate).position(), position);
                assert_eq!(
                    Opcode::write(position, immediate).has_immediate(),
                    immediate && position.is_end()
                );
            }
            assert_eq!(Opcode::read_response(position).position(), position);
        }
    }
}
