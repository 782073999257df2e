//! Size classes: which list a free block hangs in, and which lists fit a size.
//!
//! Sizes are in granules. Up to 16 each size is a class of its own; above,
//! each power of two is cut into 16 classes of equal width, so sizes in a class
//! differ by less than one part in 16.

use crate::nodes::{NIL, Node};

/// log2 of the classes per power of two.
const STEP_BITS: u32 = 4;
/// Classes that a 32-bit size can fall into.
const CLASSES: usize = ((32 - STEP_BITS as usize) << STEP_BITS) + (1 << STEP_BITS);
/// Room for one class more, which is always empty, and for indices to be cut to
/// size by a mask.
const SLOTS: usize = (CLASSES + 1).next_power_of_two();
const WORDS: usize = SLOTS / 64;

/// Index of a list of free blocks.
pub(crate) type Class = usize;

/// Bits of a size that its class does not see.
#[inline]
fn dropped_bits(size: u32) -> u32 {
    (31 - STEP_BITS) - (size | (1 << STEP_BITS)).leading_zeros()
}

/// The class that a free block of `size` belongs to.
#[inline]
pub(crate) fn class_of(size: u32) -> Class {
    let dropped = dropped_bits(size);
    ((dropped << STEP_BITS) as usize) + (size >> dropped) as usize
}

/// The lowest class whose every block holds `size`. May be one past the last.
#[inline]
pub(crate) fn class_holding(size: u32) -> Class {
    let dropped = dropped_bits(size);
    let rest = size & ((1 << dropped) - 1);
    ((dropped << STEP_BITS) as usize) + (size >> dropped) as usize + usize::from(rest != 0)
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
    heads: [u32; SLOTS],
}

impl Classes {
    pub(crate) const fn new() -> Self {
        Self {
            top: 0,
            words: [0; WORDS],
            heads: [NIL; SLOTS],
        }
    }

    /// First block of a list, [`NIL`] when it is empty.
    #[inline]
    pub(crate) fn head(&self, class: Class) -> u32 {
        self.heads[class % SLOTS]
    }

    /// The lowest class at or above `class` with a block in it.
    #[inline]
    pub(crate) fn first_from(&self, class: Class) -> Option<Class> {
        let word = class / 64;
        let here = self.words[word % WORDS] & (!0 << (class % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let above = self.top & (!1 << word);
        if above == 0 {
            return None;
        }
        let word = above.trailing_zeros() as usize;
        Some(word * 64 + self.words[word % WORDS].trailing_zeros() as usize)
    }

    /// The highest class with a block in it.
    pub(crate) fn last(&self) -> Option<Class> {
        let word = self.top.checked_ilog2()? as usize;
        Some(word * 64 + self.words[word].checked_ilog2()? as usize)
    }

    /// Puts `node` at the front of a list. `node` must be in no list.
    #[inline]
    pub(crate) fn push(&mut self, nodes: &mut [Node], class: Class, node: u32) {
        let head = core::mem::replace(&mut self.heads[class % SLOTS], node);
        // Where `head` is NIL this writes a field of the sentinel that nobody reads.
        nodes[head as usize].back = node;
        let slot = &mut nodes[node as usize];
        slot.back = NIL;
        slot.forth = head;
        self.words[class / 64 % WORDS] |= 1 << (class % 64);
        self.top |= 1 << (class / 64);
    }

    /// Takes `node` out of the list of `class`, which must be its list.
    #[inline]
    pub(crate) fn remove(&mut self, nodes: &mut [Node], class: Class, node: u32) {
        let Node { back, forth, .. } = nodes[node as usize];
        nodes[forth as usize].back = back;
        if back != NIL {
            nodes[back as usize].forth = forth;
            return;
        }
        self.heads[class % SLOTS] = forth;
        if forth == NIL {
            let word = &mut self.words[class / 64 % WORDS];
            *word &= !(1 << (class % 64));
            if *word == 0 {
                self.top &= !(1 << (class / 64));
            }
        }
    }

    /// Changes the size of a free block, moving it to another list if need be.
    #[inline]
    pub(crate) fn resize(&mut self, nodes: &mut [Node], node: u32, from: u32, to: u32) {
        nodes[node as usize].size = to;
        let (was, is) = (class_of(from), class_of(to));
        if was != is {
            self.remove(nodes, was, node);
            self.push(nodes, is, node);
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
                let edge = if bit >= 4 { step << (bit - 4) } else { step };
                sizes.extend([edge.wrapping_sub(1), edge, edge.wrapping_add(1)]);
            }
        }
        sizes.push(u32::MAX);
        sizes.retain(|s| *s != 0);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    #[test]
    fn classes_are_monotonic_contiguous_and_in_range() {
        let mut last = 0;
        for size in edges() {
            let class = class_of(size);
            assert!(
                class == last || class == last + 1,
                "size {size}: {last} then {class}"
            );
            assert!(class < CLASSES);
            last = class;
        }
        assert_eq!(last, CLASSES - 1);
    }

    #[test]
    fn every_block_of_the_holding_class_is_large_enough() {
        let sizes = edges();
        for want in &sizes {
            let class = class_holding(*want);
            let lowest = sizes.iter().find(|s| class_of(**s) == class);
            assert!(lowest.is_none_or(|s| s >= want), "{want}");
            assert!(class == class_of(*want) || class == class_of(*want) + 1);
        }
    }
}
