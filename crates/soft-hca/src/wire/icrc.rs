//! The invariant CRC.
//!
//! CRC-32 (the Ethernet polynomial) over eight bytes of ones in place of an
//! InfiniBand local route header, the IPv4 and UDP headers, and the datagram,
//! with everything that a router may change set to ones: type of service, time
//! to live, both checksums, and the BTH's congestion and reserved bits
//! (annex A17.3.3, section 7.8.1). It is sent least significant byte first.
//!
//! A process that uses UDP sockets sees no IP header, so the header is
//! rebuilt: no options, *do not fragment*, identification zero. That is what
//! Linux sends on an unconnected UDP socket under path MTU discovery. Other
//! stacks number their packets; as a CRC is linear, [`open`] solves for the
//! identification that would make the sum right.

use std::net::Ipv4Addr;

use super::{Bth, ICRC_BYTES, UDP_PORT};

/// Bytes of the IPv4 and UDP headers.
const IP_UDP_BYTES: usize = 28;
/// Bytes of ones in front.
const LRH_BYTES: usize = 8;
/// Everything that is masked or rebuilt: up to the end of the BTH.
const PREFIX_BYTES: usize = LRH_BYTES + IP_UDP_BYTES + Bth::BYTES;
/// Where the IPv4 identification ends.
const IDENT_END: usize = LRH_BYTES + 6;

/// The addresses and source port of a packet, which its CRC covers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Sender.
    pub src: Ipv4Addr,
    /// Receiver.
    pub dst: Ipv4Addr,
    /// UDP source port; the destination port is always [`UDP_PORT`].
    pub src_port: u16,
}

/// The CRC of `body` (a datagram without its CRC) as a number, or `None` if it
/// is too short to hold a BTH or too long for IPv4.
fn compute(flow: &Flow, body: &[u8]) -> Option<u32> {
    let (bth, rest) = body.split_first_chunk::<{ Bth::BYTES }>()?;
    let udp_len = u16::try_from(8 + body.len() + ICRC_BYTES).ok()?;
    let ip_len = udp_len.checked_add(20)?;
    let mut prefix = [0xff; PREFIX_BYTES];
    let ip = &mut prefix[LRH_BYTES..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    ip[9] = 17;
    ip[12..16].copy_from_slice(&flow.src.octets());
    ip[16..20].copy_from_slice(&flow.dst.octets());
    ip[20..22].copy_from_slice(&flow.src_port.to_be_bytes());
    ip[22..24].copy_from_slice(&UDP_PORT.to_be_bytes());
    ip[24..26].copy_from_slice(&udp_len.to_be_bytes());
    ip[IP_UDP_BYTES..].copy_from_slice(bth);
    ip[IP_UDP_BYTES + 4] = 0xff;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&prefix);
    hasher.update(rest);
    Some(hasher.finalize())
}

/// Appends the CRC to `body`, a datagram of at least a BTH. One that is too
/// short or too long is left as it is.
pub fn seal(flow: &Flow, body: &mut Vec<u8>) {
    if let Some(crc) = compute(flow, body) {
        body.extend_from_slice(&crc.to_le_bytes());
    }
}

/// What [`open`] found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CRC is right for IPv4 identification zero.
    Good,
    /// The CRC is right for this identification. Only 16 of its 32 bits are
    /// left to detect errors with.
    GoodWithIdent(u16),
    /// The CRC is wrong, or the datagram is too short to have one.
    Bad,
}

/// Checks the CRC at the end of `datagram`.
pub fn open(flow: &Flow, datagram: &[u8]) -> Verdict {
    let Some((body, sum)) = datagram.split_last_chunk::<ICRC_BYTES>() else {
        return Verdict::Bad;
    };
    let Some(expected) = compute(flow, body) else {
        return Verdict::Bad;
    };
    let difference = expected ^ u32::from_le_bytes(*sum);
    if difference == 0 {
        return Verdict::Good;
    }
    let after = PREFIX_BYTES - IDENT_END + body.len() - Bth::BYTES;
    match ident(difference, after) {
        Some(ident) => Verdict::GoodWithIdent(ident),
        None => Verdict::Bad,
    }
}

