//! Whole datagrams.

use super::{Aeth, AtomicEth, Bth, ICRC_BYTES, MaskedAtomicEth, Opcode, Reth};

/// Bytes of the longest header stack: BTH, masked atomic header.
pub const MAX_HEADER_BYTES: usize = Bth::BYTES + MaskedAtomicEth::BYTES;

/// Why a datagram is not an RC packet.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than its headers, padding and CRC.
    #[error("datagram of {len} bytes is too short for its headers")]
    Short {
        /// Bytes received.
        len: usize,
    },
    /// Opcode or transport version that is not RC's.
    #[error("opcode byte {opcode:#04x}, flags byte {flags:#04x} is no RC packet")]
    Header {
        /// First byte of the BTH.
        opcode: u8,
        /// Second byte of the BTH.
        flags: u8,
    },
    /// Reserved AETH syndrome.
    #[error("reserved acknowledgement syndrome")]
    Syndrome,
    /// Masked atomic whose operands do not fit its width.
    #[error("operands of a masked atomic that do not fit its width")]
    Operands,
}

/// All headers of a packet. Which of the optional ones are present is decided
/// by the opcode; [`encode`] writes zeroes for one that is missing.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Base header.
    pub bth: Bth,
    /// RDMA address, key, length.
    pub reth: Option<Reth>,
    /// Acknowledgement.
    pub aeth: Option<Aeth>,
    /// Atomic operands.
    pub atomic: Option<AtomicEth>,
    /// Masked atomic.
    pub masked: Option<MaskedAtomicEth>,
    /// What an atomic found in memory.
    pub atomic_original: Option<u64>,
    /// Immediate data.
    pub immediate: Option<u32>,
}

impl Headers {
    /// Headers with nothing but a BTH.
    pub const fn new(bth: Bth) -> Self {
        Self {
            bth,
            reth: None,
            aeth: None,
            atomic: None,
            masked: None,
            atomic_original: None,
            immediate: None,
        }
    }
}

/// A decoded packet; the payload is a part of the datagram.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// All headers.
    pub headers: Headers,
    /// Payload without padding.
    pub payload: &'a [u8],
}

/// Writes headers, payload and padding to the end of `out`, leaving the
/// invariant CRC to [`super::icrc::seal`]. The BTH's pad count is computed.
///
/// `fill` writes the payload into the `payload_len` bytes that it is given.
///
/// # Errors
/// Whatever `fill` returns.
pub fn encode<E>(
    headers: &Headers,
    payload_len: usize,
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let pad = payload_len.wrapping_neg() & 3;
    let bth = Bth {
        pad: pad as u8,
        ..headers.bth
    };
    let opcode = bth.opcode;
    out.extend_from_slice(&bth.to_bytes());
    if opcode.has_reth() {
        out.extend_from_slice(&headers.reth.map_or([0; Reth::BYTES], |h| h.to_bytes()));
    }
    if opcode.has_masked() {
        let missing = [0; MaskedAtomicEth::BYTES];
        out.extend_from_slice(&headers.masked.map_or(missing, |h| h.to_bytes()));
    }
    if opcode.has_atomic() {
        out.extend_from_slice(
            &headers
                .atomic
                .map_or([0; AtomicEth::BYTES], |h| h.to_bytes()),
        );
    }
    if opcode.has_aeth() {
        out.extend_from_slice(&headers.aeth.map_or([0; Aeth::BYTES], |h| h.to_bytes()));
    }
    if opcode == Opcode::AtomicAcknowledge {
        out.extend_from_slice(&headers.atomic_original.unwrap_or(0).to_be_bytes());
    }
    if opcode.has_immediate() {
        out.extend_from_slice(&headers.immediate.unwrap_or(0).to_be_bytes());
    }
    let start = out.len();
    out.resize(start + payload_len + pad, 0);
    fill(&mut out[start..start + payload_len])
}

/// Takes `N` bytes off the front of `rest`.
fn take<const N: usize>(rest: &mut &[u8], len: usize) -> Result<[u8; N], DecodeError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or(DecodeError::Short { len })?;
    *rest = tail;
    Ok(*head)
}

