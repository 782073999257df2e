#![expect(clippy::unwrap_used, reason = "tests")]
//! Errors, sizes, pictures: what a caller sees.

use memheap::{AllocError, FreeAtError, GranuleError, GrowError, Heap};

#[test]
fn zero_bytes_are_an_error() {
    assert_eq!(Heap::new(64).alloc(0, 1), Err(AllocError::ZeroSize));
}

#[test]
fn too_much_and_fragmented_are_told_apart() {
    let mut heap = Heap::new(1000);
    let blocks: Vec<_> = (0..10).map(|_| heap.alloc(100, 1).unwrap()).collect();
    for block in blocks.into_iter().step_by(2) {
        heap.free(block).unwrap();
    }
    let too_much = AllocError::OutOfSpace {
        size: 501,
        free: 500,
    };
    assert_eq!(heap.alloc(501, 1), Err(too_much));
    let fragmented = AllocError::Fragmented {
        size: 101,
        align: 1,
        free: 500,
        largest: 100,
    };
    assert_eq!(heap.alloc(101, 1), Err(fragmented));
    assert_eq!(
        fragmented.to_string(),
        "101 bytes wanted at alignment 1 fit nowhere: 500 bytes are free, the largest piece has 100"
    );
    assert!((heap.stats().fragmentation - 0.8).abs() < 1e-12);
}

/// 3,000 free blocks of 1,000 bytes, which are of one size class with blocks of
/// 1,020, and one of those.
fn many_nearly_large_enough() -> Heap {
    let mut heap = Heap::new(3_100_000);
    let sizes = [1_020].into_iter().chain([1_000; 3_000]);
    let pairs = sizes.map(|size| (heap.alloc(size, 1).unwrap(), heap.alloc(1, 1).unwrap()));
    let pairs: Vec<_> = pairs.collect();
    let rest = heap.largest_free();
    let _rest = heap.alloc(rest, 1).unwrap();
    for (block, _fence) in pairs {
        heap.free(block).unwrap();
    }
    heap
}

#[test]
fn a_search_ends_at_its_limit_and_says_so() {
    let mut heap = many_nearly_large_enough();
    let free = heap.stats().free;
    let (size, align) = (1_010, 1);
    let gave_up = |limit| AllocError::SearchLimit {
        size,
        align,
        free,
        limit,
    };
    for limit in [0, 1, Heap::SEARCH_LIMIT, 3_000] {
        heap.set_search_limit(limit);
        assert_eq!(heap.alloc(size, align), Err(gave_up(limit)));
    }
    assert_eq!(
        gave_up(0).to_string(),
        "1010 bytes wanted at alignment 1 fit in none of 0 free blocks, the limit of the search: 3001020 bytes are free"
    );
    assert_eq!(heap.largest_free(), 1_020);
    heap.set_search_limit(3_001);
    let block = heap.alloc(size, align).unwrap();
    assert_eq!(block.size(), size);
}

#[test]
fn what_is_certain_to_fit_is_found_without_a_search() {
    let mut heap = many_nearly_large_enough();
    heap.set_search_limit(0);
    assert!(heap.alloc(900, 1).is_ok());
    // The figure in the error comes from a bounded look as well.
    let AllocError::Fragmented { largest, .. } = heap.alloc(2_000, 1).unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(largest, 1_000);
}

#[test]
fn alignments_are_powers_of_two_up_to_the_size() {
    let mut heap = Heap::new(4096);
    for align in [0, 3, 4095, 8192, 1 << 63, u64::MAX] {
        let error = AllocError::Alignment { align, limit: 4096 };
        assert_eq!(heap.alloc(1, align), Err(error));
    }
    let whole = heap.alloc(4096, 4096).unwrap();
    assert_eq!(whole.range(), 0..4096);
}

#[test]
fn the_front_of_an_aligned_block_stays_usable() {
    let mut heap = Heap::new(8192);
    let first = heap.alloc(1, 1).unwrap();
    let aligned = heap.alloc(4096, 4096).unwrap();
    assert_eq!(aligned.offset(), 4096);
    let between = heap.alloc(4095, 1).unwrap();
    assert_eq!(between.range(), 1..4096);
    assert_eq!(heap.stats().free, 0);
    assert_eq!(first.range(), 0..1);
}

#[test]
fn sizes_near_the_end_of_64_bits_do_not_wrap() {
    let mut heap = Heap::new(u64::MAX);
    assert_eq!(heap.granule(), 1 << 32);
    let size = u64::MAX;
    let free = heap.capacity();
    assert_eq!(
        heap.alloc(size, 1),
        Err(AllocError::OutOfSpace { size, free })
    );
    let all = heap.alloc(free, 1 << 63).unwrap();
    assert_eq!(all.end(), u64::MAX - u64::from(u32::MAX));
    let grown = heap.grow(1);
    assert!(matches!(grown, Err(GrowError::TooLarge { by: 1, .. })));
}

#[test]
fn granules_round_sizes_up_and_offsets_too() {
    assert_eq!(Heap::new(1 << 32).granule(), 2);
    assert_eq!(Heap::new((1 << 32) - 1).granule(), 1);
    let not = GranuleError::NotPowerOfTwo { granule: 48 };
    assert_eq!(Heap::with_granule(1000, 48).err(), Some(not));
    let fine = GranuleError::TooFine {
        granule: 8,
        limit: 512,
    };
    assert_eq!(Heap::with_granule(1 << 40, 8).err(), Some(fine));
    let mut heap = Heap::with_granule(1000, 64).unwrap();
    assert_eq!(heap.capacity(), 960);
    let a = heap.alloc(65, 1).unwrap();
    let b = heap.alloc(1, 1).unwrap();
    assert_eq!((a.range(), b.range()), (0..128, 128..192));
}

