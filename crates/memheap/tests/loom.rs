//! Every interleaving of two threads on a shared heap:
//! `RUSTFLAGS="--cfg loom" cargo test -p memheap --features sync --test loom`.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "tests")]

use loom::thread;
use memheap::SharedHeap;

#[test]
fn live_blocks_never_overlap_and_free_space_merges() {
    loom::model(|| {
        let heap = SharedHeap::new(256);
        let other = heap.clone();
        let thread = thread::spawn(move || {
            let first = other.alloc(64, 64).unwrap();
            let second = other.alloc(64, 1).unwrap();
            other.free(first).unwrap();
            second
        });
        let mine = heap.alloc(64, 1).unwrap();
        let theirs = thread.join().unwrap();
        assert!(mine.end() <= theirs.offset() || theirs.end() <= mine.offset());
        heap.free(mine).unwrap();
        heap.free(theirs).unwrap();
        assert_eq!(heap.largest_free(), 256);
    });
}

#[test]
fn the_last_bytes_go_to_one_thread() {
    loom::model(|| {
        let heap = SharedHeap::new(64);
        let other = heap.clone();
        let thread = thread::spawn(move || other.alloc_owned(64, 1).ok());
        let mine = heap.alloc_owned(64, 1).ok();
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        drop((mine, theirs));
        assert_eq!(heap.stats().used, 0);
    });
}

#[test]
fn a_block_freed_by_offset_and_by_its_owner_is_freed_once() {
    loom::model(|| {
        let heap = SharedHeap::new(64);
        let owned = heap.alloc_owned(64, 1).unwrap();
        let other = heap.clone();
        let thread = thread::spawn(move || {
            let freed = other.free_at(0).is_ok();
            (freed, other.alloc(64, 1).ok())
        });
        drop(owned);
        let (freed, next) = thread.join().unwrap();
        // Whoever frees it, the other finds it gone; what is there now is new.
        let live = heap.stats().blocks;
        assert_eq!(live, usize::from(next.is_some()));
        assert!(!freed || next.is_some());
    });
}
