//! Serial numbers of allocations.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Set in the stamp of every live block and in no link.
pub(crate) const LIVE: u64 = 1 << 63;
/// Where a stamp has the heap's shift.
const SHIFT_AT: u32 = 57;
/// Serial numbers that a heap draws at once.
const BATCH_BITS: u32 = 20;

/// A stamp: the bit [`LIVE`], six bits of the heap's shift, and a serial number
/// that no other allocation of this process has.
pub(crate) type Stamp = u64;

/// The source of a heap's stamps.
///
/// # Invariants
/// A batch of serial numbers belongs to one heap, so stamps of different heaps
/// differ. The numbers suffice for 2^37 batches of 2^20 allocations.
#[derive(Debug)]
pub(crate) struct Stamps {
    last: Stamp,
    shift: u32,
}

impl Stamps {
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            last: first_of_a_batch(shift),
            shift,
        }
    }

    /// The stamp that [`Self::next`] gave last.
    #[inline]
    pub(crate) fn last(&self) -> Stamp {
        self.last
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Stamp {
        self.last = if (self.last + 1) & ((1 << BATCH_BITS) - 1) == 0 {
            first_of_a_batch(self.shift)
        } else {
            self.last + 1
        };
        self.last
    }
}

#[cold]
fn first_of_a_batch(shift: u32) -> Stamp {
    static BATCHES: AtomicUsize = AtomicUsize::new(0);
    let batch = BATCHES.fetch_add(1, Ordering::Relaxed) as u64;
    let serial = (batch << BATCH_BITS) & ((1 << SHIFT_AT) - 1);
    LIVE | u64::from(shift) << SHIFT_AT | serial
}

/// The shift of the heap that gave the stamp.
#[inline]
pub(crate) fn shift_of(stamp: u64) -> u32 {
    (stamp >> SHIFT_AT) as u32 & 63
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn stamps_differ_between_heaps_and_across_batches() {
        let mut sources = [Stamps::new(0), Stamps::new(12), Stamps::new(12)];
        let mut seen = HashSet::new();
        for _ in 0..(1 << BATCH_BITS) + 10 {
            for source in &mut sources {
                let stamp = source.next();
                assert!(stamp & LIVE != 0);
                assert_eq!(shift_of(stamp), source.shift);
                assert!(seen.insert(stamp & ((1 << SHIFT_AT) - 1)));
            }
        }
    }
}
