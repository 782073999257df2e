//! The blocks of a heap, live and free, as they tile it.

use crate::classes::{Class, Classes, class_of};
use crate::nodes::{Links, NIL, Nodes, Span};
use crate::place::Large;

/// Nodes that one [`Tiles::carve`] can need: the block, and what is left above
/// it when something is also left below.
pub(crate) const NODES_PER_CARVE: u32 = 2;

/// A ring of neighbours through the sentinel, and the lists of the free ones.
///
/// # Invariants
/// The blocks tile the heap without gap or overlap; no two neighbours are both
/// free; every free block hangs in the list of its size class and no other.
#[derive(Debug)]
pub(crate) struct Tiles {
    pub(crate) nodes: Nodes,
    pub(crate) classes: Classes,
    pub(crate) large: Large,
    /// Blocks that an allocation looks at where no class is certain to hold it.
    pub(crate) search_limit: u32,
}

impl Tiles {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Nodes::new(),
            classes: Classes::new(),
            large: Large::NONE,
            search_limit: crate::Heap::SEARCH_LIMIT,
        }
    }

    /// Makes the lowest `units` granules of the free block `node`, which hangs in
    /// `class`, a live block. Returns its node and first granule.
    /// [`NODES_PER_CARVE`] spares must stand ready, here and below.
    #[inline(always)]
    pub(crate) fn carve(&mut self, node: u32, class: Class, units: u32, stamp: u64) -> (u32, u32) {
        let classes = &mut self.classes;
        let nodes = &mut self.nodes.hold();
        let Span { offset, size } = *nodes.span(node);
        let above = size - units;
        if above == 0 {
            classes.remove(nodes, class, node);
            nodes.clear_free(node);
            nodes[node].set_stamp(stamp);
            return (node, offset);
        }
        let prev = nodes[node].prev;
        nodes.span(node).offset = offset + units;
        let block = nodes.take();
        nodes[node].prev = block;
        nodes[prev].next = block;
        let size = units;
        *nodes.span(block) = Span { offset, size };
        nodes[block].prev = prev;
        nodes[block].next = node;
        nodes[block].set_stamp(stamp);
        classes.resize(nodes, class, node, above);
        (block, offset)
    }

    /// As [`Self::carve`], but leaves `front` granules, not zero, free below.
    pub(crate) fn carve_above(
        &mut self,
        node: u32,
        front: u32,
        units: u32,
        stamp: u64,
    ) -> (u32, u32) {
        let classes = &mut self.classes;
        let nodes = &mut self.nodes.hold();
        let Span { offset, size } = *nodes.span(node);
        let start = offset + front;
        let above = size - front - units;
        let mut next = nodes[node].next;
        let block = nodes.take();
        nodes[node].next = block;
        if above != 0 {
            let rest = nodes.take();
            nodes[next].prev = rest;
            *nodes.span(rest) = Span {
                offset: start + units,
                size: above,
            };
            nodes[rest].prev = block;
            nodes[rest].next = next;
            nodes.set_free(rest);
            classes.push(nodes, class_of(above), rest);
            next = rest;
        } else {
            nodes[next].prev = block;
        }
        *nodes.span(block) = Span {
            offset: start,
            size: units,
        };
        nodes[block].prev = node;
        nodes[block].next = next;
        nodes[block].set_stamp(stamp);
        classes.resize(nodes, class_of(size), node, front);
        (block, start)
    }

    /// Makes a live block free and merges it with free neighbours.
    #[inline(always)]
    pub(crate) fn release(&mut self, node: u32, Span { offset, size }: Span) {
        let classes = &mut self.classes;
        let nodes = &mut self.nodes.hold();
        let Links { prev, next, .. } = nodes[node];
        match (nodes.is_free(prev), nodes.is_free(next)) {
            (false, false) => {
                nodes.set_free(node);
                classes.push(nodes, class_of(size), node);
            }
            (true, false) => {
                nodes.give(node);
                nodes[prev].next = next;
                nodes[next].prev = prev;
                let below = nodes.span(prev).size;
                classes.resize(nodes, class_of(below), prev, below + size);
            }
            (false, true) => {
                nodes.give(node);
                nodes[prev].next = next;
                nodes[next].prev = prev;
                let above = nodes.span(next).size;
                nodes.span(next).offset = offset;
                classes.resize(nodes, class_of(above), next, size + above);
            }
            (true, true) => {
                let (below, above) = (nodes.span(prev).size, nodes.span(next).size);
                let after = nodes[next].next;
                classes.remove(nodes, class_of(above), next);
                nodes.clear_free(next);
                nodes.give(next);
                nodes.give(node);
                nodes[prev].next = after;
                nodes[after].prev = prev;
                classes.resize(nodes, class_of(below), prev, below + size + above);
            }
        }
    }

    /// Adds free granules at the end, which is at `offset`. A spare node must
    /// stand ready.
    pub(crate) fn append(&mut self, offset: u32, units: u32) {
        let classes = &mut self.classes;
        let nodes = &mut self.nodes.hold();
        let last = nodes[NIL].prev;
        if nodes.is_free(last) {
            let size = nodes.span(last).size;
            classes.resize(nodes, class_of(size), last, size + units);
        } else {
            let node = nodes.take();
            *nodes.span(node) = Span {
                offset,
                size: units,
            };
            nodes[node].prev = last;
            nodes[node].next = NIL;
            nodes[last].next = node;
            nodes[NIL].prev = node;
            nodes.set_free(node);
            classes.push(nodes, class_of(units), node);
        }
    }

    /// Takes off the free block at the end, if there is one, and returns its
    /// first granule and size.
    pub(crate) fn cut_end(&mut self) -> Option<(u32, u32)> {
        let nodes = &mut self.nodes.hold();
        let last = nodes[NIL].prev;
        if !nodes.is_free(last) {
            return None;
        }
        let Span { offset, size } = *nodes.span(last);
        let prev = nodes[last].prev;
        self.classes.remove(nodes, class_of(size), last);
        nodes.clear_free(last);
        nodes.give(last);
        nodes[prev].next = NIL;
        nodes[NIL].prev = prev;
        Some((offset, size))
    }

    /// Live and free blocks in order of address.
    pub(crate) fn first(&self) -> u32 {
        self.nodes[NIL].next
    }
}