/// Reads a datagram, whose CRC (the last four bytes) is somebody else's to
/// check.
///
/// # Errors
/// [`DecodeError`] when it is not a well-formed RC packet.
pub fn decode(datagram: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let len = datagram.len();
    let short = DecodeError::Short { len };
    let mut rest = datagram
        .get(..len.checked_sub(ICRC_BYTES).ok_or(short)?)
        .ok_or(short)?;
    let base = take::<{ Bth::BYTES }>(&mut rest, len)?;
    let bth = Bth::from_bytes(&base).ok_or(DecodeError::Header {
        opcode: base[0],
        flags: base[1],
    })?;
    let mut headers = Headers::new(bth);
    let opcode = bth.opcode;
    if opcode.has_reth() {
        headers.reth = Some(Reth::from_bytes(&take(&mut rest, len)?));
    }
    if opcode.has_masked() {
        let masked = MaskedAtomicEth::from_bytes(opcode, &take(&mut rest, len)?);
        headers.masked = Some(masked.ok_or(DecodeError::Operands)?);
    }
    if opcode.has_atomic() {
        headers.atomic = Some(AtomicEth::from_bytes(&take(&mut rest, len)?));
    }
    if opcode.has_aeth() {
        let aeth = Aeth::from_bytes(&take(&mut rest, len)?);
        headers.aeth = Some(aeth.ok_or(DecodeError::Syndrome)?);
    }
    if opcode == Opcode::AtomicAcknowledge {
        headers.atomic_original = Some(u64::from_be_bytes(take(&mut rest, len)?));
    }
    if opcode.has_immediate() {
        headers.immediate = Some(u32::from_be_bytes(take(&mut rest, len)?));
    }
    let payload_len = rest.len().checked_sub(usize::from(bth.pad)).ok_or(short)?;
    Ok(Packet {
        headers,
        payload: &rest[..payload_len],
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::super::{AckCode, NakCode};
    use super::*;
    use crate::psn::Psn;

    fn headers() -> impl Strategy<Value = Headers> {
        (
            0u8..=0x14,
            any::<(bool, bool, u32, u32)>(),
            any::<(u64, u32, u32, u64, u64)>(),
            0u32..1 << 24,
        )
            .prop_map(
                |(op, (solicited, ack_request, qpn, psn), (addr, rkey, len, x, y), msn)| {
                    let opcode = Opcode::from_byte(op).unwrap();
                    let mut headers = Headers::new(Bth {
                        opcode,
                        solicited,
                        pad: 0,
                        dest_qpn: qpn & 0x00ff_ffff,
                        ack_request,
                        psn: Psn::new(psn),
                    });
                    headers.reth = opcode.has_reth().then_some(Reth { addr, rkey, len });
                    headers.atomic = opcode.has_atomic().then_some(AtomicEth {
                        addr,
                        rkey,
                        swap_or_add: x,
                        compare: y,
                    });
                    headers.aeth = opcode.has_aeth().then_some(Aeth {
                        code: AckCode::Nak(NakCode::RemoteAccess),
                        msn,
                    });
                    headers.atomic_original = (opcode == Opcode::AtomicAcknowledge).then_some(x);
                    headers.immediate = opcode.has_immediate().then_some(len);
                    headers
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(headers in headers(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            encode(&headers, payload.len(), &mut out, |to| {
                to.copy_from_slice(&payload);
                Ok::<(), Infallible>(())
            }).unwrap();
            prop_assert_eq!(out.len() % 4, 0);
            prop_assert!(out.len() - payload.len() <= MAX_HEADER_BYTES + 3);
            out.extend_from_slice(&[0; ICRC_BYTES]);
            let mut packet = decode(&out).unwrap();
            prop_assert_eq!(usize::from(packet.headers.bth.pad), payload.len().wrapping_neg() & 3);
            packet.headers.bth.pad = 0;
            prop_assert_eq!(packet.headers, headers);
            prop_assert_eq!(packet.payload, &payload[..]);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = decode(&bytes) {
                prop_assert!(packet.payload.len() + Bth::BYTES + ICRC_BYTES <= bytes.len());
            }
        }
    }

    #[test]
    fn padding_longer_than_the_rest_is_refused() {
        let mut bytes = vec![0; 16];
        bytes[0] = Opcode::SendOnly as u8;
        bytes[1] = 3 << 4;
        assert_eq!(decode(&bytes), Err(DecodeError::Short { len: 16 }));
    }
}
