//! Figures about a heap.

/// A snapshot of a heap's figures. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// What the heap manages: its size rounded down to whole granules.
    pub capacity: u64,
    /// In live blocks.
    pub used: u64,
    /// In free blocks; `used + free == capacity`.
    pub free: u64,
    /// Live blocks.
    pub blocks: usize,
    /// Free blocks.
    pub free_blocks: usize,
    /// The largest free block.
    pub largest_free: u64,
    /// External fragmentation, `1 - largest_free / free`: 0 when all that is free
    /// is in one piece (or nothing is free), near 1 when it is in dust.
    pub fragmentation: f64,
    /// The highest `used` so far.
    pub peak_used: u64,
    /// High-water mark: the highest end of any block so far.
    pub high_water: u64,
}
