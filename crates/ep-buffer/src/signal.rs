//! The 8-byte words that ranks write into each other's regions.

use ep_transport::{Epoch, Incarnation};

const INCARNATION_BITS: u32 = 20;
const INCARNATION_MASK: u64 = (1 << INCARNATION_BITS) - 1;

/// Operations that fit a signal: at one per microsecond, 200 days; at a real one's
/// ten microseconds, years.
pub const MAX_EPOCH: u64 = (1 << (64 - INCARNATION_BITS)) - 1;
/// Incarnations that fit a signal.
pub const MAX_INCARNATION: u32 = INCARNATION_MASK as u32;

/// "Everything of this operation has been written": the epoch in the upper 44 bits,
/// the sender's incarnation in the lower 20. Incarnations begin at 1, so the zero
/// of fresh memory is no signal. It is stored, never added to, so nothing has to be
/// cleaned between operations, and one that is late or repeated says so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(u64);

impl Signal {
    /// The signal of `incarnation` for `epoch`. Numbers beyond [`MAX_EPOCH`] and
    /// [`MAX_INCARNATION`] lose their upper bits; the buffer refuses them earlier.
    #[must_use]
    pub fn new(epoch: Epoch, incarnation: Incarnation) -> Self {
        Self(epoch.0 << INCARNATION_BITS | u64::from(incarnation.0) & INCARNATION_MASK)
    }

    /// The word as it is stored.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }
}

/// "I am alive and wait for somebody else": a count of such reports in the upper
/// bits, the sender's incarnation in the lower 20. Only its change has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallReport(u64);

impl StallReport {
    /// Report number `count` of `incarnation`.
    #[must_use]
    pub fn new(count: u64, incarnation: Incarnation) -> Self {
        Self(count << INCARNATION_BITS | u64::from(incarnation.0) & INCARNATION_MASK)
    }

    /// The report that a stored word holds.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word as it is stored.
    #[must_use]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Whether that life of the sender wrote it.
    #[must_use]
    pub fn is_from(self, incarnation: Incarnation) -> bool {
        self.0 & INCARNATION_MASK == u64::from(incarnation.0) & INCARNATION_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_and_incarnation_do_not_mix() {
        let one = Signal::new(Epoch(0), Incarnation(1));
        assert_ne!(one.word(), 0);
        assert_ne!(one, Signal::new(Epoch(1), Incarnation(0)));
        let last = Signal::new(Epoch(MAX_EPOCH), Incarnation(MAX_INCARNATION));
        assert_eq!(last.word(), u64::MAX);
        assert_eq!(Signal::new(Epoch(7), Incarnation(3)).word(), 7 << 20 | 3);
    }

    #[test]
    fn a_report_knows_whose_it_is() {
        let report = StallReport::from_word(StallReport::new(9, Incarnation(4)).word());
        assert!(report.is_from(Incarnation(4)));
        assert!(!report.is_from(Incarnation(5)));
    }
}
