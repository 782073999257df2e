//! The invariant CRC.
//!
//! CRC-32 (the Ethernet polynomial) over eight bytes of ones in place of an
//! InfiniBand local route header, the IP and UDP headers, and the datagram,
//! with everything that a router may change set to ones: of IPv4 the type of
//! service, time to live and checksum, of IPv6 the traffic class, flow label
//! and hop limit, the UDP checksum, and the BTH's congestion and reserved bits
//! (annex A17.3.3, section 7.8.1). Where a global route header leads the
//! datagram, it is masked as an IPv6 header is. The CRC is sent least
//! significant byte first.
//!
//! A process that uses UDP sockets sees no IP header, so the header is
//! rebuilt. IPv4: no options, *do not fragment*, identification zero. That is
//! what Linux sends on an unconnected UDP socket under path MTU discovery.
//! Other stacks number their packets; as a CRC is linear, [`open`] solves for
//! the identification that would make the sum right. IPv6: no extension
//! headers.

use std::net::IpAddr;

use super::pseudo::{IDENT_END, Prefix, UDP_BYTES};
use super::{Grh, ICRC_BYTES};

/// The addresses and source port of a packet, which its CRC covers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Sender.
    pub src: IpAddr,
    /// Receiver, of the same family.
    pub dst: IpAddr,
    /// UDP source port; the destination port is always [`super::UDP_PORT`].
    pub src_port: u16,
}

/// The CRC of `body` (a datagram without its CRC) as a number, and how many
/// bytes of it lie behind the IPv4 identification. `None` if the body is too
/// short to hold its headers or too long for IP, or if the addresses are of
/// different families.
fn compute(flow: &Flow, body: &[u8]) -> Option<(u32, usize)> {
    let udp_len = u16::try_from(UDP_BYTES + body.len() + ICRC_BYTES).ok()?;
    let mut prefix = Prefix::new();
    match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => prefix.ipv4(src, dst, udp_len)?,
        (IpAddr::V6(src), IpAddr::V6(dst)) => prefix.ipv6(src, dst, udp_len),
        _ => return None,
    }
    prefix.udp(flow.src_port, udp_len);
    let mut rest = body;
    if Grh::leads(body) {
        let (grh, behind) = body.split_first_chunk()?;
        prefix.grh(grh);
        rest = behind;
    }
    let (bth, rest) = rest.split_first_chunk()?;
    prefix.bth(bth);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(prefix.bytes());
    hasher.update(rest);
    Some((
        hasher.finalize(),
        prefix.bytes().len() - IDENT_END + rest.len(),
    ))
}

/// The CRC of `body`, a datagram of at least a BTH, as it is sent behind it.
/// `None` for one that is too short or too long.
pub fn checksum(flow: &Flow, body: &[u8]) -> Option<[u8; ICRC_BYTES]> {
    compute(flow, body).map(|(crc, _)| crc.to_le_bytes())
}

/// Appends the CRC to `body`, a datagram of at least a BTH. One that is too
/// short or too long is left as it is.
pub fn seal(flow: &Flow, body: &mut Vec<u8>) {
    if let Some(crc) = checksum(flow, body) {
        body.extend_from_slice(&crc);
    }
}

/// What [`open`] found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The CRC is right; for IPv4, with identification zero.
    Good,
    /// The CRC is right for this IPv4 identification. Only 16 of its 32 bits
    /// are left to detect errors with.
    GoodWithIdent(u16),
    /// The CRC is wrong, or the datagram is too short to have one.
    Bad,
}

