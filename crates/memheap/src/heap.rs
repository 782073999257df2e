//! The heap itself: allocate and free.

use crate::generation::Stamps;
use crate::index::OffsetIndex;
use crate::nodes::{NIL, Span};
use crate::place::{GAVE_UP, NOTHING_FITS};
use crate::tiles::{NODES_PER_CARVE, Tiles};
use crate::{AllocError, Block, FreeAtError, FreeError, GranuleError};

/// log2 of the finest granule for a size.
fn finest_shift(size: u64) -> u32 {
    (u64::BITS - size.leading_zeros()).saturating_sub(u32::BITS)
}

/// An allocator of offsets in `0..size`.
///
/// [`alloc`](Self::alloc) and [`free`](Self::free) take constant time. Blocks are rounded up to the granule, and every
/// offset is a multiple of it. A heap has at most 2^32 - 1 granules.
pub struct Heap {
    pub(crate) tiles: Tiles,
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
        let units = (size >> shift) as u32;
        let mut tiles = Tiles::new();
        if units != 0 {
            tiles.append(0, units);
        }
        Self {
            tiles,
            index: None,
            size,
            shift,
            free: units,
            peak: 0,
            least_free: units,
            high_water: 0,
            stamps: Stamps::new(shift),
            live: 0,
        }
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

    /// The number of free blocks that [`alloc`](Self::alloc) looks at before it
    /// gives up, in a heap that was not told otherwise. Looking at so many takes a few
    /// microseconds, or, where none of their records is in a cache, a hundred.
    pub const SEARCH_LIMIT: u32 = 256;

    /// Sets the number of free blocks that [`alloc`](Self::alloc) looks at when no
    /// list has only blocks that fit. It bounds the time that an allocation takes.
    ///
    /// With `u32::MAX` an allocation fails only when no free block holds it, and
    /// may take time linear in their number. With 0 it finds only what is certain
    /// to fit: a free block one sixteenth larger than the request, or larger by
    /// the alignment where that is coarser than the granule.
    pub fn set_search_limit(&mut self, blocks: u32) {
        self.tiles.search_limit = blocks;
    }

    /// Allocates `size` bytes at a multiple of `align`.
    ///
    /// Takes constant time. Usually some list of free blocks has only blocks that
    /// fit. When none has (the heap is nearly full or in small pieces, or the
    /// alignment is larger than most of them), it looks through the blocks that may
    /// fit, largest first, and gives up at the
    /// [search limit](Self::set_search_limit).
    ///
    /// # Errors
    /// See [`AllocError`]; the heap is as it was.
    #[inline]
    pub fn alloc(&mut self, size: u64, align: u64) -> Result<Block, AllocError> {
        let units = (size >> self.shift) + u64::from(size & (self.granule() - 1) != 0);
        let (node, offset) = self.place(units, align);
        if node == NIL {
            return Err(self.why_not(size, align, offset == GAVE_UP));
        }
        let stamp = self.stamps.last();
        Ok(Block::new(offset, units as u32, stamp, node))
    }

    /// A new live block's node and first granule; [`NIL`] and [`GAVE_UP`] or
    /// another number when there is none.
    fn place(&mut self, units: u64, align: u64) -> (u32, u32) {
        // The first condition holds for zero too.
        if units.wrapping_sub(1) >= u64::from(self.free)
            || !align.is_power_of_two()
            || align > self.size
        {
            return (NIL, NOTHING_FITS);
        }
        if (self.tiles.nodes.spares() < NODES_PER_CARVE || self.index.is_some())
            && !self.make_room()
        {
            return (NIL, NOTHING_FITS);
        }
        let units = units as u32;
        // Fits, since the heap's size in granules does.
        let align = (align >> self.shift) as u32;
        let stamp = self.stamps.next();
        let (node, start) = self.tiles.place(units, align.max(1), stamp);
        if node != NIL {
            self.live += 1;
            self.free -= units;
            self.least_free = self.least_free.min(self.free);
            self.high_water = self.high_water.max(start + units);
            if let Some(index) = &mut self.index {
                index.insert(&self.tiles.nodes, node);
            }
        }
        (node, start)
    }

    /// The error for a request that found nothing.
    #[cold]
    fn why_not(&self, size: u64, align: u64, gave_up: bool) -> AllocError {
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
        } else if self.lacks_room() {
            AllocError::NoRecords {
                records: self.tiles.nodes.blocks(),
            }
        } else if gave_up {
            AllocError::SearchLimit {
                size,
                align,
                free,
                limit: self.tiles.search_limit,
            }
        } else {
            let limit = self.tiles.search_limit as usize;
            AllocError::Fragmented {
                size,
                align,
                free,
                largest: self.bytes(self.tiles.largest_free(limit.max(1))),
            }
        }
    }

    /// Grows the bookkeeping so that an allocation cannot run out half-way.
    #[cold]
    fn make_room(&mut self) -> bool {
        let nodes = self.tiles.nodes.reserve(NODES_PER_CARVE);
        let index = self.index.as_mut();
        let index = index.map_or(Ok(()), |index| index.reserve(&self.tiles.nodes));
        nodes.and(index).is_ok()
    }

    /// Whether [`Self::make_room`] has failed.
    fn lacks_room(&self) -> bool {
        let index = self.index.as_ref();
        self.tiles.nodes.spares() < NODES_PER_CARVE || index.is_some_and(OffsetIndex::is_full)
    }

    /// Gives a block back and merges it with free neighbours.
    ///
    /// # Errors
    /// See [`FreeError`]; it holds the receipt, and the heap is as it was.
    #[inline]
    pub fn free(&mut self, block: Block) -> Result<(), FreeError> {
        if self.tiles.nodes.stamp(block.node()) != Some(block.stamp()) {
            return Err(FreeError::NotLive { block });
        }
        self.release(block.node(), block.span());
        Ok(())
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
                let built = OffsetIndex::build(&self.tiles, self.live);
                let records = self.live;
                none.insert(built.map_err(|_| FreeAtError::NoRecords { records })?)
            }
        };
        let not_allocated = FreeAtError::NotAllocated { offset };
        if offset & ((1 << self.shift) - 1) != 0 {
            return Err(not_allocated);
        }
        let node = index.find(&self.tiles.nodes, (offset >> self.shift) as u32);
        let node = node.ok_or(not_allocated)?;
        self.release(node, self.tiles.nodes.span(node));
        Ok(())
    }

    /// Makes a live block free.
    fn release(&mut self, node: u32, span: Span) {
        if let Some(index) = &mut self.index {
            index.remove(&self.tiles.nodes, node);
        }
        self.tiles.release(node, span);
        self.free += span.size;
        self.live -= 1;
    }
}
