//! Best fit over ordered maps: what one writes with the standard library.

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Load, Request};
use super::run::Contender;

/// Free ranges by address and by size. Sizes are rounded up to the load's granule,
/// without which pieces too small for any request pile up and are searched.
pub struct BestFit {
    granule: u64,
    by_start: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
}

impl BestFit {
    fn add(&mut self, start: u64, end: u64) {
        if start < end {
            self.by_start.insert(start, end);
            self.by_size.insert((end - start, start));
        }
    }

    fn take(&mut self, start: u64, end: u64) {
        self.by_start.remove(&start);
        self.by_size.remove(&(end - start, start));
    }
}

impl Contender for BestFit {
    type Handle = std::ops::Range<u64>;

    fn build(load: &Load) -> Option<Self> {
        let mut free = Self {
            granule: load.granule,
            by_start: BTreeMap::new(),
            by_size: BTreeSet::new(),
        };
        free.add(0, load.heap_size());
        Some(free)
    }

    fn alloc(&mut self, request: Request) -> Option<(Self::Handle, u64)> {
        let align = request.align;
        let size = request.size.next_multiple_of(self.granule);
        let fitting = self.by_size.range((size, 0)..);
        let (start, end, at) = fitting
            .map(|(len, start)| (*start, start + len, start.next_multiple_of(align)))
            .find(|(_, end, at)| at + size <= *end)?;
        self.take(start, end);
        self.add(start, at);
        self.add(at + size, end);
        Some((at..at + size, at))
    }

    fn free(&mut self, range: Self::Handle) {
        let (mut start, mut end) = (range.start, range.end);
        let below = self.by_start.range(..start).next_back();
        if let Some((from, to)) = below.map(|(s, e)| (*s, *e))
            && to == start
        {
            self.take(from, to);
            start = from;
        }
        if let Some(to) = self.by_start.get(&end).copied() {
            self.take(end, to);
            end = to;
        }
        self.add(start, end);
    }
}
