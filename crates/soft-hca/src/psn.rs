//! Packet sequence numbers.
//!
//! On the wire a PSN has 24 bits and wraps. Inside, sequence numbers are
//! 64-bit and never wrap: [`Psn::nearest`] widens a received PSN against a
//! number known to be close, which is the only place where wrap-around exists.

/// Number of distinct PSNs on the wire.
const MODULUS: u64 = 1 << 24;

/// A 24-bit packet sequence number as carried in the BTH and in `qpc`
/// (InfiniBand Architecture specification, volume 1, section 9.7.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Psn(u32);

impl Psn {
    /// The low 24 bits of `value`.
    pub const fn new(value: u32) -> Self {
        Self(value & 0x00ff_ffff)
    }

    /// The PSN as a number below 2^24.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The sequence number closest to `near` whose low 24 bits are this PSN.
    ///
    /// A distance of exactly half the PSN space counts as behind.
    pub const fn nearest(self, near: Seq) -> Seq {
        let ahead = (self.0 as u64).wrapping_sub(near.0) % MODULUS;
        if ahead < MODULUS / 2 {
            Seq(near.0 + ahead)
        } else {
            Seq(near.0 + ahead - MODULUS)
        }
    }
}

/// A sequence number that does not wrap; its low 24 bits are the [`Psn`].
///
/// # Invariants
/// At least 2^24, so that [`Psn::nearest`] can look behind without underflow.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(u64);

impl Seq {
    /// The first sequence number of a connection that starts at `psn`.
    pub const fn start(psn: Psn) -> Self {
        Self(MODULUS * 2 + psn.0 as u64)
    }

    /// The PSN that goes on the wire.
    pub const fn psn(self) -> Psn {
        Psn::new((self.0 % MODULUS) as u32)
    }

    /// The sequence number `count` packets later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// Packets from `earlier` to this one; zero if `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wire_value_wraps_and_the_sequence_does_not() {
        let last = Seq::start(Psn::new(0x00ff_ffff));
        assert_eq!(last.plus(1).psn(), Psn::new(0));
        assert_eq!(Psn::new(0).nearest(last), last.plus(1));
        assert_eq!(Psn::new(0x00ff_ffff).nearest(last.plus(1)), last);
    }

    #[test]
    fn half_the_space_away_is_behind() {
        let near = Seq::start(Psn::new(0));
        assert!(Psn::new(0x0080_0000).nearest(near) < near);
        assert!(Psn::new(0x007f_ffff).nearest(near) > near);
    }

    proptest! {
        #[test]
        fn widening_finds_every_neighbour(start in 0u32..1 << 24, near in 0u64..1 << 40, off in -(1i64 << 23)..(1i64 << 23)) {
            let near = Seq::start(Psn::new(start)).plus(near);
            let target = Seq(near.0.wrapping_add_signed(off));
            prop_assert_eq!(target.psn().nearest(near), target);
        }
    }
}
