//! Drives one allocator through one load.

use std::time::{Duration, Instant};

use super::load::{Churn, Load, Random, Request};

/// An allocator under test.
pub trait Contender {
    /// What the caller keeps to free a block.
    type Handle;

    /// An empty heap for `load`; `None` when the allocator cannot serve it.
    fn build(load: &Load) -> Option<Self>
    where
        Self: Sized;

    /// A block, and its offset in bytes; `None` when it does not fit.
    fn alloc(&mut self, request: Request) -> Option<(Self::Handle, u64)>;

    /// Gives a block back.
    fn free(&mut self, handle: Self::Handle);
}

/// How tightly an allocator packs.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    live: u64,
    peak: u64,
    highest_end: u64,
}

/// An allocator in the steady state of a load.
pub struct Runner<C: Contender> {
    contender: C,
    load: Load,
    slots: Vec<Option<C::Handle>>,
    sizes: Vec<u64>,
    queues: Vec<u32>,
    random: Random,
    extent: Extent,
    failures: u64,
}

impl<C: Contender> Runner<C> {
    /// Fills the heap to the load's number of live blocks.
    pub fn new(load: &Load) -> Option<Self> {
        let mut runner = Self {
            contender: C::build(load)?,
            load: load.clone(),
            slots: (0..load.slots).map(|_| None).collect(),
            sizes: vec![0; load.slots],
            queues: (0..load.slots as u32 / 2).collect(),
            random: Random::new(7),
            extent: Extent::default(),
            failures: 0,
        };
        for slot in 0..load.slots {
            runner.fill::<true>(slot);
        }
        Some(runner)
    }

    #[inline]
    fn fill<const TRACK: bool>(&mut self, slot: usize) {
        let request = self.load.draw(&mut self.random, slot);
        let Some((handle, offset)) = self.contender.alloc(request) else {
            self.failures += 1;
            return;
        };
        self.slots[slot] = Some(handle);
        if TRACK {
            self.sizes[slot] = request.size;
            let extent = &mut self.extent;
            extent.live += request.size;
            extent.peak = extent.peak.max(extent.live);
            extent.highest_end = extent.highest_end.max(offset + request.size);
        }
    }

    #[inline]
    fn empty<const TRACK: bool>(&mut self, slot: usize) {
        if let Some(handle) = self.slots[slot].take() {
            if TRACK {
                self.extent.live -= self.sizes[slot];
            }
            self.contender.free(handle);
        }
    }

    /// Frees and allocates until `pairs` blocks were replaced.
    fn churn<const TRACK: bool>(&mut self, pairs: usize) {
        match self.load.churn {
            Churn::OneByOne => {
                for _ in 0..pairs {
                    let slot = self.random.below(self.slots.len());
                    self.empty::<TRACK>(slot);
                    self.fill::<TRACK>(slot);
                }
            }
            Churn::Queues => {
                let subset = self.queues.len() / 4;
                for _ in 0..pairs.div_ceil(2 * subset) {
                    for i in 0..subset {
                        let other = i + self.random.below(self.queues.len() - i);
                        self.queues.swap(i, other);
                        let queue = self.queues[i] as usize;
                        self.empty::<TRACK>(2 * queue);
                        self.empty::<TRACK>(2 * queue + 1);
                    }
                    for i in 0..subset {
                        let queue = self.queues[i] as usize;
                        self.fill::<TRACK>(2 * queue);
                        self.fill::<TRACK>(2 * queue + 1);
                    }
                }
            }
        }
    }

    /// Churns without a clock, keeping count of the extent.
    ///
    /// Must come before any [`Self::time`].
    pub fn warm_up(&mut self, pairs: usize) {
        self.churn::<true>(pairs);
    }

    /// Time to replace `pairs` blocks (an allocation and a free each).
    pub fn time(&mut self, pairs: usize) -> Duration {
        let start = Instant::now();
        self.churn::<false>(pairs);
        start.elapsed()
    }

    /// The highest end of any block over the peak of live bytes, in the warm-up.
    pub fn footprint(&self) -> f64 {
        self.extent.highest_end as f64 / self.extent.peak as f64
    }

    /// Allocations that failed so far.
    pub fn failures(&self) -> u64 {
        self.failures
    }
}
