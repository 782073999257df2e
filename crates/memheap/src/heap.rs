//! The heap itself: allocate and free.

use alloc::vec::Vec;

use crate::classes::{Classes, class_of};
use crate::find::Large;
use crate::generation::Stamps;
use crate::index::OffsetIndex;
use crate::nodes::{self, NIL, Node, Spares};
use crate::{AllocError, Block, FreeAtError, FreeError, GranuleError};

/// Nodes that one allocation can need: the block, and what is left above it
/// when something is also left below.
const NODES_PER_ALLOC: u32 = 2;

/// Nodes that a new heap has.
const SPARES_AT_FIRST: u32 = 15;

/// log2 of the finest granule for a size.
fn finest_shift(size: u64) -> u32 {
    (u64::BITS - size.leading_zeros()).saturating_sub(u32::BITS)
}

/// An allocator of offsets in `0..size`.
///
/// [`alloc`](Self::alloc) and [`free`](Self::free) take constant time; see
/// there for the one exception. Blocks are rounded up to the granule, and every
/// offset is a multiple of it. A heap has at most 2^32 - 1 granules.
///
/// # Invariants
/// Live and free blocks tile the heap; no two neighbours are both free; every
/// free block hangs in the list of its size class.
pub struct Heap {
    pub(crate) nodes: Vec<Node>,
    pub(crate) spares: Spares,
    pub(crate) classes: Classes,
    large: Large,
    /// Present once [`Heap::free_at`] has been used.
    pub(crate) index: Option<OffsetIndex>,
    /// Bytes, as given.
    pub(crate) size: u64,
    /// log2 of the granule.
    pub(crate) shift: u32,
    /// Granules in free blocks.
    pub(crate) free: u32,
    /// Granules in live blocks at most, before the heap last changed its size.
    peak: u32,
    /// Granules in free blocks at least, since then.
    least_free: u32,
    /// Highest end of a block so far, in granules.
    pub(crate) high_water: u32,
    stamps: Stamps,
    pub(crate) live: usize,
}

impl Heap {
    /// A heap of `size` bytes with the finest granule that reaches so far: one
    /// byte below 4 GiB, two bytes below 8 GiB, and so on.
    ///
    /// Bookkeeping memory is allocated as blocks come to be, and reused.
    pub fn new(size: u64) -> Self {
        Self::with_shift(size, finest_shift(size))
    }

    /// A heap of `size` bytes that hands out multiples of `granule` bytes.
    ///
    /// A coarser granule leaves fewer odd pieces behind, and more room to
    /// [`grow`](Self::grow). Where `size` is not a multiple of `granule`, the rest
    /// at the end is not used.
    ///
    /// # Errors
    /// See [`GranuleError`].
    pub fn with_granule(size: u64, granule: u64) -> Result<Self, GranuleError> {
        if !granule.is_power_of_two() {
            return Err(GranuleError::NotPowerOfTwo { granule });
        }
        let (shift, finest) = (granule.trailing_zeros(), finest_shift(size));
        if shift < finest {
            return Err(GranuleError::TooFine {
                granule,
                limit: 1 << finest,
            });
        }
        Ok(Self::with_shift(size, shift))
    }

    fn with_shift(size: u64, shift: u32) -> Self {
        let (nodes, spares) = nodes::with_spares(SPARES_AT_FIRST);
        let units = (size >> shift) as u32;
        let mut heap = Self {
            nodes,
            spares,
            classes: Classes::new(),
            large: Large::NONE,
            index: None,
            size,
            shift,
            free: units,
            peak: 0,
            least_free: units,
            high_water: 0,
            stamps: Stamps::new(shift),
            live: 0,
        };
        if units != 0 {
            heap.append(0, units);
        }
        heap
    }

    /// Bytes that the heap manages: its size, rounded down to whole granules.
    pub fn capacity(&self) -> u64 {
        self.bytes(self.units())
    }

    /// The unit of sizes and offsets, in bytes; a power of two.
    pub fn granule(&self) -> u64 {
        1 << self.shift
    }

    /// Granules in live blocks at most, so far.
    pub(crate) fn peak(&self) -> u32 {
        self.peak.max(self.units() - self.least_free)
    }

