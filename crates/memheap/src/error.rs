//! What can go wrong. Every error leaves the heap as it was.

use core::fmt;

use crate::Block;

/// Why [`Heap::alloc`](crate::Heap::alloc) handed out nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// Zero bytes were asked for.
    ZeroSize,
    /// The alignment is not a power of two, or exceeds the heap's size.
    Alignment {
        /// Asked for, in bytes.
        align: u64,
        /// The heap's size in bytes.
        limit: u64,
    },
    /// More was asked for than is free in all.
    OutOfSpace {
        /// Asked for, in bytes.
        size: u64,
        /// Free bytes.
        free: u64,
    },
    /// Enough is free, but no free block holds the size at that alignment.
    Fragmented {
        /// Asked for, in bytes.
        size: u64,
        /// Asked for, in bytes.
        align: u64,
        /// Free bytes.
        free: u64,
        /// Bytes of the largest free block. Where more blocks are of its size
        /// class than the search limit, of the largest among so many of them: up
        /// to a sixteenth less.
        largest: u64,
    },
    /// The search ended at its limit. A free block that holds the size at that
    /// alignment may exist: a higher limit would tell.
    SearchLimit {
        /// Asked for, in bytes.
        size: u64,
        /// Asked for, in bytes.
        align: u64,
        /// Free bytes.
        free: u64,
        /// Free blocks that were looked at; see
        /// [`Heap::set_search_limit`](crate::Heap::set_search_limit).
        limit: u32,
    },
    /// The process has no memory for the heap's own records.
    NoRecords {
        /// Records in use: live blocks and free blocks.
        records: usize,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => f.write_str("allocation of zero bytes"),
            Self::Alignment { align, limit } => write!(
                f,
                "alignment {align} is not a power of two up to the heap's size {limit}"
            ),
            Self::OutOfSpace { size, free } => {
                write!(f, "{size} bytes wanted, {free} bytes free")
            }
            Self::Fragmented {
                size,
                align,
                free,
                largest,
            } => write!(
                f,
                "{size} bytes wanted at alignment {align} fit nowhere: {free} bytes are free, the largest piece has {largest}"
            ),
            Self::SearchLimit {
                size,
                align,
                free,
                limit,
            } => write!(
                f,
                "{size} bytes wanted at alignment {align} fit in none of {limit} free blocks, the limit of the search: {free} bytes are free"
            ),
            Self::NoRecords { records } => {
                write!(f, "no memory for records beyond the {records} in use")
            }
        }
    }
}

impl core::error::Error for AllocError {}

/// Why [`Heap::free`](crate::Heap::free) refused a receipt, which it returns.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// No live block of this heap has that receipt: another heap handed it out,
    /// or the block was freed by its offset.
    NotLive {
        /// The receipt, unchanged.
        block: Block,
    },
}

impl FreeError {
    /// The receipt that was refused.
    pub fn into_block(self) -> Block {
        match self {
            Self::NotLive { block } => block,
        }
    }
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLive { block } => write!(
                f,
                "block of {} bytes at {}, generation {:#x}, is not allocated in this heap",
                block.size(),
                block.offset(),
                block.generation()
            ),
        }
    }
}

impl core::error::Error for FreeError {}

/// Why [`Heap::free_at`](crate::Heap::free_at) freed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeAtError {
    /// No live block starts there.
    NotAllocated {
        /// The offset that was given, in bytes.
        offset: u64,
    },
    /// The offset lies outside the heap.
    OutOfRange {
        /// The offset that was given, in bytes.
        offset: u64,
        /// The heap's capacity in bytes.
        limit: u64,
    },
    /// The process has no memory for the index of offsets.
    NoRecords {
        /// Live blocks to index.
        records: usize,
    },
}

impl fmt::Display for FreeAtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllocated { offset } => write!(f, "no block is allocated at {offset}"),
            Self::OutOfRange { offset, limit } => {
                write!(f, "offset {offset} is outside the heap of {limit} bytes")
            }
            Self::NoRecords { records } => {
                write!(f, "no memory for an index of {records} blocks")
            }
        }
    }
}

impl core::error::Error for FreeAtError {}

/// Why [`Heap::grow`](crate::Heap::grow) added nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrowError {
    /// The sum exceeds what the heap's granule can reach.
    TooLarge {
        /// The heap's size in bytes.
        size: u64,
        /// Bytes that were to be added.
        by: u64,
        /// The largest size that the heap can have, in bytes.
        limit: u64,
    },
    /// The process has no memory for the heap's own records.
    NoRecords {
        /// Records in use: live blocks and free blocks.
        records: usize,
    },
}

impl fmt::Display for GrowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size, by, limit } => write!(
                f,
                "a heap of {size} bytes cannot grow by {by}: its granule reaches {limit} bytes"
            ),
            Self::NoRecords { records } => {
                write!(f, "no memory for records beyond the {records} in use")
            }
        }
    }
}

impl core::error::Error for GrowError {}

/// Why [`Heap::with_granule`](crate::Heap::with_granule) made no heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GranuleError {
    /// The granule is not a power of two.
    NotPowerOfTwo {
        /// The granule that was given, in bytes.
        granule: u64,
    },
    /// The size is more than 2^32 - 1 granules.
    TooFine {
        /// The granule that was given, in bytes.
        granule: u64,
        /// The finest granule for the size, in bytes.
        limit: u64,
    },
}

impl fmt::Display for GranuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPowerOfTwo { granule } => {
                write!(f, "granule {granule} is not a power of two")
            }
            Self::TooFine { granule, limit } => write!(
                f,
                "granule {granule} is too fine for the heap's size, which needs at least {limit}"
            ),
        }
    }
}

impl core::error::Error for GranuleError {}
