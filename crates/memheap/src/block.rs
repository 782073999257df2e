//! Receipts.

use core::num::NonZeroU32;

use crate::generation::{LIVE, Stamp, shift_of};
use crate::nodes::Span;
use core::fmt;

/// The receipt for an allocated piece of a [`Heap`](crate::Heap).
///
/// It can be moved but not copied, so a block cannot be freed twice; dropping it
/// leaves the block allocated (it can still be given back through
/// [`Heap::free_at`](crate::Heap::free_at)).
///
/// ```compile_fail,E0382
/// let mut heap = memheap::Heap::new(4096);
/// let block = heap.alloc(64, 64)?;
/// heap.free(block)?;
/// heap.free(block)?; // moved above
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Invariants
/// The generation is unique among all blocks that heaps of this process ever
/// handed out, so a heap recognises a receipt that does not stand for one of its
/// live blocks.
// 20 bytes: programs keep one per live block, and freeing in any order reads
// them in any order.
#[derive(PartialEq, Eq, Hash)]
#[must_use = "a block that is dropped stays allocated"]
pub struct Block {
    /// In granules.
    offset: u32,
    /// In granules.
    size: u32,
    stamp_low: u32,
    /// Has the bit that marks live blocks.
    stamp_high: NonZeroU32,
    node: u32,
}

const LIVE_HIGH: NonZeroU32 = match NonZeroU32::new((LIVE >> 32) as u32) {
    Some(bit) => bit,
    None => NonZeroU32::MAX,
};

impl Block {
    #[inline]
    pub(crate) fn new(offset: u32, size: u32, stamp: Stamp, node: u32) -> Self {
        Self {
            offset,
            size,
            stamp_low: stamp as u32,
            stamp_high: LIVE_HIGH | (stamp >> 32) as u32,
            node,
        }
    }

    /// Distance from the start of the heap, in bytes.
    #[inline]
    pub fn offset(&self) -> u64 {
        u64::from(self.offset) << shift_of(self.stamp())
    }

    /// Bytes that belong to the block: what was asked for, rounded up to the
    /// heap's granule. Never zero.
    #[inline]
    pub fn size(&self) -> u64 {
        u64::from(self.size) << shift_of(self.stamp())
    }

    /// One past the last byte.
    #[inline]
    pub fn end(&self) -> u64 {
        self.offset() + self.size()
    }

    /// The block's bytes as offsets from the start of the heap.
    #[inline]
    pub fn range(&self) -> core::ops::Range<u64> {
        self.offset()..self.end()
    }

    /// Number of the allocation, which no other allocation of this process has.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.stamp()
    }

    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        u64::from(self.stamp_high.get()) << 32 | u64::from(self.stamp_low)
    }

    #[inline]
    pub(crate) fn node(&self) -> u32 {
        self.node
    }

    /// For an owner that is about to disappear.
    #[cfg(feature = "sync")]
    pub(crate) fn duplicate(&self) -> Self {
        Self { ..*self }
    }

    /// In granules.
    #[inline]
    pub(crate) fn span(&self) -> Span {
        Span {
            offset: self.offset,
            size: self.size,
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("offset", &self.offset())
            .field("size", &self.size())
            .field("generation", &format_args!("{:#x}", self.generation()))
            .finish_non_exhaustive()
    }
}
