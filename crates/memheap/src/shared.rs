//! A heap for many threads.

#[cfg(not(loom))]
use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

#[cfg(loom)]
use loom::sync::Arc;

use crate::lock::Lock;
use crate::{AllocError, Block, FreeAtError, FreeError, GrowError, Heap, Stats};

/// A [`Heap`] that many threads allocate from. Clones are the same heap.
///
/// A spin lock guards it: operations take tens of nanoseconds, less than putting
/// a thread to sleep. With the feature `std`, a thread that waits for long offers
/// its core to others. Threads of different real-time priority should not share
/// one without it.
#[derive(Clone)]
pub struct SharedHeap {
    heap: Arc<Lock<Heap>>,
}

impl From<Heap> for SharedHeap {
    fn from(heap: Heap) -> Self {
        Self {
            heap: Arc::new(Lock::new(heap)),
        }
    }
}

impl SharedHeap {
    /// See [`Heap::new`]; for another granule use `SharedHeap::from(heap)`.
    pub fn new(size: u64) -> Self {
        Heap::new(size).into()
    }

    /// Allocates a block that must be given back by [`free`](Self::free); see
    /// [`Heap::alloc`].
    ///
    /// # Errors
    /// See [`AllocError`].
    #[inline]
    pub fn alloc(&self, size: u64, align: u64) -> Result<Block, AllocError> {
        self.with(|heap| heap.alloc(size, align))
    }

    /// Allocates a block that gives itself back when it is dropped.
    ///
    /// # Errors
    /// See [`AllocError`].
    pub fn alloc_owned(&self, size: u64, align: u64) -> Result<SharedBlock, AllocError> {
        Ok(SharedBlock {
            block: self.alloc(size, align)?,
            heap: Some(self.clone()),
        })
    }

    /// See [`Heap::free`].
    ///
    /// # Errors
    /// See [`FreeError`].
    #[inline]
    pub fn free(&self, block: Block) -> Result<(), FreeError> {
        self.with(|heap| heap.free(block))
    }

    /// See [`Heap::free_at`].
    ///
    /// # Errors
    /// See [`FreeAtError`].
    pub fn free_at(&self, offset: u64) -> Result<(), FreeAtError> {
        self.with(|heap| heap.free_at(offset))
    }

    /// See [`Heap::grow`].
    ///
    /// # Errors
    /// See [`GrowError`].
    pub fn grow(&self, by: u64) -> Result<(), GrowError> {
        self.with(|heap| heap.grow(by))
    }

    /// See [`Heap::shrink_to_fit`].
    pub fn shrink_to_fit(&self) -> u64 {
        self.with(Heap::shrink_to_fit)
    }

    /// See [`Heap::capacity`].
    pub fn capacity(&self) -> u64 {
        self.with(|heap| heap.capacity())
    }

    /// See [`Heap::granule`].
    pub fn granule(&self) -> u64 {
        self.with(|heap| heap.granule())
    }

    /// See [`Heap::set_search_limit`].
    pub fn set_search_limit(&self, blocks: u32) {
        self.with(|heap| heap.set_search_limit(blocks));
    }

    /// See [`Heap::largest_free`].
    pub fn largest_free(&self) -> u64 {
        self.with(|heap| heap.largest_free())
    }

    /// See [`Heap::stats`].
    pub fn stats(&self) -> Stats {
        self.with(|heap| heap.stats())
    }

    /// Several operations that no other thread comes between. All other threads
    /// wait meanwhile; calling this heap from within waits forever.
    #[inline]
    pub fn with<R>(&self, action: impl FnOnce(&mut Heap) -> R) -> R {
        self.heap.with(action)
    }
}

/// As a [`Heap`] draws itself.
impl fmt::Display for SharedHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|heap| fmt::Display::fmt(heap, f))
    }
}

impl fmt::Debug for SharedHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        let mut debug = f.debug_struct("SharedHeap");
        debug.field("stats", &stats).finish_non_exhaustive()
    }
}

/// A block that is freed when it is dropped, and keeps its heap until then.
#[derive(Debug)]
#[must_use = "dropping it frees the block"]
pub struct SharedBlock {
    block: Block,
    /// `None` when the block has another owner.
    heap: Option<SharedHeap>,
}

impl SharedBlock {
    /// The plain receipt; nobody frees the block any more on its own.
    pub fn into_block(mut self) -> Block {
        self.heap = None;
        self.block.duplicate()
    }
}

impl Deref for SharedBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

impl Drop for SharedBlock {
    fn drop(&mut self) {
        if let Some(heap) = self.heap.take() {
            // Refused only when the block was freed by its offset before.
            drop(heap.free(self.block.duplicate()));
        }
    }
}
