//! A heap beside a slow and obvious model of it: a sorted list of intervals.
//! The property test, the soak and the fuzz target drive it.

use std::collections::BTreeMap;

use memheap::{AllocError, Block, FreeAtError, FreeError, GrowError, Heap};

/// What is done to both. `pick` chooses a block.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alloc {
        size: u64,
        align_bits: u32,
    },
    /// And free it again.
    AllocLargest,
    Free {
        pick: usize,
    },
    FreeAt {
        pick: usize,
    },
    FreeAtAnywhere {
        offset: u64,
    },
    FreeStale {
        pick: usize,
    },
    FreeForeign,
    Grow {
        by: u64,
    },
    /// And grow by as much, if `back`.
    Shrink {
        back: bool,
    },
}

impl Op {
    /// Every nine bytes are an operation.
    pub(crate) fn decode(bytes: [u8; 9]) -> Self {
        let [kind, rest @ ..] = bytes;
        let number = u64::from_le_bytes(rest);
        let pick = number as usize;
        match kind % 64 {
            0..=35 => Self::Alloc {
                // The low bits of the number say how large the size is at most.
                size: number >> (32 + number % 32),
                align_bits: match number >> 5 & 63 {
                    bits @ 0..24 => bits as u32,
                    _ => 0,
                },
            },
            36 => Self::AllocLargest,
            37..=54 => Self::Free { pick },
            55..=57 => Self::FreeAt { pick },
            58 => Self::FreeAtAnywhere {
                offset: number >> (number % 64),
            },
            59 => Self::FreeStale { pick },
            60 => Self::FreeForeign,
            61 => Self::Grow {
                by: number >> (48 + number % 16),
            },
            62 => Self::Shrink { back: true },
            _ => Self::Shrink {
                back: number % 64 != 0,
            },
        }
    }
}

/// The list of live intervals.
struct Model {
    granule: u64,
    size: u64,
    /// Start to end.
    live: BTreeMap<u64, u64>,
    used: u64,
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

    fn insert(&mut self, start: u64, end: u64) {
        let below = self.live.range(..end).next_back();
        assert!(below.is_none_or(|(_, e)| *e <= start), "overlap at {start}");
        self.live.insert(start, end);
        self.used += end - start;
        self.peak = self.peak.max(self.used);
        self.high_water = self.high_water.max(end);
    }

    fn remove(&mut self, start: u64) {
        let end = self.live.remove(&start).unwrap();
        self.used -= end - start;
    }

    /// Every figure of the heap against the list.
    fn check(&self, heap: &Heap) {
        let stats = heap.stats();
        let gaps = self.gaps();
        let largest = gaps.iter().map(|(s, e)| e - s).max().unwrap_or(0);
        assert_eq!(stats.capacity, self.capacity());
        assert_eq!(stats.used, self.used);
        assert_eq!(stats.free, self.capacity() - self.used);
        assert_eq!(stats.blocks, self.live.len());
        assert_eq!(stats.free_blocks, gaps.len(), "free space is not coalesced");
        assert_eq!(stats.largest_free, largest);
        assert_eq!(heap.largest_free(), largest);
        assert_eq!(stats.peak_used, self.peak);
        assert_eq!(stats.high_water, self.high_water);
        assert!((0.0..=1.0).contains(&stats.fragmentation));
        let blocks = heap.blocks().map(|range| (range.start, range.end));
        assert!(blocks.eq(self.live.iter().map(|(s, e)| (*s, *e))));
    }
}

/// A heap, its model, and the receipts.
pub(crate) struct Pair {
    heap: Heap,
    model: Model,
    blocks: Vec<Block>,
    stale: Vec<Block>,
    other: Heap,
    foreign: Option<Block>,
}

impl Pair {
    pub(crate) fn new(size: u64, granule: u64) -> Self {
        let model = Model {
            granule,
            size,
            live: BTreeMap::new(),
            used: 0,
            peak: 0,
            high_water: 0,
        };
        let mut other = Heap::with_granule(1 << 20, granule).unwrap();
        let foreign = other.alloc(1, 1).ok();
        Self {
            heap: Heap::with_granule(size, granule).unwrap(),
            model,
            blocks: Vec::new(),
            stale: Vec::new(),
            other,
            foreign,
        }
    }

