#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
//! The heap against a slow and obvious model: a sorted list of intervals.

use std::collections::BTreeMap;

use memheap::{AllocError, Block, FreeAtError, Heap};
use proptest::prelude::*;

/// Live intervals, start to end.
struct Model {
    granule: u64,
    size: u64,
    live: BTreeMap<u64, u64>,
    peak: u64,
    high_water: u64,
}

impl Model {
    fn capacity(&self) -> u64 {
        self.size - self.size % self.granule
    }

    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for (start, end) in &self.live {
            assert!(*start >= at, "overlap at {start}");
            if *start > at {
                gaps.push((at, *start));
            }
            at = *end;
        }
        assert!(at <= self.capacity(), "{at} beyond {}", self.capacity());
        if at < self.capacity() {
            gaps.push((at, self.capacity()));
        }
        gaps
    }

    fn used(&self) -> u64 {
        self.live.iter().map(|(start, end)| end - start).sum()
    }

    fn rounded(&self, size: u64) -> u64 {
        size.div_ceil(self.granule) * self.granule
    }

    fn fits(&self, size: u64, align: u64) -> bool {
        self.gaps().iter().any(|(start, end)| {
            start
                .checked_next_multiple_of(align)
                .and_then(|at| at.checked_add(self.rounded(size)))
                .is_some_and(|at| at <= *end)
        })
    }

    fn check(&self, heap: &Heap) {
        let stats = heap.stats();
        let gaps = self.gaps();
        let largest = gaps.iter().map(|(s, e)| e - s).max().unwrap_or(0);
        assert_eq!(stats.capacity, self.capacity());
        assert_eq!(stats.used, self.used());
        assert_eq!(stats.free, self.capacity() - self.used());
        assert_eq!(stats.blocks, self.live.len());
        assert_eq!(stats.free_blocks, gaps.len(), "free space is not coalesced");
        assert_eq!(stats.largest_free, largest);
        assert_eq!(heap.largest_free(), largest);
        assert_eq!(stats.peak_used, self.peak);
        assert_eq!(stats.high_water, self.high_water);
        assert!((0.0..=1.0).contains(&stats.fragmentation));
        let blocks: Vec<_> = heap.blocks().map(|r| (r.start, r.end)).collect();
        let live: Vec<_> = self.live.iter().map(|(s, e)| (*s, *e)).collect();
        assert_eq!(blocks, live);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Alloc { size: u64, align_bits: u32 },
    AllocLargest,
    Free(prop::sample::Index),
    FreeAt(prop::sample::Index),
    FreeAtAnywhere(u64),
    FreeStale(prop::sample::Index),
    Grow(u64),
    Shrink,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        4 => 0..40u64,
        4 => (0..16u32, any::<u16>()).prop_map(|(b, r)| (1 << b) + u64::from(r) % (1 << b)),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    prop_oneof![
        12 => (size, prop_oneof![3 => Just(0), 2 => 0..14u32, 1 => 14..64u32])
            .prop_map(|(size, align_bits)| Op::Alloc { size, align_bits }),
        1 => Just(Op::AllocLargest),
        8 => any::<prop::sample::Index>().prop_map(Op::Free),
        2 => any::<prop::sample::Index>().prop_map(Op::FreeAt),
        1 => (0..1u64 << 20).prop_map(Op::FreeAtAnywhere),
        1 => any::<prop::sample::Index>().prop_map(Op::FreeStale),
        1 => (0..20_000u64).prop_map(Op::Grow),
        1 => Just(Op::Shrink),
    ]
}

struct Pair {
    heap: Heap,
    model: Model,
    blocks: Vec<Block>,
    stale: Vec<Block>,
}

impl Pair {
    fn new(size: u64, granule: u64) -> Self {
        let model = Model {
            granule,
            size,
            live: BTreeMap::new(),
            peak: 0,
            high_water: 0,
        };
        Self {
            heap: Heap::with_granule(size, granule).unwrap(),
            model,
            blocks: Vec::new(),
            stale: Vec::new(),
        }
    }

