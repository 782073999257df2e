//! The headers that an invariant CRC covers, as it sees them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Bth, Grh, UDP_PORT};

/// Bytes of ones in front.
const LRH_BYTES: usize = 8;
/// Bytes of an IPv4 header.
const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header.
const IPV6_BYTES: usize = 40;
/// Bytes of a UDP header.
pub(super) const UDP_BYTES: usize = 8;
/// The most that is masked or rebuilt: up to the end of the BTH.
const PREFIX_BYTES: usize = LRH_BYTES + IPV6_BYTES + UDP_BYTES + Grh::BYTES + Bth::BYTES;
/// Where the IPv4 identification ends.
pub(super) const IDENT_END: usize = LRH_BYTES + 6;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// The bytes that a CRC starts with, put together one after the other.
pub(super) struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    len: usize,
}

impl Prefix {
    /// Ones in place of a local route header.
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0xff; PREFIX_BYTES],
            len: LRH_BYTES,
        }
    }

    /// All so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The next `len` bytes, all ones.
    fn part(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        &mut self.bytes[start..self.len]
    }

    pub(super) fn ipv4(&mut self, src: Ipv4Addr, dst: Ipv4Addr, udp_len: u16) -> Option<()> {
        let ip = self.part(IPV4_BYTES);
        let len = udp_len.checked_add(IPV4_BYTES as u16)?;
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        ip[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        ip[9] = UDP;
        ip[12..16].copy_from_slice(&src.octets());
        ip[16..20].copy_from_slice(&dst.octets());
        Some(())
    }

    pub(super) fn ipv6(&mut self, src: Ipv6Addr, dst: Ipv6Addr, udp_len: u16) {
        let ip = self.part(IPV6_BYTES);
        ip[0] = 0x6f;
        ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        ip[6] = UDP;
        ip[8..24].copy_from_slice(&src.octets());
        ip[24..40].copy_from_slice(&dst.octets());
    }

    pub(super) fn udp(&mut self, src_port: u16, udp_len: u16) {
        let udp = self.part(UDP_BYTES);
        udp[..2].copy_from_slice(&src_port.to_be_bytes());
        udp[2..4].copy_from_slice(&UDP_PORT.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
    }

    /// Traffic class, flow label and hop limit are masked.
    pub(super) fn grh(&mut self, header: &[u8; Grh::BYTES]) {
        let grh = self.part(Grh::BYTES);
        grh[0] = header[0] | 0x0f;
        grh[4..7].copy_from_slice(&header[4..7]);
        grh[8..].copy_from_slice(&header[8..]);
    }

    pub(super) fn bth(&mut self, header: &[u8; Bth::BYTES]) {
        let bth = self.part(Bth::BYTES);
        bth.copy_from_slice(header);
        bth[4] = 0xff;
    }
}
