//! Receipts.

use core::num::NonZeroU32;

use crate::generation::{LIVE, Stamp, shift_of};
use core::fmt;

/// The receipt for an allocated piece of a [`Heap`](crate::Heap).
///
/// It can be moved but not copied, so a block cannot be freed twice; dropping it
/// leaves the block allocated (it can still be given back through
/// [`Heap::free_at`](crate::Heap::free_at)).
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

    /// Whether the block is that many granules from that granule on.
    #[inline]
    pub(crate) fn is_at(&self, offset: u32, size: u32) -> bool {
        self.offset == offset && self.size == size
    }

    /// Takes the receipt apart into plain numbers.
    pub fn into_parts(self) -> BlockParts {
        BlockParts {
            offset: self.offset(),
            size: self.size(),
            generation: self.generation(),
            node: self.node,
        }
    }

    /// Puts a receipt together from plain numbers, which may be anything: the
    /// heap checks all of them when the block comes back. `None` for numbers that
    /// no receipt has, such as size zero.
    pub fn from_parts(parts: BlockParts) -> Option<Self> {
        let stamp = Some(parts.generation).filter(|s| s & LIVE != 0)?;
        let shift = shift_of(stamp);
        let granules = |bytes: u64| {
            let granules = u32::try_from(bytes >> shift).ok()?;
            (u64::from(granules) << shift == bytes).then_some(granules)
        };
        let (offset, size) = (granules(parts.offset)?, granules(parts.size)?);
        parts.offset.checked_add(parts.size)?;
        (size != 0).then(|| Self::new(offset, size, stamp, parts.node))
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

/// A [`Block`] as plain numbers, for storage behind foreign interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockParts {
    /// See [`Block::offset`].
    pub offset: u64,
    /// See [`Block::size`].
    pub size: u64,
    /// See [`Block::generation`].
    pub generation: u64,
    /// Where the heap keeps the block's record.
    pub node: u32,
}