    /// Notes the peak, and then starts anew with another size in bytes and so
    /// many granules free.
    pub(crate) fn set_extent(&mut self, size: u64, free: u32) {
        self.peak = self.peak();
        self.size = size;
        self.free = free;
        self.least_free = free;
    }

    /// Granules in all.
    #[inline]
    pub(crate) fn units(&self) -> u32 {
        (self.size >> self.shift) as u32
    }

    #[inline]
    pub(crate) fn bytes(&self, units: u32) -> u64 {
        u64::from(units) << self.shift
    }

    /// Allocates `size` bytes at a multiple of `align`.
    ///
    /// Takes constant time: the search looks at two lists of free blocks at most,
    /// in each of which any block will do. Only when both are empty, that is when
    /// the heap is about to fail, it looks through what else might fit, so that
    /// it fails only when no free block holds the request.
    ///
    /// # Errors
    /// See [`AllocError`]; the heap is as it was.
    #[inline]
    pub fn alloc(&mut self, size: u64, align: u64) -> Result<Block, AllocError> {
        if size == 0 || !align.is_power_of_two() {
            return Err(self.why_not(size, align));
        }
        let Ok(units) = u32::try_from(((size - 1) >> self.shift) + 1) else {
            return Err(self.why_not(size, align));
        };
        if self.spares.count() < NODES_PER_ALLOC || self.index.is_some() {
            self.make_room()?;
        }
        let (node, offset) = if align >> self.shift <= 1 {
            self.place(units)
        } else if align <= self.size {
            // Fits, since the heap's size in granules does.
            self.place_aligned(units, (align >> self.shift) as u32)
        } else {
            (NIL, 0)
        };
        if node == NIL {
            return Err(self.why_not(size, align));
        }
        if let Some(index) = &mut self.index {
            index.insert(&self.nodes, node);
        }
        Ok(Block::new(offset, units, self.stamps.last(), node))
    }

    /// A new live block's node and first granule; [`NIL`] when nothing fits.
    fn place(&mut self, units: u32) -> (u32, u32) {
        self.large.note(units);
        match self.classes.find(&self.large, &self.nodes, units) {
            Some((_, free)) => self.carve(free, 0, units),
            None => (NIL, 0),
        }
    }

    /// As [`Self::place`], on a multiple of `align` granules.
    fn place_aligned(&mut self, units: u32, align: u32) -> (u32, u32) {
        self.large.note(units);
        let found = self
            .classes
            .find_aligned(&self.large, &self.nodes, units, align);
        match found {
            Some((_, free, front)) => self.carve(free, front, units),
            None => (NIL, 0),
        }
    }

    /// Turns `units` granules of a free block into a live block; `front` granules
    /// below it stay free.
    #[inline(always)]
    fn carve(&mut self, free: u32, front: u32, units: u32) -> (u32, u32) {
        let Self {
            nodes,
            spares,
            classes,
            ..
        } = self;
        let nodes = nodes.as_mut_slice();
        let stamp = self.stamps.next();
        let Node {
            offset,
            size,
            prev,
            next,
            ..
        } = nodes[free as usize];
        let start = offset + front;
        let back = size - front - units;

        let block = if front == 0 && back == 0 {
            classes.remove(nodes, class_of(size), free);
            nodes[free as usize].set_stamp(stamp.get());
            free
        } else if front == 0 {
            let block = spares.take(nodes, Node::live(start, units, prev, free, stamp));
            nodes[prev as usize].next = block;
            nodes[free as usize].prev = block;
            nodes[free as usize].offset = start + units;
            classes.resize(nodes, free, size, back);
            block
        } else {
            let block = spares.take(nodes, Node::live(start, units, free, next, stamp));
            let mut above = block;
            if back != 0 {
                above = spares.take(nodes, Node::free(start + units, back, block, next));
                nodes[block as usize].next = above;
                classes.push(nodes, class_of(back), above);
            }
            nodes[next as usize].prev = above;
            nodes[free as usize].next = block;
            classes.resize(nodes, free, size, front);
            block
        };
        self.live += 1;
        self.free -= units;
        self.least_free = self.least_free.min(self.free);
        self.high_water = self.high_water.max(start + units);
        (block, start)
    }

