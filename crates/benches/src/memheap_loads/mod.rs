//! Offset allocators under the same loads.

mod best_fit;
mod contenders;
mod in_band;
mod linear;
mod load;
mod run;

use std::time::Duration;

pub use best_fit::BestFit;
pub use contenders::Locked;
pub use in_band::InBand;
pub use linear::LinearScan;
pub use load::{Churn, Load, Random, Request};
pub use run::{Contender, Runner};

/// `offset-allocator` with 32-bit node indices, its default.
pub type OffsetAllocator = offset_allocator::Allocator;
/// `range-alloc` over 64-bit offsets.
pub type RangeAlloc = range_alloc::RangeAllocator<u64>;

/// A [`Runner`] of any allocator.
pub trait Run {
    /// See [`Runner::warm_up`].
    fn warm_up(&mut self, pairs: usize);
    /// See [`Runner::time`].
    fn time(&mut self, pairs: usize) -> Duration;
    /// See [`Runner::footprint`].
    fn footprint(&self) -> f64;
    /// See [`Runner::failures`].
    fn failures(&self) -> u64;
}

impl<C: Contender> Run for Runner<C> {
    fn warm_up(&mut self, pairs: usize) {
        Runner::warm_up(self, pairs);
    }
    fn time(&mut self, pairs: usize) -> Duration {
        Runner::time(self, pairs)
    }
    fn footprint(&self) -> f64 {
        Runner::footprint(self)
    }
    fn failures(&self) -> u64 {
        Runner::failures(self)
    }
}

/// An allocator by name, and how to fill it for a load.
pub type Named = (&'static str, fn(&Load) -> Option<Box<dyn Run>>);

fn runner<C: Contender + 'static>(load: &Load) -> Option<Box<dyn Run>> {
    Some(Box::new(Runner::<C>::new(load)?))
}

/// All allocators, this project's first.
pub const CONTENDERS: [Named; 9] = [
    ("memheap", runner::<memheap::Heap>),
    ("offset-allocator", runner::<OffsetAllocator>),
    ("memheap shared", runner::<memheap::SharedHeap>),
    ("memheap in mutex", runner::<Locked<memheap::Heap>>),
    (
        "offset-allocator in mutex",
        runner::<Locked<OffsetAllocator>>,
    ),
    ("rlsf", runner::<InBand>),
    ("btree best fit", runner::<BestFit>),
    ("range-alloc", runner::<RangeAlloc>),
    ("linear scan", runner::<LinearScan>),
];