#[test]
fn a_receipt_is_refused_by_another_heap_and_comes_back() {
    let (mut one, mut other) = (Heap::new(4096), Heap::new(4096));
    let block = one.alloc(64, 64).unwrap();
    let twin = other.alloc(64, 64).unwrap();
    assert_eq!(block.range(), twin.range());
    let block = other.free(block).unwrap_err().into_block();
    assert_eq!((one.stats().blocks, other.stats().blocks), (1, 1));
    one.free(block).unwrap();
    other.free(twin).unwrap();
}

#[test]
fn an_offset_frees_once_and_makes_the_receipt_stale() {
    let mut heap = Heap::with_granule(1 << 16, 16).unwrap();
    let stale = heap.alloc(100, 16).unwrap();
    let offset = stale.offset();
    for wrong in [offset + 1, offset + 16] {
        let error = FreeAtError::NotAllocated { offset: wrong };
        assert_eq!(heap.free_at(wrong), Err(error));
    }
    heap.free_at(offset).unwrap();
    assert_eq!(
        heap.free_at(offset),
        Err(FreeAtError::NotAllocated { offset })
    );
    let again = heap.alloc(100, 16).unwrap();
    assert_eq!(again.range(), stale.range());
    assert!(
        heap.free(stale).is_err(),
        "a stale receipt freed another's block"
    );
    assert_eq!(heap.stats().blocks, 1);
    heap.free(again).unwrap();
}

#[test]
fn growing_extends_the_last_hole_and_shrinking_gives_it_up() {
    let mut heap = Heap::new(0);
    assert_eq!(heap.largest_free(), 0);
    heap.grow(1000).unwrap();
    let block = heap.alloc(600, 1).unwrap();
    heap.grow(1000).unwrap();
    assert_eq!(heap.largest_free(), 1400);
    assert_eq!(heap.shrink_to_fit(), 600);
    assert_eq!((heap.capacity(), heap.largest_free()), (600, 0));
    heap.free(block).unwrap();
    assert_eq!(heap.shrink_to_fit(), 0);
    assert_eq!(heap.stats().peak_used, 600);
}

#[test]
fn blocks_are_listed_in_order_of_address() {
    let mut heap = Heap::new(1000);
    let a = heap.alloc(10, 1).unwrap();
    let b = heap.alloc(20, 1).unwrap();
    let c = heap.alloc(30, 1).unwrap();
    heap.free(b).unwrap();
    assert_eq!(heap.blocks().len(), 2);
    assert!(heap.blocks().eq([a.range(), c.range()]));
}

#[test]
fn the_line_of_text_has_a_cell_for_each_part() {
    let mut heap = Heap::new(1000);
    let a = heap.alloc(250, 1).unwrap();
    let _b = heap.alloc(260, 1).unwrap();
    heap.free(a).unwrap();
    let line = format!("{heap:4}");
    assert_eq!(line, "[.#+.] 260 of 1000 bytes in 1 block");
    let empty = Heap::new(0).to_string();
    assert!(empty.ends_with("] 0 of 0 bytes in 0 blocks"), "{empty}");
}

#[cfg(feature = "serde")]
#[test]
fn statistics_survive_json() {
    let mut heap = Heap::new(1000);
    let _block = heap.alloc(250, 1).unwrap();
    let json = serde_json::to_string(&heap.stats()).unwrap();
    let back: memheap::Stats = serde_json::from_str(&json).unwrap();
    assert_eq!(back, heap.stats());
    assert!(json.contains("\"used\":250"), "{json}");
}

#[cfg(feature = "svg")]
#[test]
fn the_picture_shows_every_block() {
    let mut heap = Heap::new(3200);
    let _a = heap.alloc(250, 1).unwrap();
    let _b = heap.alloc(50, 1).unwrap();
    let picture = heap.to_svg();
    assert!(picture.starts_with("<svg"), "{picture}");
    assert!(picture.contains("0..250") && picture.contains("250..300"));
    // 32 rows of 100 bytes; the first block touches three of them.
    assert_eq!(picture.matches("<rect").count(), 32 + 3 + 1);
}

#[test]
fn a_refused_request_does_not_change_where_later_ones_go() {
    let heap = || {
        let mut heap = Heap::new(25_000);
        let blocks: Vec<_> = (0..25).map(|_| heap.alloc(1000, 1).unwrap()).collect();
        for (i, block) in blocks.into_iter().enumerate() {
            if (1..=10).contains(&i) || (12..=23).contains(&i) {
                heap.free(block).unwrap();
            }
        }
        heap
    };
    let (mut plain, mut refused) = (heap(), heap());
    // No multiple of 16,384 has 9,950 free bytes behind it.
    assert!(refused.alloc(9_950, 16_384).is_err());
    let at = |heap: &mut Heap| heap.alloc(100, 1).unwrap().offset();
    assert_eq!(at(&mut plain), at(&mut refused));
}

#[test]
fn a_small_heap_is_drawn_with_as_many_cells_as_it_has_bytes() {
    let mut heap = Heap::new(10);
    let _block = heap.alloc(10, 1).unwrap();
    assert_eq!(heap.to_string(), "[##########] 10 of 10 bytes in 1 block");
}
