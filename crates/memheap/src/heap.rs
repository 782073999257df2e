//! The heap itself: allocate and free.

use crate::classes::{Class, Classes, class_of};
use crate::generation::Stamps;
use crate::index::OffsetIndex;
use crate::nodes::{NIL, Node, Nodes};
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
    pub(crate) nodes: Nodes,
    pub(crate) classes: Classes,
    /// Present once [`Heap::free_at`] has been used.
    pub(crate) index: Option<OffsetIndex>,
    /// Bytes, as given.
    pub(crate) size: u64,
    /// log2 of the granule.
    pub(crate) shift: u32,
    /// Granules in free blocks.
    pub(crate) free: u32,
    /// Granules in live blocks at most, so far.
    pub(crate) peak: u32,
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
        let mut heap = Self {
            nodes: Nodes::with_spares(SPARES_AT_FIRST),
            classes: Classes::new(),
            index: None,
            size,
            shift,
            free: 0,
            peak: 0,
            high_water: 0,
            stamps: Stamps::new(shift),
            live: 0,
        };
        if heap.units() != 0 {
            heap.append(0, heap.units());
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
        if self.nodes.spares() < NODES_PER_ALLOC || self.index.is_some() {
            self.make_room()?;
        }
        let found = if align >> self.shift <= 1 {
            let found = self.classes.find(&self.nodes, units);
            found.map(|(class, free)| (class, free, 0))
        } else if align <= self.size {
            // Fits, since the heap's size in granules does.
            let align = (align >> self.shift) as u32;
            self.classes.find_aligned(&self.nodes, units, align)
        } else {
            None
        };
        match found {
            Some((class, free, front)) => Ok(self.carve(class, free, front, units)),
            None => Err(self.why_not(size, align)),
        }
    }

    /// Turns `units` granules of the free block `free`, which hangs in `class`,
    /// into a live block; `front` granules below it stay free.
    #[inline]
    fn carve(&mut self, class: Class, free: u32, front: u32, units: u32) -> Block {
        let Node {
            offset,
            size,
            prev,
            next,
            ..
        } = self.nodes[free];
        let start = offset + front;
        let back = size - front - units;
        self.free -= units;
        self.live += 1;
        self.peak = self.peak.max(self.units() - self.free);
        self.high_water = self.high_water.max(start + units);
        let stamp = self.stamps.next();

        let block = match (front, back) {
            (0, 0) => {
                self.classes.remove(&mut self.nodes, class, free);
                self.nodes[free].set_stamp(stamp.get());
                free
            }
            (0, _) => {
                let block = self.nodes.take(Node::live(start, units, prev, free, stamp));
                self.nodes[prev].next = block;
                self.nodes[free].prev = block;
                self.nodes[free].offset = start + units;
                self.resize_free(class, free, back);
                block
            }
            (_, 0) => {
                let block = self.nodes.take(Node::live(start, units, free, next, stamp));
                self.nodes[next].prev = block;
                self.nodes[free].next = block;
                self.resize_free(class, free, front);
                block
            }
            (_, _) => {
                let block = self.nodes.take(Node::live(start, units, free, NIL, stamp));
                let above = self
                    .nodes
                    .take(Node::free(start + units, back, block, next));
                self.nodes[block].next = above;
                self.nodes[next].prev = above;
                self.nodes[free].next = block;
                self.resize_free(class, free, front);
                self.classes.push(&mut self.nodes, class_of(back), above);
                block
            }
        };
        if let Some(index) = &mut self.index {
            index.insert(&self.nodes, block);
        }
        Block::new(start, units, stamp, block)
    }

    /// Changes the size of a free block, moving it to another list if need be.
    #[inline]
    pub(crate) fn resize_free(&mut self, class: Class, free: u32, size: u32) {
        self.nodes[free].size = size;
        let now = class_of(size);
        if now != class {
            self.classes.remove(&mut self.nodes, class, free);
            self.classes.push(&mut self.nodes, now, free);
        }
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
        let records = self.nodes.in_use();
        let failed = |_| AllocError::NoRecords { records };
        self.nodes.reserve(NODES_PER_ALLOC).map_err(failed)?;
        if let Some(index) = &mut self.index {
            index.reserve(&self.nodes).map_err(failed)?;
        }
        Ok(())
    }

    /// Gives a block back and merges it with free neighbours.
    ///
    /// # Errors
    /// See [`FreeError`]; it holds the receipt, and the heap is as it was.
    #[inline]
    pub fn free(&mut self, block: Block) -> Result<(), FreeError> {
        match self.nodes.get(block.node()) {
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
    #[inline]
    fn release(&mut self, node: u32) {
        let Node {
            offset,
            size,
            prev,
            next,
            ..
        } = self.nodes[node];
        self.free += size;
        self.live -= 1;
        let below = self.nodes[prev];
        let above = self.nodes[next];
        match (below.is_free(), above.is_free()) {
            (false, false) => {
                self.classes.push(&mut self.nodes, class_of(size), node);
            }
            (true, false) => {
                self.nodes[prev].next = next;
                self.nodes[next].prev = prev;
                self.nodes.recycle(node);
                self.resize_free(class_of(below.size), prev, below.size + size);
            }
            (false, true) => {
                self.nodes[prev].next = next;
                self.nodes[next].prev = prev;
                self.nodes[next].offset = offset;
                self.nodes.recycle(node);
                self.resize_free(class_of(above.size), next, size + above.size);
            }
            (true, true) => {
                let class = class_of(above.size);
                self.classes.remove(&mut self.nodes, class, next);
                self.nodes[prev].next = above.next;
                self.nodes[above.next].prev = prev;
                self.nodes.recycle(node);
                self.nodes.recycle(next);
                let size = below.size + size + above.size;
                self.resize_free(class_of(below.size), prev, size);
            }
        }
    }
}
