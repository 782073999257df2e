//! Looking at a heap.

use core::fmt;

use crate::nodes::NIL;
use crate::tiles::Tiles;
use crate::{Heap, Stats};

impl Heap {
    /// Bytes of the largest free block, exactly: the largest size that can be
    /// allocated at an alignment of one granule. Zero when nothing is free.
    ///
    /// Looks through the list of the highest size class in use.
    pub fn largest_free(&self) -> u64 {
        self.bytes(self.tiles.largest_free(usize::MAX))
    }

    /// The heap's figures. As cheap as [`largest_free`](Self::largest_free).
    pub fn stats(&self) -> Stats {
        let free = self.bytes(self.free);
        let largest_free = self.largest_free();
        Stats {
            capacity: self.capacity(),
            used: self.bytes(self.units() - self.free),
            free,
            blocks: self.live,
            free_blocks: self.tiles.nodes.blocks() - self.live,
            largest_free,
            fragmentation: if free == 0 {
                0.0
            } else {
                1.0 - largest_free as f64 / free as f64
            },
            peak_used: self.bytes(self.peak()),
            high_water: self.bytes(self.high_water),
        }
    }

    /// The live blocks in order of address, as byte ranges.
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks {
            tiles: &self.tiles,
            next: self.tiles.first(),
            shift: self.shift,
            left: self.live,
        }
    }
}

impl<'a> IntoIterator for &'a Heap {
    type Item = core::ops::Range<u64>;
    type IntoIter = Blocks<'a>;

    fn into_iter(self) -> Blocks<'a> {
        self.blocks()
    }
}

/// Iterator over live blocks in order of address; see [`Heap::blocks`].
#[derive(Clone)]
pub struct Blocks<'a> {
    tiles: &'a Tiles,
    next: u32,
    shift: u32,
    left: usize,
}

impl Iterator for Blocks<'_> {
    type Item = core::ops::Range<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next != NIL {
            let free = self.tiles.nodes.is_free(self.next);
            let span = self.tiles.nodes.span(self.next);
            self.next = self.tiles.nodes[self.next].next;
            if !free {
                self.left -= 1;
                let start = u64::from(span.offset) << self.shift;
                return Some(start..start + (u64::from(span.size) << self.shift));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Blocks<'_> {}
impl core::iter::FusedIterator for Blocks<'_> {}

impl fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("granule", &self.granule())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