    /// The error for a request that found nothing.
    #[cold]
    fn why_not(&self, size: u64, align: u64) -> AllocError {
        let free = self.bytes(self.free);
        if size == 0 {
            AllocError::ZeroSize
        } else if !align.is_power_of_two() {
            AllocError::Alignment {
                align,
                limit: self.size,
            }
        } else if size > free {
            AllocError::OutOfSpace { size, free }
        } else if align > self.size {
            AllocError::Alignment {
                align,
                limit: self.size,
            }
        } else {
            AllocError::Fragmented {
                size,
                align,
                free,
                largest: self.largest_free(),
            }
        }
    }

    /// Grows the bookkeeping so that an allocation cannot run out half-way.
    #[cold]
    fn make_room(&mut self) -> Result<(), AllocError> {
        let records = self.records();
        let failed = |_| AllocError::NoRecords { records };
        nodes::reserve(&mut self.nodes, &mut self.spares, NODES_PER_ALLOC).map_err(failed)?;
        if let Some(index) = &mut self.index {
            index.reserve(&self.nodes).map_err(failed)?;
        }
        Ok(())
    }

    /// Nodes that are blocks.
    pub(crate) fn records(&self) -> usize {
        self.nodes.len() - 1 - self.spares.count() as usize
    }

    /// Gives a block back and merges it with free neighbours.
    ///
    /// # Errors
    /// See [`FreeError`]; it holds the receipt, and the heap is as it was.
    #[inline]
    pub fn free(&mut self, block: Block) -> Result<(), FreeError> {
        match self.nodes.get(block.node() as usize) {
            Some(node) if node.stamp() == block.stamp() && block.is_at(node.offset, node.size) => {
                if let Some(index) = &mut self.index {
                    index.remove(&self.nodes, block.node());
                }
                self.release(block.node());
                Ok(())
            }
            _ => Err(FreeError::NotLive { block }),
        }
    }

    /// Frees the live block that starts at `offset`, for callers who can keep no
    /// more than a number. Its receipt is stale afterwards.
    ///
    /// The first call builds an index of the live blocks, which takes time in
    /// proportion to their number; from then on allocating and freeing keep it up
    /// to date and this call takes expected constant time.
    ///
    /// # Errors
    /// See [`FreeAtError`]; the heap is as it was.
    pub fn free_at(&mut self, offset: u64) -> Result<(), FreeAtError> {
        if offset >= self.capacity() {
            return Err(FreeAtError::OutOfRange {
                offset,
                limit: self.capacity(),
            });
        }
        let index = match &mut self.index {
            Some(index) => index,
            none => {
                let built = OffsetIndex::build(&self.nodes, self.live);
                let records = self.live;
                none.insert(built.map_err(|_| FreeAtError::NoRecords { records })?)
            }
        };
        let not_allocated = FreeAtError::NotAllocated { offset };
        if offset & ((1 << self.shift) - 1) != 0 {
            return Err(not_allocated);
        }
        let node = index.find(&self.nodes, (offset >> self.shift) as u32);
        let node = node.ok_or(not_allocated)?;
        index.remove(&self.nodes, node);
        self.release(node);
        Ok(())
    }

    /// Makes a live block free.
    fn release(&mut self, node: u32) {
        let Self {
            nodes,
            spares,
            classes,
            ..
        } = self;
        let nodes = nodes.as_mut_slice();
        let Node {
            offset,
            size,
            prev,
            next,
            ..
        } = nodes[node as usize];
        let below = nodes[prev as usize];
        let above = nodes[next as usize];
        self.free += size;
        self.live -= 1;
        match (below.is_free(), above.is_free()) {
            (false, false) => classes.push(nodes, class_of(size), node),
            (true, false) => {
                nodes[prev as usize].next = next;
                nodes[next as usize].prev = prev;
                spares.give(nodes, node);
                classes.resize(nodes, prev, below.size, below.size + size);
            }
            (false, true) => {
                nodes[prev as usize].next = next;
                nodes[next as usize].prev = prev;
                nodes[next as usize].offset = offset;
                spares.give(nodes, node);
                classes.resize(nodes, next, above.size, size + above.size);
            }
            (true, true) => {
                classes.remove(nodes, class_of(above.size), next);
                nodes[prev as usize].next = above.next;
                nodes[above.next as usize].prev = prev;
                spares.give(nodes, node);
                spares.give(nodes, next);
                let merged = below.size + size + above.size;
                classes.resize(nodes, prev, below.size, merged);
            }
        }
    }
}
