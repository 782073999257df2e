//! The search for a free block.

use crate::classes::{Class, Classes, class_holding, class_of};
use crate::nodes::{NIL, Node};

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

    #[inline]
    pub(crate) fn note(&mut self, size: u32) {
        if size > self.size {
            self.size = size;
            self.class = class_of(size);
        }
    }
}

impl Classes {
    /// A free block that holds `size` granules, and its class.
    #[inline]
    pub(crate) fn find(&self, large: &Large, nodes: &[Node], size: u32) -> Option<(Class, u32)> {
        match self.first_from(class_holding(size)) {
            Some(class) if class >= large.class && size < large.size => {
                Some(self.find_beside(large, nodes, size, class))
            }
            Some(class) => Some((class, self.head(class))),
            None => self.find_in_own_class(nodes, size),
        }
    }

    #[inline]
    fn find_beside(&self, large: &Large, nodes: &[Node], size: u32, class: Class) -> (Class, u32) {
        if let Some(roomy) = self.first_from(class_holding(large.size.saturating_add(size))) {
            let node = self.head(roomy);
            if nodes[node as usize].next != NIL {
                return (roomy, node);
            }
        }
        (class, self.head(class))
    }

    /// Looks through the one class of which some blocks fit and some do not.
    #[cold]
    fn find_in_own_class(&self, nodes: &[Node], size: u32) -> Option<(Class, u32)> {
        let class = class_of(size);
        let node = self
            .list(nodes, class)
            .find(|n| nodes[*n as usize].size >= size)?;
        Some((class, node))
    }

    /// A free block that holds `size` granules at a multiple of `align` granules,
    /// its class, and the granules to leave free below.
    pub(crate) fn find_aligned(
        &self,
        large: &Large,
        nodes: &[Node],
        size: u32,
        align: u32,
    ) -> Option<(Class, u32, u32)> {
        if let Some((class, node)) = self.find(large, nodes, size)
            && let Some(front) = front_to_align(nodes, node, size, align)
        {
            return Some((class, node, front));
        }
        // Wherever such a block starts, an aligned place in it is large enough.
        let roomy = size.checked_add(align - 1);
        if let Some(class) = roomy.and_then(|size| self.first_from(class_holding(size))) {
            let node = self.head(class);
            let front = front_to_align(nodes, node, size, align)?;
            return Some((class, node, front));
        }
        self.find_aligned_anywhere(nodes, size, align)
    }

    /// Looks through every block that may fit.
    #[cold]
    fn find_aligned_anywhere(
        &self,
        nodes: &[Node],
        size: u32,
        align: u32,
    ) -> Option<(Class, u32, u32)> {
        let mut next = self.first_from(class_of(size));
        while let Some(class) = next {
            for node in self.list(nodes, class) {
                if let Some(front) = front_to_align(nodes, node, size, align) {
                    return Some((class, node, front));
                }
            }
            next = self.first_from(class + 1);
        }
        None
    }

    /// The blocks of one class.
    pub(crate) fn list<'a>(
        &self,
        nodes: &'a [Node],
        class: Class,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let first = Some(self.head(class)).filter(|n| *n != NIL);
        core::iter::successors(first, |node| {
            Some(nodes[*node as usize].forth).filter(|n| *n != NIL)
        })
    }
}

/// Granules between the start of a free block and the first multiple of `align`
/// in it, if `size` fits behind them.
#[inline]
fn front_to_align(nodes: &[Node], node: u32, size: u32, align: u32) -> Option<u32> {
    let node = &nodes[node as usize];
    let front = node.offset.wrapping_neg() & (align - 1);
    (front <= node.size && node.size - front >= size).then_some(front)
}