/// The two bytes that, `after` bytes before the end, change a CRC by
/// `difference`.
fn ident(difference: u32, after: usize) -> Option<u16> {
    /// The polynomial, reflected.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // The register is stepped back one bit at a time through what follows the
    // identification. A step forward with input 0 shifts right and, for a one
    // shifted out, adds the polynomial, whose top bit is set: the top bit says
    // what was shifted out.
    let mut register = difference;
    for _ in 0..after * 8 + 16 {
        register = if register & 0x8000_0000 != 0 {
            (register ^ POLYNOMIAL) << 1 | 1
        } else {
            register << 1
        };
    }
    // Input bits are added to the low end of the register before each step, so
    // sixteen of them stand in its low half, first byte lowest.
    (register >> 16 == 0).then(|| u16::from_be_bytes([register as u8, (register >> 8) as u8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP payload of a congestion notification sent by a ConnectX-4 Lx, IPv4
    /// identification 0x718c (from Scapy's RoCE test data).
    const CAPTURED: [u8; 32] = [
        0x81, 0x00, 0xff, 0xff, 0x40, 0x00, 0x01, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0x82, 0xfd, 0x00, 0x2a,
    ];
    const CAPTURED_FLOW: Flow = Flow {
        src: Ipv4Addr::new(10, 0, 17, 1),
        dst: Ipv4Addr::new(10, 0, 18, 1),
        src_port: 0,
    };

    #[test]
    fn a_captured_packet_is_good() {
        assert_eq!(
            open(&CAPTURED_FLOW, &CAPTURED),
            Verdict::GoodWithIdent(0x718c)
        );
    }

    #[test]
    fn a_second_captured_packet_is_good() {
        // UC SEND only, identification 1144 (Scapy's RoCE test data again).
        let mut datagram = vec![0x24, 0x60, 0xff, 0xff, 0, 0, 0, 211, 0, 0xcf, 0x17, 0x10];
        datagram.extend_from_slice(b"F0\x81\x8b\xe2\x895\xd9\x0e\x9a\x95PT\x01\xbe\x88^P\0\0");
        datagram.extend_from_slice(&[0x78, 0xf3, 0x53, 0xf3]);
        let flow = Flow {
            src: Ipv4Addr::new(192, 168, 0, 7),
            dst: Ipv4Addr::new(192, 168, 0, 7),
            src_port: 49152,
        };
        assert_eq!(open(&flow, &datagram), Verdict::GoodWithIdent(1144));
    }

    #[test]
    fn congestion_bits_do_not_count_and_others_do() {
        let mut marked = CAPTURED;
        marked[4] = 0xc0;
        assert_eq!(
            open(&CAPTURED_FLOW, &marked),
            Verdict::GoodWithIdent(0x718c)
        );
        for byte in (0..28).filter(|&byte| byte != 4) {
            let mut wrong = CAPTURED;
            wrong[byte] ^= 0x10;
            assert_ne!(
                open(&CAPTURED_FLOW, &wrong),
                Verdict::GoodWithIdent(0x718c),
                "byte {byte}"
            );
        }
    }

    #[test]
    fn sealed_is_good_and_a_flipped_bit_is_not() {
        let mut body = CAPTURED[..28].to_vec();
        seal(&CAPTURED_FLOW, &mut body);
        assert_eq!(open(&CAPTURED_FLOW, &body), Verdict::Good);
        for bit in (0..body.len() * 8).filter(|bit| bit / 8 != 4) {
            let mut wrong = body.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(open(&CAPTURED_FLOW, &wrong), Verdict::Good, "bit {bit}");
        }
        let elsewhere = Flow {
            dst: Ipv4Addr::LOCALHOST,
            ..CAPTURED_FLOW
        };
        assert_ne!(open(&elsewhere, &body), Verdict::Good);
    }

    #[test]
    fn too_short_is_bad() {
        assert_eq!(open(&CAPTURED_FLOW, &[0; 3]), Verdict::Bad);
        assert_eq!(open(&CAPTURED_FLOW, &[0; 15]), Verdict::Bad);
    }
}
