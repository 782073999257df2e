//! The search for a free block.

use crate::classes::{Class, class_holding, class_of};
use crate::nodes::NIL;
use crate::tiles::{Place, Tiles};

/// The largest size that was ever asked for, and its class.
///
/// A smaller request that finds nothing smaller than such a hole takes a hole
/// that holds both, if there is one below the end of the heap, so that the next
/// large request need not go to the end.
#[derive(Debug)]
pub(crate) struct Large {
    size: u32,
    class: Class,
}

impl Large {
    pub(crate) const NONE: Self = Self { size: 0, class: 0 };
}

impl Tiles {
    /// A place for `units` granules.
    #[inline(always)]
    pub(crate) fn find(&mut self, units: u32) -> Option<Place> {
        let found = self.classes.first_from(class_holding(units));
        let Some(class) = found else {
            return self.find_in_own_class(units);
        };
        if class >= self.large.class {
            return Some(self.find_beside_large(class, units));
        }
        Some(self.front_of(class))
    }

    #[inline(always)]
    fn front_of(&self, class: Class) -> Place {
        Place {
            node: self.classes.head(class),
            class,
            front: 0,
        }
    }

    /// A place for `units`, given the lowest class that holds them, in which the
    /// largest request fits too.
    fn find_beside_large(&mut self, class: Class, units: u32) -> Place {
        if units >= self.large.size {
            self.large.size = units;
            self.large.class = class_of(units);
            return self.front_of(class);
        }
        let both = class_holding(self.large.size.saturating_add(units));
        if let Some(roomy) = self.classes.first_from(both) {
            let place = self.front_of(roomy);
            if self.nodes[place.node].next != NIL {
                return place;
            }
        }
        self.front_of(class)
    }

    /// Looks through the one class of which some blocks fit and some do not.
    #[cold]
    fn find_in_own_class(&self, units: u32) -> Option<Place> {
        let class = class_of(units);
        let node = self.list(class).find(|n| self.nodes[*n].size >= units)?;
        Some(Place {
            node,
            class,
            front: 0,
        })
    }

    /// A place for `units` granules at a multiple of `align` granules, which is a
    /// power of two.
    #[inline(always)]
    pub(crate) fn find_aligned(&mut self, units: u32, align: u32) -> Option<Place> {
        let place = self.find(units)?;
        if let Some(place) = self.aligned(place, units, align) {
            return Some(place);
        }
        self.find_aligned_elsewhere(units, align)
    }

    fn find_aligned_elsewhere(&self, units: u32, align: u32) -> Option<Place> {
        // Wherever such a block starts, an aligned place in it is large enough.
        let roomy = units.checked_add(align - 1);
        let class = roomy.and_then(|units| self.classes.first_from(class_holding(units)));
        match class {
            Some(class) => self.aligned(self.front_of(class), units, align),
            None => self.find_aligned_anywhere(units, align),
        }
    }

    /// Looks through every block that may fit.
    #[cold]
    fn find_aligned_anywhere(&self, units: u32, align: u32) -> Option<Place> {
        let mut next = self.classes.first_from(class_of(units));
        while let Some(class) = next {
            for node in self.list(class) {
                let front = 0;
                let place = Place { node, class, front };
                if let Some(place) = self.aligned(place, units, align) {
                    return Some(place);
                }
            }
            next = self.classes.first_from(class + 1);
        }
        None
    }

    /// The place moved up to a multiple of `align`, if `units` fit there.
    #[inline(always)]
    fn aligned(&self, place: Place, units: u32, align: u32) -> Option<Place> {
        let node = &self.nodes[place.node];
        let front = node.offset.wrapping_neg() & (align - 1);
        let fits = u64::from(front) + u64::from(units) <= u64::from(node.size);
        fits.then_some(Place { front, ..place })
    }

    /// The blocks of one class.
    fn list(&self, class: Class) -> impl Iterator<Item = u32> + '_ {
        let first = Some(self.classes.head(class)).filter(|n| *n != NIL);
        core::iter::successors(first, |node| {
            Some(self.nodes[*node].forth).filter(|n| *n != NIL)
        })
    }

    /// Granules of the largest free block.
    pub(crate) fn largest_free(&self) -> u32 {
        let largest = self.classes.last().and_then(|class| {
            let sizes = self.list(class).map(|node| self.nodes[node].size);
            sizes.max()
        });
        largest.unwrap_or(0)
    }
}
