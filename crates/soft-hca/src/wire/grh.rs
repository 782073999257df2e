//! The global route header of InfiniBand.

use std::net::Ipv6Addr;

/// Global route header, 40 bytes (section 8.3 of the specification).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Grh {
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// GID of the sender.
    pub src: Ipv6Addr,
    /// GID of the receiver.
    pub dst: Ipv6Addr,
}

impl Grh {
    /// Bytes on the wire.
    pub const BYTES: usize = 40;
    /// Next header: a base transport header of InfiniBand.
    const NEXT: u8 = 0x1b;

    /// The bytes on the wire, in front of `len` bytes, invariant CRC included.
    pub fn to_bytes(&self, len: u16) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        bytes[..4].copy_from_slice(&first.to_be_bytes());
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes[6] = Self::NEXT;
        bytes[7] = self.hop_limit;
        bytes[8..24].copy_from_slice(&self.src.octets());
        bytes[24..].copy_from_slice(&self.dst.octets());
        bytes
    }

    /// Whether a datagram starts with such a header: version 6, which no
    /// opcode of RC starts with.
    pub fn leads(datagram: &[u8]) -> bool {
        datagram.first().is_some_and(|first| first >> 4 == 6)
    }

    /// Takes the header off a datagram that may have one. `None` if it has one
    /// whose length or next header is wrong.
    pub fn split(datagram: &[u8]) -> Option<(Option<Self>, &[u8])> {
        if !Self::leads(datagram) {
            return Some((None, datagram));
        }
        let (bytes, rest) = datagram.split_first_chunk::<{ Self::BYTES }>()?;
        let [v0, v1, v2, v3, l1, l0, next, hop_limit, gids @ ..] = *bytes;
        if usize::from(u16::from_be_bytes([l1, l0])) != rest.len() || next != Self::NEXT {
            return None;
        }
        let first = u32::from_be_bytes([v0, v1, v2, v3]);
        let (src, dst) = gids.split_first_chunk::<16>()?;
        let header = Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0x000f_ffff,
            hop_limit,
            src: Ipv6Addr::from(*src),
            dst: Ipv6Addr::from(*dst.first_chunk::<16>()?),
        };
        Some((Some(header), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Grh {
        Grh {
            traffic_class: 0xa5,
            flow_label: 0x000b_cdef,
            hop_limit: 63,
            src: "fe80::1".parse().unwrap(),
            dst: "fe80::2:3".parse().unwrap(),
        }
    }

    #[test]
    fn it_is_laid_out_as_in_the_specification() {
        let bytes = header().to_bytes(300);
        assert_eq!(bytes[..8], [0x6a, 0x5b, 0xcd, 0xef, 1, 44, 0x1b, 63]);
        assert_eq!((bytes[8], bytes[9], bytes[23]), (0xfe, 0x80, 1));
        assert_eq!((bytes[24], bytes[37], bytes[39]), (0xfe, 2, 3));
    }

    #[test]
    fn it_is_taken_off_and_a_wrong_one_is_refused() {
        let mut datagram = header().to_bytes(5).to_vec();
        datagram.extend_from_slice(b"hello");
        assert_eq!(Grh::split(&datagram), Some((Some(header()), &b"hello"[..])));
        assert_eq!(Grh::split(b"\x0arest"), Some((None, &b"\x0arest"[..])));
        assert_eq!(Grh::split(&datagram[..44]), None);
        assert_eq!(Grh::split(&datagram[..39]), None);
        datagram[6] = 17;
        assert_eq!(Grh::split(&datagram), None);
    }
}
