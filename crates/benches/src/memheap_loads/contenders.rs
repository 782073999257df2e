//! The allocators behind one interface.

use std::sync::{Mutex, PoisonError};

use super::load::{Load, Request};
use super::run::Contender;

/// The unit of `offset-allocator` and of others that know no alignment: with
/// it every block is on a 4 KiB boundary, as the loads ask.
const UNIT: u64 = 4096;

impl Contender for memheap::Heap {
    type Handle = memheap::Block;

    fn build(load: &Load) -> Option<Self> {
        memheap::Heap::with_granule(load.heap_size(), load.granule).ok()
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(memheap::Block, u64)> {
        let block = self.alloc(request.size, request.align).ok()?;
        let offset = block.offset();
        Some((block, offset))
    }

    #[inline]
    fn free(&mut self, block: memheap::Block) {
        // A refused block would show up as a failure to allocate.
        drop(self.free(block));
    }
}

impl Contender for memheap::SharedHeap {
    type Handle = memheap::Block;

    fn build(load: &Load) -> Option<Self> {
        Some(memheap::Heap::build(load)?.into())
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(memheap::Block, u64)> {
        let block = memheap::SharedHeap::alloc(self, request.size, request.align).ok()?;
        let offset = block.offset();
        Some((block, offset))
    }

    #[inline]
    fn free(&mut self, block: memheap::Block) {
        drop(memheap::SharedHeap::free(self, block));
    }
}

/// Any other behind a mutex.
pub struct Locked<C>(Mutex<C>);

impl<C: Contender> Contender for Locked<C> {
    type Handle = C::Handle;

    fn build(load: &Load) -> Option<Self> {
        Some(Self(Mutex::new(C::build(load)?)))
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(C::Handle, u64)> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.alloc(request)
    }

    #[inline]
    fn free(&mut self, handle: C::Handle) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.free(handle);
    }
}

impl Contender for offset_allocator::Allocator {
    type Handle = offset_allocator::Allocation;

    fn build(load: &Load) -> Option<Self> {
        let units = u32::try_from(load.heap_size() / UNIT).ok()?;
        // A node for each block and for each gap between blocks.
        let nodes = u32::try_from(2 * load.slots + 64).ok()?;
        Some(Self::with_max_allocs(units, nodes))
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(Self::Handle, u64)> {
        let units = request.size.div_ceil(UNIT) as u32;
        let allocation = self.allocate(units)?;
        Some((allocation, u64::from(allocation.offset) * UNIT))
    }

    #[inline]
    fn free(&mut self, allocation: Self::Handle) {
        self.free(allocation);
    }
}

/// `range-alloc`, with sizes rounded up to the load's granule for its best.
pub struct RangeAlloc {
    ranges: range_alloc::RangeAllocator<u64>,
    granule: u64,
}

impl Contender for RangeAlloc {
    type Handle = std::ops::Range<u64>;

    fn build(load: &Load) -> Option<Self> {
        Some(Self {
            ranges: range_alloc::RangeAllocator::new(0..load.heap_size()),
            granule: load.granule,
        })
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(Self::Handle, u64)> {
        let size = request.size.next_multiple_of(self.granule);
        let range = self.ranges.allocate_range_aligned(size, request.align);
        let range = range.ok()?;
        let offset = range.start;
        Some((range, offset))
    }

    #[inline]
    fn free(&mut self, range: Self::Handle) {
        self.ranges.free_range(range);
    }
}
