//! Atomics: what they ask for, and their operand segments.

use super::parse::Cursor;
use super::seg::{AtomicSeg, MaskedCompareSwap4Seg, MaskedFetchAdd4Seg, MaskedFetchAdd8Seg};
use super::{Opcode, Wqe, WqeError};
use crate::be::{Be32, Be64};

/// Operand width of an extended (masked) atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicWidth {
    /// 4 bytes, opcode modifier 8.
    Four,
    /// 8 bytes, opcode modifier 9.
    Eight,
}

impl AtomicWidth {
    /// The width in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// An atomic operation on remote memory, operands in the order of this machine.
///
/// For the width [`AtomicWidth::Four`] every operand must fit 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Add to 8 bytes.
    FetchAdd {
        /// Addend, modulo 2^64.
        add: u64,
    },
    /// Replace 8 bytes if they equal `compare`.
    CompareSwap {
        /// Expected value.
        compare: u64,
        /// New value.
        swap: u64,
    },
    /// Add field by field: a bit set in `boundary` is the top bit of a field, whose carry is lost.
    MaskedFetchAdd {
        /// Operand width.
        width: AtomicWidth,
        /// Addend.
        add: u64,
        /// Top bit of each field.
        boundary: u64,
    },
    /// Replace the bits of `swap_mask` if the bits of `compare_mask` match.
    MaskedCompareSwap {
        /// Operand width.
        width: AtomicWidth,
        /// Expected bits.
        compare: u64,
        /// New bits.
        swap: u64,
        /// Bits compared.
        compare_mask: u64,
        /// Bits replaced.
        swap_mask: u64,
    },
}

impl AtomicOp {
    /// Bytes of remote memory the operation works on, and returns.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        match self {
            Self::FetchAdd { .. } | Self::CompareSwap { .. } => 8,
            Self::MaskedFetchAdd { width, .. } | Self::MaskedCompareSwap { width, .. } => {
                width.bytes()
            }
        }
    }

    /// The opcode that requests it.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::FetchAdd { .. } => Opcode::AtomicFa,
            Self::CompareSwap { .. } => Opcode::AtomicCs,
            Self::MaskedFetchAdd { .. } => Opcode::AtomicMaskedFa,
            Self::MaskedCompareSwap { .. } => Opcode::AtomicMaskedCs,
        }
    }
}

impl AtomicOp {
    /// What the operation leaves in memory where it finds `found`. For the width
    /// [`AtomicWidth::Four`] the low 4 bytes count.
    #[must_use]
    pub const fn apply(&self, found: u64) -> u64 {
        match *self {
            Self::FetchAdd { add } => found.wrapping_add(add),
            Self::CompareSwap { compare, swap } => {
                if found == compare {
                    swap
                } else {
                    found
                }
            }
            Self::MaskedFetchAdd { add, boundary, .. } => {
                // Without the top bit of each field no carry leaves it; the top bits are then
                // added without carry.
                let low = (found & !boundary).wrapping_add(add & !boundary);
                low ^ ((found ^ add) & boundary)
            }
            Self::MaskedCompareSwap {
                compare,
                swap,
                compare_mask,
                swap_mask,
                ..
            } => {
                if (found ^ compare) & compare_mask == 0 {
                    found & !swap_mask | swap & swap_mask
                } else {
                    found
                }
            }
        }
    }

    /// The opcode modifier: the width of a masked operation.
    pub(super) const fn modifier(&self) -> u8 {
        match self {
            Self::FetchAdd { .. } | Self::CompareSwap { .. } => 0,
            Self::MaskedFetchAdd { width, .. } | Self::MaskedCompareSwap { width, .. } => {
                match width {
                    AtomicWidth::Four => 8,
                    AtomicWidth::Eight => 9,
                }
            }
        }
    }

    /// Checks where it works and where the old value lands.
    pub(super) fn check(&self, remote_addr: u64, local_len: u32) -> Result<(), WqeError> {
        let width = self.bytes();
        if !remote_addr.is_multiple_of(u64::from(width)) {
            return Err(WqeError::AtomicAlignment {
                addr: remote_addr,
                width,
            });
        }
        if local_len != width {
            return Err(WqeError::AtomicLength {
                width,
                len: local_len,
            });
        }
        Ok(())
    }

    /// Appends the operand segments.
    pub(super) fn write(self, wqe: &mut Wqe) -> Result<(), WqeError> {
        match self {
            Self::FetchAdd { add } => wqe.push(&AtomicSeg {
                swap_add: Be64::new(add),
                compare: Be64::new(0),
            }),
            Self::CompareSwap { compare, swap } => wqe.push(&AtomicSeg {
                swap_add: Be64::new(swap),
                compare: Be64::new(compare),
            }),
            Self::MaskedFetchAdd {
                width: AtomicWidth::Eight,
                add,
                boundary,
            } => wqe.push(&MaskedFetchAdd8Seg {
                add: Be64::new(add),
                boundary: Be64::new(boundary),
            }),
            Self::MaskedFetchAdd {
                width: AtomicWidth::Four,
                add,
                boundary,
            } => wqe.push(&MaskedFetchAdd4Seg {
                add: narrow(add)?,
                boundary: narrow(boundary)?,
                reserved: Be64::default(),
            }),
            Self::MaskedCompareSwap {
                width: AtomicWidth::Eight,
                compare,
                swap,
                compare_mask,
                swap_mask,
            } => {
                wqe.push(&AtomicSeg {
                    swap_add: Be64::new(swap),
                    compare: Be64::new(compare),
                })?;
                wqe.push(&AtomicSeg {
                    swap_add: Be64::new(swap_mask),
                    compare: Be64::new(compare_mask),
                })
            }
            Self::MaskedCompareSwap {
                width: AtomicWidth::Four,
                compare,
                swap,
                compare_mask,
                swap_mask,
            } => wqe.push(&MaskedCompareSwap4Seg {
                swap: narrow(swap)?,
                compare: narrow(compare)?,
                swap_mask: narrow(swap_mask)?,
                compare_mask: narrow(compare_mask)?,
            }),
        }
    }

