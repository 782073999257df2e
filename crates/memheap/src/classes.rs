//! Size classes: which list a free block hangs in, and which lists fit a size.
//!
//! Sizes are in granules. Each power of two is cut into 16 classes of equal
//! width, so sizes in a class differ by less than one part in 16, and sizes up to
//! 32 have a class each. That is what the exponent and the first four bits of the
//! mantissa say of a floating point number.

use crate::nodes::{Held, NIL};

/// log2 of the classes per power of two.
const STEP_BITS: u32 = 4;
/// Classes that a 32-bit size can fall into.
const CLASSES: usize = 32 << STEP_BITS;
/// Class 0, and the bits of a size that its class does not see.
const BIAS: u64 = 1023 << STEP_BITS;
const DROPPED: u32 = f64::MANTISSA_DIGITS - 1 - STEP_BITS;
/// With room for one class more, which is always empty.
const WORDS: usize = CLASSES / 64 + 1;

/// Index of a list of free blocks.
pub(crate) type Class = usize;

/// The class that a free block of `size` belongs to.
#[inline(always)]
pub(crate) fn class_of(size: u32) -> Class {
    ((f64::from(size).to_bits() >> DROPPED) - BIAS) as usize
}

/// The lowest class whose every block holds `size`. May be one past the last.
#[inline(always)]
pub(crate) fn class_holding(size: u32) -> Class {
    let up = f64::from(size).to_bits() + ((1 << DROPPED) - 1);
    ((up >> DROPPED) - BIAS) as usize
}

/// The lists of free blocks.
///
/// # Invariants
/// A bit of `words` is set exactly when that list is not empty; a bit of `top`
/// exactly when that word is not zero.
#[derive(Debug)]
pub(crate) struct Classes {
    top: u32,
    words: [u64; WORDS],
    heads: [u32; CLASSES],
}

impl Classes {
    pub(crate) const fn new() -> Self {
        Self {
            top: 0,
            words: [0; WORDS],
            heads: [NIL; CLASSES],
        }
    }

    /// First block of a list, [`NIL`] when it is empty.
    #[inline(always)]
    pub(crate) fn head(&self, class: Class) -> u32 {
        self.heads[class % CLASSES]
    }

    /// The lowest class at or above `class` with a block in it.
    #[inline(always)]
    pub(crate) fn first_from(&self, class: Class) -> Option<Class> {
        let word = class / 64;
        let here = self.words.get(word)? & (!0 << (class % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let above = self.top & (!1 << word);
        if above == 0 {
            return None;
        }
        let word = above.trailing_zeros() as usize;
        let here = self.words.get(word)?;
        Some(word * 64 + here.trailing_zeros() as usize)
    }

    /// The highest class with a block in it.
    pub(crate) fn last(&self) -> Option<Class> {
        let word = self.top.checked_ilog2()? as usize;
        Some(word * 64 + self.words[word].checked_ilog2()? as usize)
    }

    /// The highest class below `class` with a block in it.
    pub(crate) fn last_below(&self, class: Class) -> Option<Class> {
        let word = class / 64;
        let here = self.words.get(word)? & !(!0 << (class % 64));
        if let Some(bit) = here.checked_ilog2() {
            return Some(word * 64 + bit as usize);
        }
        let below = self.top & !(!0 << word);
        let word = below.checked_ilog2()? as usize;
        Some(word * 64 + self.words[word].checked_ilog2()? as usize)
    }

    /// Puts `node` at the front of a list. `node` must be in no list.
    #[inline(always)]
    pub(crate) fn push(&mut self, nodes: &mut Held<'_>, class: Class, node: u32) {
        let class = class % CLASSES;
        let head = self.heads[class];
        self.heads[class] = node;
        // Where `head` is NIL this writes a field of the sentinel that nobody reads.
        nodes[head].back = node;
        nodes[node].forth = head;
        self.words[class / 64] |= 1 << (class % 64);
        self.top |= 1 << (class / 64);
    }

    /// Takes `node` out of the list of `class`, which must be its list.
    #[inline(always)]
    pub(crate) fn remove(&mut self, nodes: &mut Held<'_>, class: Class, node: u32) {
        let class = class % CLASSES;
        let forth = nodes[node].forth;
        if self.heads[class] != node {
            let back = nodes[node].back;
            nodes[back].forth = forth;
            nodes[forth].back = back;
            return;
        }
        self.heads[class] = forth;
        if forth == NIL {
            let word = &mut self.words[class / 64];
            *word &= !(1 << (class % 64));
            if *word == 0 {
                self.top &= !(1 << (class / 64));
            }
        }
    }

    /// Changes the size of a free block of `class`, moving it to another list if
    /// need be.
    #[inline(always)]
    pub(crate) fn resize(&mut self, nodes: &mut Held<'_>, class: Class, node: u32, size: u32) {
        nodes.span(node).size = size;
        let now = class_of(size);
        if now != class {
            self.remove(nodes, class, node);
            self.push(nodes, now, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn edges() -> Vec<u32> {
        let mut sizes: Vec<u32> = (1..2000).collect();
        for bit in 5..32 {
            for step in 16..32u32 {
                let edge = step << (bit - 4);
                sizes.extend([edge - 1, edge, edge + 1]);
            }
        }
        sizes.push(u32::MAX);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    #[test]
    fn classes_rise_with_size_and_are_narrow() {
        let mut last = 0;
        for size in edges() {
            let class = class_of(size);
            assert!(class >= last && class < CLASSES, "{size}: {last}, {class}");
            let above = size.saturating_add(size / 16 + 1);
            assert!(above == u32::MAX || class_of(above) > class, "{size}");
            last = class;
        }
        assert_eq!(last, CLASSES - 1);
    }

    #[test]
    fn the_holding_class_is_the_lowest_of_which_every_block_fits() {
        let sizes = edges();
        for want in &sizes {
            let class = class_holding(*want);
            for size in &sizes {
                assert!(class_of(*size) < class || size >= want, "{want}: {size}");
            }
            let below = sizes.iter().filter(|s| class_of(**s) + 1 == class);
            assert!(below.clone().count() == 0 || below.clone().any(|s| s < want));
        }
    }
}
