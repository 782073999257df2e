//! The allocators behind one interface.

use std::sync::{Mutex, PoisonError};

use super::load::{self, Load, Request};
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

/// Blocks of one size: what an allocator touches at least, a record of the block
/// and the end of a stack. How it slows down as blocks grow in number is what the
/// caches do to anybody.
pub struct FixedSizePool {
    records: Vec<[u64; 3]>,
    unused: Vec<u32>,
}

impl Contender for FixedSizePool {
    type Handle = u32;

    fn build(load: &Load) -> Option<Self> {
        let slots = u32::try_from(load.slots).ok()?;
        Some(Self {
            records: vec![[0; 3]; load.slots],
            unused: (0..slots).rev().collect(),
        })
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(u32, u64)> {
        let block = self.unused.pop()?;
        let offset = u64::from(block) * load::LARGEST;
        self.records[block as usize] = [offset, request.size, 1];
        Some((block, offset))
    }

    #[inline]
    fn free(&mut self, block: u32) {
        // As a heap does, look before believing the handle.
        let record = &mut self.records[block as usize];
        if record[2] == 1 {
            record[2] = 0;
            self.unused.push(block);
        }
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
