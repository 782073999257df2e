//! Masked atomics: what is drawn, and what they do by the manual's definition, bit by bit.

use mlx5gda_sys::wqe::{AtomicOp, AtomicWidth};
use proptest::prelude::*;

use crate::action::WORDS;

/// A masked atomic on 4 or 8 bytes of the words. Its operands count by as many low bits.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Masked {
    pub(crate) width: AtomicWidth,
    /// Offset among the words, a multiple of the width.
    pub(crate) at: usize,
    operation: Operation,
}

#[derive(Copy, Clone, Debug)]
enum Operation {
    FetchAdd {
        add: u64,
        boundary: u64,
    },
    CompareSwap {
        /// The bits in which what is compared differs from what is found.
        off: u64,
        swap: u64,
        compare_mask: u64,
        swap_mask: u64,
    },
}

impl Masked {
    /// Bytes that it works on.
    pub(crate) const fn bytes(&self) -> usize {
        match self.width {
            AtomicWidth::Four => 4,
            AtomicWidth::Eight => 8,
        }
    }

    fn operand(&self, value: u64) -> u64 {
        match self.width {
            AtomicWidth::Four => u64::from(value as u32),
            AtomicWidth::Eight => value,
        }
    }

    /// The work request, where it will find `found`.
    pub(crate) fn request(&self, found: u64) -> AtomicOp {
        let width = self.width;
        match self.operation {
            Operation::FetchAdd { add, boundary } => AtomicOp::MaskedFetchAdd {
                width,
                add: self.operand(add),
                boundary: self.operand(boundary),
            },
            Operation::CompareSwap {
                off,
                swap,
                compare_mask,
                swap_mask,
            } => AtomicOp::MaskedCompareSwap {
                width,
                compare: self.operand(found ^ off),
                swap: self.operand(swap),
                compare_mask: self.operand(compare_mask),
                swap_mask: self.operand(swap_mask),
            },
        }
    }

    /// What it leaves where it finds `found`.
    pub(crate) fn leaves(&self, found: u64) -> u64 {
        let bits = 8 * self.bytes();
        let is_set = |word: u64, bit: usize| word >> bit & 1 == 1;
        let mut left = 0;
        match self.operation {
            Operation::FetchAdd { add, boundary } => {
                let mut carry = 0;
                for bit in 0..bits {
                    let sum = carry + (found >> bit & 1) + (add >> bit & 1);
                    left |= (sum & 1) << bit;
                    // A set bit ends its field: what is carried beyond it is lost.
                    carry = if is_set(boundary, bit) { 0 } else { sum >> 1 };
                }
            }
            Operation::CompareSwap {
                off,
                swap,
                compare_mask,
                swap_mask,
            } => {
                let same = (0..bits).all(|bit| !is_set(compare_mask, bit) || !is_set(off, bit));
                for bit in 0..bits {
                    let swapped = same && is_set(swap_mask, bit);
                    let from = if swapped { swap } else { found };
                    left |= (from >> bit & 1) << bit;
                }
            }
        }
        left
    }
}

/// Bits anywhere, few, in places that fields end at, none or all.
fn mask() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        2 => any::<[u64; 3]>().prop_map(|[a, b, c]| a & b & c),
        1 => (0..64u32).prop_map(|bit| 1 << bit),
        1 => Just(0x8000_8000_8000_8000),
        1 => Just(0),
        1 => Just(u64::MAX),
    ]
}

/// Numbers that carry far are as likely as others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), mask(), 0..4u64]
}

fn operation() -> impl Strategy<Value = Operation> {
    // One bit that differs is the hardest to see.
    let off = prop_oneof![3 => (0..64u32).prop_map(|bit| 1 << bit), 1 => mask()];
    let swap = (off, number(), mask(), mask(), any::<bool>());
    prop_oneof![
        (number(), mask()).prop_map(|(add, boundary)| Operation::FetchAdd { add, boundary }),
        swap.prop_map(|(off, swap, compare_mask, swap_mask, same)| {
            Operation::CompareSwap {
                // What is not compared may differ.
                off: if same { off & !compare_mask } else { off },
                swap,
                compare_mask,
                swap_mask,
            }
        }),
    ]
}

pub(crate) fn masked() -> impl Strategy<Value = Masked> {
    let width = prop_oneof![Just(AtomicWidth::Four), Just(AtomicWidth::Eight)];
    (width, 0..WORDS, any::<bool>(), operation()).prop_map(|(width, word, upper, operation)| {
        let half = match width {
            AtomicWidth::Four => 4 * usize::from(upper),
            AtomicWidth::Eight => 0,
        };
        Masked {
            width,
            at: word * 8 + half,
            operation,
        }
    })
}