    /// Reads the operand segments of `opcode`; none for an opcode that is no atomic.
    pub(super) fn read(
        rest: &mut Cursor<'_>,
        opcode: Opcode,
        opmod: u8,
    ) -> Result<Option<Self>, WqeError> {
        let bad_modifier = WqeError::OpcodeModifier {
            opmod,
            opcode: opcode as u8,
        };
        let masked = matches!(opcode, Opcode::AtomicMaskedCs | Opcode::AtomicMaskedFa);
        let width = match (masked, opmod) {
            (false, 0) | (true, 9) => AtomicWidth::Eight,
            (true, 8) => AtomicWidth::Four,
            _ => return Err(bad_modifier),
        };
        Ok(Some(match (opcode, width) {
            (Opcode::AtomicFa, _) => {
                let seg: AtomicSeg = rest.take()?;
                Self::FetchAdd {
                    add: seg.swap_add.get(),
                }
            }
            (Opcode::AtomicCs, _) => {
                let seg: AtomicSeg = rest.take()?;
                Self::CompareSwap {
                    compare: seg.compare.get(),
                    swap: seg.swap_add.get(),
                }
            }
            (Opcode::AtomicMaskedFa, AtomicWidth::Eight) => {
                let seg: MaskedFetchAdd8Seg = rest.take()?;
                Self::MaskedFetchAdd {
                    width,
                    add: seg.add.get(),
                    boundary: seg.boundary.get(),
                }
            }
            (Opcode::AtomicMaskedFa, AtomicWidth::Four) => {
                let seg: MaskedFetchAdd4Seg = rest.take()?;
                Self::MaskedFetchAdd {
                    width,
                    add: seg.add.get().into(),
                    boundary: seg.boundary.get().into(),
                }
            }
            (Opcode::AtomicMaskedCs, AtomicWidth::Eight) => {
                let value: AtomicSeg = rest.take()?;
                let mask: AtomicSeg = rest.take()?;
                Self::MaskedCompareSwap {
                    width,
                    compare: value.compare.get(),
                    swap: value.swap_add.get(),
                    compare_mask: mask.compare.get(),
                    swap_mask: mask.swap_add.get(),
                }
            }
            (Opcode::AtomicMaskedCs, AtomicWidth::Four) => {
                let seg: MaskedCompareSwap4Seg = rest.take()?;
                Self::MaskedCompareSwap {
                    width,
                    compare: seg.compare.get().into(),
                    swap: seg.swap.get().into(),
                    compare_mask: seg.compare_mask.get().into(),
                    swap_mask: seg.swap_mask.get().into(),
                }
            }
            _ => return Ok(None),
        }))
    }
}

fn narrow(value: u64) -> Result<Be32, WqeError> {
    u32::try_from(value)
        .map(Be32::new)
        .map_err(|_| WqeError::AtomicOperand { value, width: 4 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the device's manual describes it.
    fn add_by_bits(found: u64, add: u64, boundary: u64) -> u64 {
        let mut sum = 0;
        let mut carry = false;
        for bit in 0..64 {
            let is_set = |word: u64| word >> bit & 1 != 0;
            let ones = [carry, is_set(found), is_set(add)];
            let count = ones.iter().filter(|one| **one).count();
            sum |= (count as u64 & 1) << bit;
            carry = count >= 2 && !is_set(boundary);
        }
        sum
    }

    proptest! {
        #[test]
        fn fields_are_added_as_by_hand(found: u64, add: u64, boundary: u64, sparse: u64) {
            for boundary in [boundary, boundary & sparse, 0, u64::MAX, 1 << 63] {
                let op = AtomicOp::MaskedFetchAdd { width: AtomicWidth::Eight, add, boundary };
                prop_assert_eq!(op.apply(found), add_by_bits(found, add, boundary));
            }
        }
    }

    #[test]
    fn only_masked_bits_are_compared_and_swapped() {
        let op = |compare| AtomicOp::MaskedCompareSwap {
            width: AtomicWidth::Eight,
            compare,
            swap: 0xffff_ffff,
            compare_mask: 0xff00,
            swap_mask: 0xf0,
        };
        assert_eq!(op(0x1200).apply(0x5612_3456), 0x5612_3456);
        assert_eq!(op(0x9934_0000).apply(0x5612_3456), 0x5612_3456);
        assert_eq!(op(0x9999_3499).apply(0x5612_3456), 0x5612_34f6);
    }

    #[test]
    fn a_plain_atomic_is_a_masked_one_with_full_masks() {
        let plain = AtomicOp::CompareSwap {
            compare: 7,
            swap: 9,
        };
        let masked = AtomicOp::MaskedCompareSwap {
            width: AtomicWidth::Eight,
            compare: 7,
            swap: 9,
            compare_mask: u64::MAX,
            swap_mask: u64::MAX,
        };
        for found in [0, 7, 9, u64::MAX] {
            assert_eq!(plain.apply(found), masked.apply(found));
        }
        assert_eq!(AtomicOp::FetchAdd { add: 3 }.apply(u64::MAX), 2);
    }
}
