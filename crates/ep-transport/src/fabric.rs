//! What the data path needs from the network: one-way writes and signals.

use crate::control::Control;
use crate::ids::{Half, Rank};
use crate::region::{Region, RegionError};

/// Why something could not be sent to a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// The send queue has no room now. Try again after completions have come in,
    /// within the operation's time-out.
    #[error("send queue to {peer}, lane {lane}, is full: {outstanding} of {depth} entries in use")]
    QueueFull {
        /// The peer.
        peer: Rank,
        /// The lane (index of the queue pair among those to this peer).
        lane: u32,
        /// Work queue building blocks in use. The last one is for signals and what
        /// [`Fabric::ring`] may have to add, so that what was posted can always be rung.
        outstanding: u32,
        /// Work queue building blocks that the queue holds.
        depth: u32,
    },
    /// The NIC reported an error completion. The queue pair is in the Error state
    /// and stays useless until the peer is connected again.
    #[error("error completion on queue pair {qpn:#x} to {peer}, lane {lane}: {what}")]
    Completion {
        /// The peer.
        peer: Rank,
        /// The lane.
        lane: u32,
        /// The queue pair's number.
        qpn: u32,
        /// The syndrome's name and number.
        what: String,
    },
    /// A work request that the device's format cannot hold.
    #[error("work request to {peer}, lane {lane}: {what}")]
    Malformed {
        /// The peer.
        peer: Rank,
        /// The lane.
        lane: u32,
        /// What does not fit.
        what: String,
    },
    /// There is no connection to this peer (never was, or it was taken down).
    #[error("{peer} is not connected")]
    NotConnected {
        /// The peer.
        peer: Rank,
    },
    /// A range outside of the local or the remote region.
    #[error("access outside of the region of {peer} or of the local one")]
    Range {
        /// The peer.
        peer: Rank,
        /// Which range.
        source: RegionError,
    },
    /// A rank or lane that this group does not have.
    #[error("{peer}, lane {lane} does not exist: capacity {capacity}, {lanes} lanes per peer")]
    NoSuchLane {
        /// The rank asked for.
        peer: Rank,
        /// The lane asked for.
        lane: u32,
        /// Ranks in the group.
        capacity: u32,
        /// Lanes to each peer.
        lanes: u32,
    },
}

impl PeerFault {
    /// Whether waiting can help. Every other fault means that the peer is to be masked.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, PeerFault::QueueFull { .. })
    }
}

/// One rank's end of the group, as the kernels use it.
///
/// All regions have the same layout, so an offset means the same on every rank.
/// Nothing here blocks: a full queue is an error value ([`PeerFault::QueueFull`])
/// and the caller decides how long to go on trying.
///
/// Writes on one lane arrive in the order in which they were posted; lanes are
/// independent of each other. A signal on a lane is visible only after every
/// write posted before it on that lane.
pub trait Fabric: Send {
    /// This rank.
    fn rank(&self) -> Rank;

    /// Ranks that the group can hold.
    fn capacity(&self) -> u32;

    /// Independent ordered channels to each peer (queue pairs).
    fn lanes(&self) -> u32;

    /// This rank's own region, which peers write into.
    fn region(&self) -> &Region;

    /// Who takes part in which operation; shared with the membership agent.
    fn control(&self) -> &Control;

    /// Posts a copy of `len` bytes at `from` of the local region to offset `to` of
    /// the region of `peer`. The source must stay as it is until
    /// [`Fabric::reusable`] says so.
    ///
    /// # Errors
    /// See [`PeerFault`]; nothing was posted.
    fn write(
        &mut self,
        peer: Rank,
        lane: u32,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault>;

    /// Posts an 8-byte store of `value` to the aligned offset `to` of `peer`.
    ///
    /// # Errors
    /// See [`PeerFault`]; nothing was posted.
    fn signal(&mut self, peer: Rank, lane: u32, to: u64, value: u64) -> Result<(), PeerFault>;

    /// Hands everything posted to `peer` to the NIC (one doorbell per lane), and
    /// remembers it as what reads sources of this `half`.
    ///
    /// # Errors
    /// See [`PeerFault`].
    fn ring(&mut self, peer: Rank, half: Half) -> Result<(), PeerFault>;

    /// Whether everything that was rung for `half` has completed, so that its
    /// sources may be overwritten. Reads the completion queues.
    ///
    /// # Errors
    /// [`PeerFault::Completion`] if the NIC reported an error for this peer.
    fn reusable(&mut self, peer: Rank, half: Half) -> Result<bool, PeerFault>;
}
