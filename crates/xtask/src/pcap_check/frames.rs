//! Captured frames, and the invariant CRC of each, computed without the crate under test.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Bytes of the capture file's header, of a frame's, and of Ethernet's.
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
const ETHERNET: usize = 14;
/// Marks a classic capture file with microseconds, in our byte order.
const MAGIC: u32 = 0xa1b2_c3d4;

/// Reads a classic capture file of Ethernet frames: the IP packet in each. A frame that is not
/// complete yet ends the list.
///
/// # Errors
/// It cannot be read, or is another kind of file.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let (header, mut rest) = bytes
        .split_at_checked(FILE_HEADER)
        .context("a capture file is longer")?;
    ensure!(word(header, 0) == Some(MAGIC), "not a classic capture file");
    ensure!(
        word(header, 20) == Some(1),
        "not a capture of Ethernet frames"
    );
    let mut frames = Vec::new();
    while let Some(len) = word(rest, 8) {
        let end = FRAME_HEADER + len as usize;
        let Some(frame) = rest.get(FRAME_HEADER + ETHERNET..end) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = &rest[end..];
    }
    Ok(frames)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

/// What a router may change in a header of IPv4: type of service, time to live, checksum.
const IPV4: [usize; 4] = [1, 8, 10, 11];
/// And of IPv6: traffic class, flow label, hop limit.
const IPV6: [usize; 5] = [0, 1, 2, 3, 7];

/// The invariant CRC that this IP packet ought to end with, and the one that it ends with, both
/// as the bytes on the wire read as a big-endian number (RoCE v2, annex A17.3.3).
pub(super) fn invariant_crcs(packet: &[u8]) -> Option<(u32, u32)> {
    let (body, found) = packet.split_last_chunk::<4>()?;
    let first = *body.first()?;
    let (header, variant) = if first >> 4 == 6 {
        (40, &IPV6[..])
    } else {
        (usize::from(first & 0x0f) * 4, &IPV4[..])
    };
    let mut masked = [&[0xff; 8], body].concat();
    let (ip, udp) = (8, 8 + header);
    // And of what is behind it: the checksum, the congestion bits of the transport header.
    let behind = [6, 7, 12].into_iter().map(|at| udp + at);
    for at in variant.iter().map(|at| ip + at).chain(behind) {
        *masked.get_mut(at)? = 0xff;
    }
    if let (6, Some(byte)) = (first >> 4, masked.get_mut(ip)) {
        // The version stays.
        *byte = 0x6f;
    }
    let mut register = u32::MAX;
    for byte in masked {
        register ^= u32::from(byte);
        for _ in 0..8 {
            let out = register & 1;
            register = register >> 1 ^ if out == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    let expected = (!register).to_le_bytes();
    Some((u32::from_be_bytes(expected), u32::from_be_bytes(*found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A congestion notification sent by a ConnectX-4 Lx (Scapy's test data for RoCE).
    const CAPTURED: [u8; 60] = [
        0x45, 0x02, 0x00, 0x3c, 0x71, 0x8c, 0x40, 0x00, 0x40, 0x11, 0x90, 0x21, 10, 0, 17, 1, 10,
        0, 18, 1, 0x00, 0x00, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00, 0x81, 0x00, 0xff, 0xff, 0x40,
        0x00, 0x01, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x82, 0xfd,
        0x00, 0x2a,
    ];

    #[test]
    fn the_crc_of_a_captured_packet_is_the_one_that_it_has() {
        assert_eq!(invariant_crcs(&CAPTURED), Some((0x82fd_002a, 0x82fd_002a)));
        let mut changed = CAPTURED;
        changed[40] ^= 1;
        assert!(invariant_crcs(&changed).is_some_and(|(ours, theirs)| ours != theirs));
    }

    #[test]
    fn frames_are_read_up_to_an_unfinished_one() -> Result<()> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.resize(20, 0);
        bytes.extend(1u32.to_ne_bytes());
        for packet in [&b"one"[..], b"three", b"never finished"] {
            let len = (ETHERNET + packet.len()) as u32;
            bytes.extend([0; 8]);
            bytes.extend(len.to_ne_bytes());
            bytes.extend(len.to_ne_bytes());
            bytes.extend([0; ETHERNET]);
            bytes.extend(packet);
        }
        bytes.pop();
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), bytes)?;
        assert_eq!(read(file.path())?, [b"one".to_vec(), b"three".to_vec()]);
        Ok(())
    }
}
