//! A heap between threads.
#![cfg(all(feature = "sync", not(loom)))]

use std::sync::Barrier;
use std::thread;

use memheap::{Heap, SharedHeap};

#[test]
fn threads_never_share_a_byte() {
    const THREADS: usize = 4;
    let heap = SharedHeap::new(1 << 20);
    let start = Barrier::new(THREADS);
    let all = thread::scope(|scope| {
        let work = |thread: usize| {
            let (heap, start) = (&heap, &start);
            move || {
                start.wait();
                let mut kept = Vec::new();
                for i in 0..5_000 {
                    let block = heap.alloc(1 + (i * 31 + thread) as u64 % 300, 8).unwrap();
                    if i % 50 == 0 {
                        kept.push(block);
                    } else {
                        heap.free(block).unwrap();
                    }
                }
                kept
            }
        };
        let threads = [0, 1, 2, 3].map(|thread| scope.spawn(work(thread)));
        threads.map(|thread| thread.join().unwrap())
    });
    let mut ranges: Vec<_> = all
        .iter()
        .flatten()
        .map(|b| (b.offset(), b.end()))
        .collect();
    ranges.sort_unstable();
    assert_eq!(ranges.len(), THREADS * 100);
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    for block in all.into_iter().flatten() {
        heap.free(block).unwrap();
    }
    assert_eq!(heap.largest_free(), 1 << 20);
}

#[test]
fn an_owned_block_frees_itself_and_keeps_the_heap() {
    let heap = SharedHeap::from(Heap::with_granule(4096, 64).unwrap());
    let other = heap.clone();
    let first = heap.alloc_owned(100, 64).unwrap();
    drop(heap);
    assert_eq!((first.offset(), first.size()), (0, 128));
    assert_eq!(other.stats().used, 128);
    drop(first);
    assert_eq!(other.stats().used, 0);
    let plain = other.alloc_owned(1, 1).unwrap().into_block();
    assert_eq!(other.stats().used, 64);
    other.free(plain).unwrap();
    other.grow(4096).unwrap();
    assert_eq!(other.largest_free(), 8192);
}

#[test]
fn an_owned_block_that_was_freed_by_offset_frees_nothing_else() {
    let heap = SharedHeap::new(4096);
    let owned = heap.alloc_owned(64, 64).unwrap();
    heap.free_at(owned.offset()).unwrap();
    let again = heap.alloc(64, 64).unwrap();
    assert_eq!(again.offset(), owned.offset());
    drop(owned);
    assert_eq!(heap.stats().blocks, 1);
    assert_eq!(heap.shrink_to_fit(), 64);
    heap.free(again).unwrap();
}