/// Checks the CRC at the end of `datagram`. What comes over loopback comes from
/// Linux, whose identification is known.
pub fn open(flow: &Flow, datagram: &[u8]) -> Verdict {
    let Some((body, sum)) = datagram.split_last_chunk::<ICRC_BYTES>() else {
        return Verdict::Bad;
    };
    let Some((expected, after)) = compute(flow, body) else {
        return Verdict::Bad;
    };
    let difference = expected ^ u32::from_le_bytes(*sum);
    if difference == 0 {
        return Verdict::Good;
    }
    if flow.src.is_ipv6() || flow.src.is_loopback() {
        return Verdict::Bad;
    }
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
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::UDP_PORT;

    /// UDP payload of a congestion notification sent by a ConnectX-4 Lx, IPv4
    /// identification 0x718c (from Scapy's RoCE test data).
    const CAPTURED: [u8; 32] = [
        0x81, 0x00, 0xff, 0xff, 0x40, 0x00, 0x01, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0x82, 0xfd, 0x00, 0x2a,
    ];
    const CAPTURED_FLOW: Flow = Flow {
        src: IpAddr::V4(Ipv4Addr::new(10, 0, 17, 1)),
        dst: IpAddr::V4(Ipv4Addr::new(10, 0, 18, 1)),
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
            src: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 7)),
            dst: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 7)),
            src_port: 49152,
        };
        assert_eq!(open(&flow, &datagram), Verdict::GoodWithIdent(1144));
    }

    /// A WRITE of four bytes.
    const WRITE: [u8; 32] = *b"\x0a\x40\xff\xff\0\0\x01\x02\x80\0\0\x07\
        \x11\x22\x33\x44\x55\x66\x77\x88\0\0\xde\xad\0\0\0\x04abcd";

    #[test]
    fn over_ipv6_the_masked_header_counts() {
        // Computed with zlib's crc32 over the bytes that the annex names.
        let flow = Flow {
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::aa".parse().unwrap(),
            src_port: 0xc123,
        };
        let mut datagram = WRITE.to_vec();
        seal(&flow, &mut datagram);
        assert_eq!(datagram[32..], 0x49a4_a459u32.to_le_bytes());
        assert_eq!(open(&flow, &datagram), Verdict::Good);
        for bit in 0..32 * 8 {
            let mut wrong = datagram.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let masked = bit / 8 == 4;
            assert_eq!(open(&flow, &wrong) == Verdict::Good, masked, "bit {bit}");
        }
        let mixed = Flow {
            dst: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ..flow
        };
        assert_eq!(open(&mixed, &datagram), Verdict::Bad);
    }

    #[test]
    fn a_global_route_header_counts_but_for_what_routers_change() {
        // Computed likewise.
        let flow = Flow {
            src: IpAddr::V4(Ipv4Addr::new(127, 128, 0, 1)),
            dst: IpAddr::V4(Ipv4Addr::new(127, 128, 0, 2)),
            src_port: UDP_PORT,
        };
        let header = Grh {
            traffic_class: 9,
            flow_label: 0x12345,
            hop_limit: 5,
            src: "fe80::1".parse().unwrap(),
            dst: "fe80::2".parse().unwrap(),
        };
        let len = (WRITE.len() + ICRC_BYTES) as u16;
        let mut datagram = header.to_bytes(len).to_vec();
        datagram.extend_from_slice(&WRITE);
        seal(&flow, &mut datagram);
        assert_eq!(datagram[72..], 0xa71d_69e2u32.to_le_bytes());
        for byte in 0..72 {
            let mut routed = datagram.clone();
            routed[byte] ^= 0x01;
            let masked = matches!(byte, 0..=3 | 7 | 44);
            assert_eq!(open(&flow, &routed) == Verdict::Good, masked, "{byte}");
        }
    }

    #[test]
    fn over_loopback_the_identification_is_known() {
        let differs = |wrong: &[u8], flow| open(flow, wrong) == Verdict::Bad;
        let loopback = Flow {
            src: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ..CAPTURED_FLOW
        };
        // CRCs are linear: what another identification changes does not depend
        // on the addresses.
        let mut zero = CAPTURED[..28].to_vec();
        seal(&CAPTURED_FLOW, &mut zero);
        let mut datagram = CAPTURED[..28].to_vec();
        seal(&loopback, &mut datagram);
        for at in 28..32 {
            datagram[at] ^= zero[at] ^ CAPTURED[at];
        }
        assert!(differs(&datagram, &loopback));
        assert!(!differs(&CAPTURED, &CAPTURED_FLOW));
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
            dst: IpAddr::V4(Ipv4Addr::LOCALHOST),
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
