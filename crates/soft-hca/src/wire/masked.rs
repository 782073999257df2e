//! Masked atomics on the wire: ours, since neither InfiniBand nor RoCE has any.
//!
//! The opcodes are in the range that the specification leaves to manufacturers
//! (transport 110b), with the operation bits of the atomic that each extends.
//! See `docs/decisions/0006-masked-atomics-on-the-wire.md`.

use mlx5gda_sys::wqe::{AtomicOp, AtomicWidth};

use super::Opcode;

/// Masked atomic extended transport header, 48 bytes: address, remote key,
/// operand width in bytes and three zeroes, then four operands of 8 bytes. All
/// big-endian.
///
/// | | masked compare and swap | masked fetch and add |
/// | --- | --- | --- |
/// | 1 | swap | add |
/// | 2 | compare | 0 |
/// | 3 | swap mask | field boundaries |
/// | 4 | compare mask | 0 |
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MaskedAtomicEth {
    /// Virtual address at the responder, a multiple of the operand width.
    pub addr: u64,
    /// Remote key.
    pub rkey: u32,
    /// What to do.
    pub op: AtomicOp,
}

impl MaskedAtomicEth {
    /// Bytes on the wire.
    pub const BYTES: usize = 48;

    /// The bytes on the wire; an operation that is not masked has none and
    /// gives zeroes.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let operands = match self.op {
            AtomicOp::MaskedFetchAdd { add, boundary, .. } => [add, 0, boundary, 0],
            AtomicOp::MaskedCompareSwap {
                compare,
                swap,
                compare_mask,
                swap_mask,
                ..
            } => [swap, compare, swap_mask, compare_mask],
            _ => return [0; Self::BYTES],
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.addr.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.rkey.to_be_bytes());
        bytes[12] = self.op.bytes() as u8;
        for (to, operand) in bytes[16..].as_chunks_mut::<8>().0.iter_mut().zip(operands) {
            *to = operand.to_be_bytes();
        }
        bytes
    }

    /// Reads the header of a packet with this opcode; `None` for a width that
    /// is not 4 or 8, operands wider than it, or an opcode that has no such
    /// header.
    pub fn from_bytes(opcode: Opcode, bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| words.get(index).map_or(0, |word| u64::from_be_bytes(*word));
        let operands = [word(2), word(3), word(4), word(5)];
        let width = match bytes[12] {
            4 if operands.iter().all(|operand| *operand >> 32 == 0) => AtomicWidth::Four,
            8 => AtomicWidth::Eight,
            _ => return None,
        };
        let [first, second, third, fourth] = operands;
        let op = match opcode {
            Opcode::MaskedFetchAdd => AtomicOp::MaskedFetchAdd {
                width,
                add: first,
                boundary: third,
            },
            Opcode::MaskedCompareSwap => AtomicOp::MaskedCompareSwap {
                width,
                compare: second,
                swap: first,
                compare_mask: fourth,
                swap_mask: third,
            },
            _ => return None,
        };
        Some(Self {
            addr: word(0),
            rkey: (word(1) >> 32) as u32,
            op,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_laid_out_as_documented() {
        let eth = MaskedAtomicEth {
            addr: 0x0102_0304_0506_0708,
            rkey: 0x1112_1314,
            op: AtomicOp::MaskedCompareSwap {
                width: AtomicWidth::Eight,
                compare: 2,
                swap: 1,
                compare_mask: 4,
                swap_mask: 3,
            },
        };
        let bytes = eth.to_bytes();
        assert_eq!(bytes[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[8..16], [0x11, 0x12, 0x13, 0x14, 8, 0, 0, 0]);
        for operand in 1..=4u64 {
            let at = 8 + operand as usize * 8;
            assert_eq!(bytes[at..at + 8], operand.to_be_bytes());
        }
        let opcode = Opcode::MaskedCompareSwap;
        assert_eq!(MaskedAtomicEth::from_bytes(opcode, &bytes), Some(eth));
        assert_eq!(MaskedAtomicEth::from_bytes(Opcode::FetchAdd, &bytes), None);
    }

    #[test]
    fn widths_and_operands_that_do_not_fit_are_refused() {
        let eth = MaskedAtomicEth {
            addr: 4,
            rkey: 5,
            op: AtomicOp::MaskedFetchAdd {
                width: AtomicWidth::Four,
                add: 6,
                boundary: 0x8000_0000,
            },
        };
        let opcode = Opcode::MaskedFetchAdd;
        let mut bytes = eth.to_bytes();
        assert_eq!(MaskedAtomicEth::from_bytes(opcode, &bytes), Some(eth));
        bytes[19] = 1;
        assert_eq!(MaskedAtomicEth::from_bytes(opcode, &bytes), None);
        bytes[12] = 16;
        assert_eq!(MaskedAtomicEth::from_bytes(opcode, &bytes), None);
    }
}
