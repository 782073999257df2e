//! The search for a free block.

use crate::classes::{Class, class_holding, class_of};
use crate::nodes::{NIL, Span};
use crate::tiles::Tiles;

/// In place of an offset: no free block holds the request.
pub(crate) const NOTHING_FITS: u32 = 0;
/// In place of an offset: the search ended at its limit.
pub(crate) const GAVE_UP: u32 = 1;

/// The largest size that was ever asked for, and its class.
///
/// A smaller request that finds nothing smaller than such a hole takes a hole
/// that holds both, if there is one below the end of the heap, so that the next
/// large request need not go to the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Large {
    size: u32,
    class: Class,
}

impl Large {
    pub(crate) const NONE: Self = Self { size: 0, class: 0 };
}

impl Tiles {
    /// Makes `units` granules at a multiple of `align` granules, which is a power
    /// of two, a live block. Returns its node and first granule, or [`NIL`] and
    /// [`NOTHING_FITS`] or [`GAVE_UP`].
    #[inline(always)]
    pub(crate) fn place(&mut self, units: u32, align: u32, stamp: u64) -> (u32, u32) {
        let Some(mut class) = self.classes.first_from(class_holding(units)) else {
            return self.place_anywhere(units, align, stamp);
        };
        let large = self.large;
        if class >= large.class {
            class = self.beside_large(class, units);
        }
        let node = self.classes.head(class);
        if self.nodes.span(node).offset & (align - 1) != 0 {
            let placed = self.place_above(node, units, align, stamp);
            if placed.0 == NIL {
                // A request that was refused leaves no trace.
                self.large = large;
            }
            return placed;
        }
        self.carve(node, class, units, stamp)
    }

    /// The class to take a block for `units` from, given the lowest that holds
    /// them, in which the largest request fits too.
    fn beside_large(&mut self, class: Class, units: u32) -> Class {
        if units >= self.large.size {
            self.large.size = units;
            self.large.class = class_of(units);
            return class;
        }
        let both = class_holding(self.large.size.saturating_add(units));
        match self.classes.first_from(both) {
            Some(roomy) if self.nodes[self.classes.head(roomy)].next != NIL => roomy,
            _ => class,
        }
    }

    /// As [`Self::place`], where `node` holds `units` but does not start at a
    /// multiple of `align`.
    fn place_above(&mut self, node: u32, units: u32, align: u32, stamp: u64) -> (u32, u32) {
        if let Some(front) = self.front(node, units, align) {
            return self.carve_above(node, front, units, stamp);
        }
        // Wherever such a block starts, an aligned place in it is large enough.
        let roomy = class_holding(units.saturating_add(align - 1));
        let node = self.classes.first_from(roomy).map(|c| self.classes.head(c));
        match node.and_then(|node| Some((node, self.front(node, units, align)?))) {
            Some((node, 0)) => {
                let class = class_of(self.nodes.span(node).size);
                self.carve(node, class, units, stamp)
            }
            Some((node, front)) => self.carve_above(node, front, units, stamp),
            None => self.place_anywhere(units, align, stamp),
        }
    }

    /// As [`Self::place`], looking through blocks that may fit, large ones first:
    /// those are few, and the likeliest to fit a large alignment. Gives up after
    /// [`Self::search_limit`] of them.
    #[cold]
    fn place_anywhere(&mut self, units: u32, align: u32, stamp: u64) -> (u32, u32) {
        let lowest = class_of(units);
        let mut left = self.search_limit;
        let mut next = self.classes.last();
        while let Some(class) = next.filter(|class| *class >= lowest) {
            let mut found = None;
            for node in self.list(class) {
                if left == 0 {
                    return (NIL, GAVE_UP);
                }
                left -= 1;
                found = self.front(node, units, align).map(|front| (node, front));
                if found.is_some() {
                    break;
                }
            }
            match found {
                Some((node, 0)) => return self.carve(node, class, units, stamp),
                Some((node, front)) => return self.carve_above(node, front, units, stamp),
                None => next = self.classes.last_below(class),
            }
        }
        (NIL, NOTHING_FITS)
    }

    /// Granules between the start of a free block and the first multiple of
    /// `align` in it, if `units` fit from there.
    fn front(&self, node: u32, units: u32, align: u32) -> Option<u32> {
        let Span { offset, size } = self.nodes.span(node);
        let front = offset.wrapping_neg() & (align - 1);
        let fits = u64::from(front) + u64::from(units) <= u64::from(size);
        fits.then_some(front)
    }

    /// The blocks of one class.
    fn list(&self, class: Class) -> impl Iterator<Item = u32> + '_ {
        let first = Some(self.classes.head(class)).filter(|n| *n != NIL);
        core::iter::successors(first, |node| {
            Some(self.nodes[*node].forth).filter(|n| *n != NIL)
        })
    }

    /// Granules of the largest free block, if no more than `limit` blocks are of
    /// its class; else of the largest among so many of these.
    pub(crate) fn largest_free(&self, limit: usize) -> u32 {
        let largest = self.classes.last().and_then(|class| {
            let sizes = self.list(class).map(|node| self.nodes.span(node).size);
            sizes.take(limit).max()
        });
        largest.unwrap_or(0)
    }
}
