#![expect(clippy::unwrap_used, reason = "tests")]
//! Once warm, the heap asks the global allocator for nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use memheap::{Block, Heap};

struct Counting;

thread_local! {
    /// Of this thread: the test runner's own may allocate meanwhile.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// Fills the heap with small blocks, empties it, then many rounds of other sizes.
fn churn(heap: &mut Heap, blocks: &mut Vec<Block>, by_offset: bool) -> usize {
    let mut before = 0;
    for round in 0..200u64 {
        if round == 1 {
            before = CALLS.get();
        }
        let size = if round == 0 {
            1
        } else {
            1 + round * 7919 % 500
        };
        while blocks.len() < blocks.capacity()
            && let Ok(block) = heap.alloc(size, 1 << (round % 5))
        {
            blocks.push(block);
        }
        let keep = (round % 3) as usize * blocks.len() / 4;
        for (i, block) in blocks.drain(keep..).enumerate() {
            if by_offset && i % 2 == 0 {
                heap.free_at(block.offset()).unwrap();
            } else {
                heap.free(block).unwrap();
            }
        }
    }
    CALLS.get() - before
}

#[test]
fn a_warm_heap_does_not_allocate() {
    for by_offset in [false, true] {
        let mut heap = Heap::new(100_000);
        let mut blocks = Vec::with_capacity(20_000);
        assert_eq!(churn(&mut heap, &mut blocks, by_offset), 0);
        assert!(heap.stats().peak_used > 0);
    }
}
