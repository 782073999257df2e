//! What happened to the membership, for whoever wants to show or log it.

use crate::ids::{Epoch, Incarnation, Rank};

/// How a member was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossKind {
    /// Its lease at the rendezvous ended: the process died or does not answer.
    LeaseEnded,
    /// Another process has taken its rank.
    Replaced,
    /// It left on purpose.
    Left,
    /// It does not count this rank any more, having waited for it in vain.
    GaveUp,
}

/// Something that happened. Times are microseconds of the monotonic clock, which
/// processes of one host have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberEvent {
    /// A member is gone and was masked at once.
    PeerLost {
        /// Which rank.
        rank: Rank,
        /// Which of its lives.
        incarnation: Incarnation,
        /// How.
        how: LossKind,
        /// When this rank learned of it.
        at_us: u64,
    },
    /// An attempt to change the view has begun.
    UpdateBegun {
        /// The attempt's number.
        attempt: u64,
        /// The ranks whose connections are remade here.
        peers: Vec<Rank>,
        /// When.
        at_us: u64,
    },
    /// This rank is connected to the joining ranks.
    Connected {
        /// The attempt's number.
        attempt: u64,
        /// When.
        at_us: u64,
    },
    /// Ranks were admitted.
    Admitted {
        /// The attempt's number.
        attempt: u64,
        /// First epoch in which they take part.
        from: Epoch,
        /// Those that this rank admitted: the joining ranks, or for a joining rank all others.
        ranks: Vec<(Rank, Incarnation)>,
        /// Whether this rank itself was among those that came in.
        own: bool,
        /// When this rank wrote its table.
        at_us: u64,
    },
    /// An attempt was given up; what served before goes on serving.
    UpdateDropped {
        /// The attempt's number.
        attempt: u64,
        /// Which rank decided so.
        by: Rank,
        /// Why.
        why: String,
        /// When.
        at_us: u64,
    },
    /// The lease of this rank had ended, and with it its place among the others. It has
    /// another one now and asks to be taken in again.
    LeaseRegained {
        /// When.
        at_us: u64,
    },
    /// Another process has taken this rank; this one is not a member any more.
    Superseded {
        /// The other's incarnation.
        by: Incarnation,
        /// When.
        at_us: u64,
    },
}

/// Now, in microseconds of the monotonic clock.
#[must_use]
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Seconds and nanoseconds of this clock are never negative.
    (now.tv_sec as u64).saturating_mul(1_000_000) + now.tv_nsec as u64 / 1000
}
