//! Receipts.

use core::num::NonZeroU64;

use crate::nodes::LIVE;

/// The receipt for an allocated piece of a [`Heap`](crate::Heap).
///
/// It can be moved but not copied, so a block cannot be freed twice; dropping it
/// leaves the block allocated (it can still be given back through
/// [`Heap::free_at`](crate::Heap::free_at)).
///
/// # Invariants
/// The generation is unique among all blocks its heap ever handed out, so a
/// receipt that was taken apart and put together again is recognised when it no
/// longer stands for a live block. It has the bit `LIVE`, which no node that is
/// not a live block has in the same place.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a block that is dropped stays allocated"]
pub struct Block {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) generation: NonZeroU64,
    pub(crate) node: u32,
    pub(crate) heap: u32,
}

impl Block {
    /// Distance from the start of the heap, in bytes.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that belong to the block: what was asked for, rounded up to the
    /// heap's granule. Never zero.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// One past the last byte.
    #[inline]
    pub fn end(&self) -> u64 {
        self.offset + self.size
    }

    /// The block's bytes as offsets from the start of the heap.
    #[inline]
    pub fn range(&self) -> core::ops::Range<u64> {
        self.offset..self.end()
    }

    /// Takes the receipt apart into plain numbers.
    #[inline]
    pub fn into_parts(self) -> BlockParts {
        BlockParts {
            offset: self.offset,
            size: self.size,
            generation: self.generation.get(),
            node: self.node,
            heap: self.heap,
        }
    }

    /// Puts a receipt together from plain numbers, which may be anything: the
    /// heap checks all of them when the block comes back. `None` for parts that no
    /// receipt can have: size zero, `offset + size` beyond 64 bits, or a
    /// generation that is never given.
    pub fn from_parts(parts: BlockParts) -> Option<Self> {
        parts.offset.checked_add(parts.size)?;
        let generation = NonZeroU64::new(parts.generation).filter(|g| g.get() & LIVE != 0)?;
        (parts.size != 0).then_some(Self {
            offset: parts.offset,
            size: parts.size,
            generation,
            node: parts.node,
            heap: parts.heap,
        })
    }
}

/// A [`Block`] as plain numbers, for storage behind foreign interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockParts {
    /// See [`Block::offset`].
    pub offset: u64,
    /// See [`Block::size`].
    pub size: u64,
    /// Serial number of the allocation within its heap, with the top bit set.
    pub generation: u64,
    /// Where the heap keeps the block's record.
    pub node: u32,
    /// Which heap of this process handed the block out.
    pub heap: u32,
}
