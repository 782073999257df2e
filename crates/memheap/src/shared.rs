//! A heap for many threads.

use spin::mutex::SpinMutex;

use crate::{AllocError, Block, FreeError, Heap};

/// A [`Heap`] that many threads allocate from.
pub struct SharedHeap {
    heap: SpinMutex<Heap>,
}

impl From<Heap> for SharedHeap {
    fn from(heap: Heap) -> Self {
        Self {
            heap: SpinMutex::new(heap),
        }
    }
}

impl SharedHeap {
    /// See [`Heap::alloc`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    pub fn alloc(&self, size: u64, align: u64) -> Result<Block, AllocError> {
        self.heap.lock().alloc(size, align)
    }

    /// See [`Heap::free`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    pub fn free(&self, block: Block) -> Result<(), FreeError> {
        self.heap.lock().free(block)
    }
}
