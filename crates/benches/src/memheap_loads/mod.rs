//! Offset allocators under the same loads.

mod best_fit;
mod contenders;
mod in_band;
mod linear;
mod load;
mod measure;
mod run;
mod threads;

use std::collections::BTreeMap;
use std::time::Duration;

pub use best_fit::BestFit;
pub use contenders::{FixedSizePool, Locked, RangeAlloc};
pub use in_band::InBand;
pub use linear::LinearScan;
pub use load::{Churn, Load, Random, Request};
pub use measure::{ByAllocator, Figures, Report, compare, compare_threads, pin};
pub use run::{Contender, Runner};

/// `offset-allocator` with 32-bit node indices, its default.
pub type OffsetAllocator = offset_allocator::Allocator;

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

/// Those whose cost is followed to a million live blocks.
pub const SCALING: [Named; 4] = [
    ("memheap", runner::<memheap::Heap>),
    ("offset-allocator", runner::<OffsetAllocator>),
    ("btree best fit", runner::<BestFit>),
    ("fixed-size pool", runner::<FixedSizePool>),
];

/// Measures everything, on one core where threads do not need two. `progress`
/// hears what is being measured. Takes about half a minute.
pub fn measure_all(progress: &mut dyn FnMut(&str)) -> Report {
    let mut report = Report::default();
    progress("two threads");
    let threads = compare_threads();
    report
        .threads
        .insert("log_uniform_1000".to_owned(), threads);
    // Not the first core: that is where a machine's other work goes first.
    pin(1);
    let mut all = |loads: Vec<Load>, contenders: &[Named]| -> BTreeMap<String, ByAllocator> {
        let measured = loads.into_iter().map(|load| {
            progress(&load.name);
            let figures = compare(&load, contenders);
            (load.name, figures)
        });
        measured.collect()
    };
    report.loads = all(Load::all(), &CONTENDERS);
    report.scaling = all(Load::scaling(), &SCALING);
    report
}