    /// Does the same to both. Alone it checks what the operation touches.
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Alloc { size, align_bits } => self.alloc(size, 1 << align_bits),
            Op::AllocLargest => {
                let largest = self.heap.largest_free();
                let before = self.blocks.len();
                self.alloc(largest, 1);
                assert_eq!(self.blocks.len() - before, usize::from(largest != 0));
                if largest != 0 {
                    self.apply(Op::Free { pick: before });
                }
            }
            Op::Free { pick } => {
                if let Some(block) = take(&mut self.blocks, pick) {
                    self.model.remove(block.offset());
                    self.heap.free(block).unwrap();
                }
            }
            Op::FreeAt { pick } => {
                if let Some(block) = take(&mut self.blocks, pick) {
                    self.model.remove(block.offset());
                    self.heap.free_at(block.offset()).unwrap();
                    self.stale.push(block);
                }
            }
            Op::FreeAtAnywhere { offset } => {
                let limit = self.model.capacity();
                let expected = if offset >= limit {
                    FreeAtError::OutOfRange { offset, limit }
                } else {
                    FreeAtError::NotAllocated { offset }
                };
                if !self.model.live.contains_key(&offset) {
                    assert_eq!(self.heap.free_at(offset), Err(expected));
                }
            }
            Op::FreeStale { pick } => {
                if let Some(block) = take(&mut self.stale, pick) {
                    let FreeError::NotLive { block } = self.heap.free(block).unwrap_err() else {
                        panic!("another error for a stale receipt");
                    };
                    self.stale.push(block);
                }
            }
            Op::FreeForeign => {
                if let Some(block) = self.foreign.take() {
                    let refused = self.heap.free(block).unwrap_err().into_block();
                    assert_eq!(self.other.stats().blocks, 1);
                    self.foreign = Some(refused);
                }
            }
            Op::Grow { by } => self.grow(by),
            Op::Shrink { back } => {
                let before = self.model.size;
                let end = self.model.live.values().next_back().copied();
                self.model.size = end.unwrap_or(0);
                assert_eq!(self.heap.shrink_to_fit(), self.model.size);
                if back {
                    self.grow(before - self.model.size);
                }
            }
        }
    }

    fn alloc(&mut self, size: u64, align: u64) {
        let free = self.model.capacity() - self.model.used;
        let heap_size = self.model.size;
        match self.heap.alloc(size, align) {
            Ok(block) => {
                assert!(align <= heap_size);
                assert_eq!(block.offset() % align, 0);
                assert_eq!(block.offset() % self.model.granule, 0);
                assert_eq!(block.size(), self.model.rounded(size));
                self.model.insert(block.offset(), block.end());
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
                let exact = self.heap.largest_free();
                if self.model.gaps().len() <= Heap::SEARCH_LIMIT as usize {
                    assert_eq!(largest, exact);
                }
                assert!(largest <= exact && exact - largest <= exact / 16);
                assert!(!self.model.fits(size, align), "{size} at {align} does fit");
            }
            Err(AllocError::SearchLimit {
                size: s,
                align: a,
                free: f,
                limit,
            }) => {
                assert_eq!((s, a, f, limit), (size, align, free, Heap::SEARCH_LIMIT));
                let gaps = self.model.gaps();
                // Only those that may fit were looked at.
                let may_fit = gaps.iter().filter(|(s, e)| (e - s) + (e - s) / 16 >= size);
                assert!(may_fit.count() > limit as usize);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn grow(&mut self, by: u64) {
        let granules =
            (u128::from(self.model.size) + u128::from(by)) / u128::from(self.model.granule);
        match self.heap.grow(by) {
            Ok(()) => self.model.size += by,
            Err(GrowError::TooLarge { size, by: b, limit }) => {
                assert_eq!((size, b), (self.model.size, by));
                assert!(u128::from(size) + u128::from(by) > u128::from(limit));
                assert!(granules >= 1 << 32);
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn check(&self) {
        self.model.check(&self.heap);
        assert_eq!(self.live(), self.heap.stats().blocks);
    }

    pub(crate) fn live(&self) -> usize {
        self.blocks.len()
    }

    /// Frees everything; what is left must be one free block.
    pub(crate) fn finish(mut self) {
        while let Some(pick) = self.blocks.len().checked_sub(1) {
            self.apply(Op::Free { pick });
        }
        self.check();
        let whole = usize::from(self.model.capacity() != 0);
        assert_eq!(self.heap.stats().free_blocks, whole);
    }
}

fn take(blocks: &mut Vec<Block>, pick: usize) -> Option<Block> {
    let index = pick.checked_rem(blocks.len())?;
    Some(blocks.swap_remove(index))
}