    fn alloc(&mut self, size: u64, align: u64) {
        let free = self.model.capacity() - self.model.used();
        let heap_size = self.model.size;
        match self.heap.alloc(size, align) {
            Ok(block) => {
                assert!(align <= heap_size);
                assert_eq!(block.offset() % align, 0);
                assert_eq!(block.offset() % self.model.granule, 0);
                assert_eq!(block.size(), self.model.rounded(size));
                self.model.live.insert(block.offset(), block.end());
                self.model.peak = self.model.peak.max(self.model.used());
                self.model.high_water = self.model.high_water.max(block.end());
                self.blocks.push(block);
            }
            Err(AllocError::ZeroSize) => assert_eq!(size, 0),
            Err(AllocError::OutOfSpace { size: s, free: f }) => {
                assert_eq!((s, f), (size, free));
                assert!(size > free);
            }
            Err(AllocError::Alignment { align: a, limit }) => {
                assert_eq!((a, limit), (align, heap_size));
                assert!(align > heap_size);
            }
            Err(AllocError::Fragmented {
                size: s,
                align: a,
                free: f,
                largest,
            }) => {
                assert_eq!((s, a, f), (size, align, free));
                assert!(size <= free);
                assert_eq!(largest, self.heap.largest_free());
                assert!(!self.model.fits(size, align), "{size} at {align} does fit");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Alloc { size, align_bits } => self.alloc(size, 1 << align_bits),
            Op::AllocLargest => {
                let largest = self.heap.largest_free();
                let before = self.blocks.len();
                self.alloc(largest, 1);
                assert_eq!(self.blocks.len() - before, usize::from(largest != 0));
            }
            Op::Free(index) if !self.blocks.is_empty() => {
                let block = self.blocks.swap_remove(index.index(self.blocks.len()));
                self.model.live.remove(&block.offset()).unwrap();
                self.heap.free(block).unwrap();
            }
            Op::FreeAt(index) if !self.blocks.is_empty() => {
                let block = self.blocks.swap_remove(index.index(self.blocks.len()));
                self.model.live.remove(&block.offset()).unwrap();
                self.heap.free_at(block.offset()).unwrap();
                self.stale.push(block);
            }
            Op::FreeAtAnywhere(offset) if !self.model.live.contains_key(&offset) => {
                let expected = if offset < self.model.capacity() {
                    FreeAtError::NotAllocated { offset }
                } else {
                    let limit = self.model.capacity();
                    FreeAtError::OutOfRange { offset, limit }
                };
                assert_eq!(self.heap.free_at(offset), Err(expected));
            }
            Op::FreeStale(index) if !self.stale.is_empty() => {
                let block = self.stale.swap_remove(index.index(self.stale.len()));
                let refused = self.heap.free(block).unwrap_err();
                self.stale.push(refused.into_block());
            }
            Op::Grow(by) => {
                self.heap.grow(by).unwrap();
                self.model.size += by;
            }
            Op::Shrink => {
                let end = self.model.live.values().next_back().copied();
                assert_eq!(self.heap.shrink_to_fit(), end.unwrap_or(0));
                self.model.size = end.unwrap_or(0);
            }
            _ => {}
        }
        self.model.check(&self.heap);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn heap_agrees_with_an_interval_list(
        size in 0..200_000u64,
        granule_bits in 0..8u32,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut pair = Pair::new(size, 1 << granule_bits);
        pair.model.check(&pair.heap);
        for op in ops {
            pair.apply(op);
        }
        for block in pair.blocks.drain(..) {
            pair.heap.free(block).unwrap();
        }
        pair.model.live.clear();
        pair.model.check(&pair.heap);
        let whole = usize::from(pair.model.capacity() != 0);
        prop_assert_eq!(pair.heap.stats().free_blocks, whole);
    }
}
