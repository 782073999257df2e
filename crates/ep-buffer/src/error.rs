//! What can go wrong, for the caller ([`EpError`]) and with a peer ([`Loss`]).

use crate::slot::SlotError;
use ep_transport::{Epoch, Incarnation, PeerFault, Rank, RegionError};
use std::time::Duration;

/// Why a call failed. A peer that fails is no such error: the operation goes on
/// without it, see [`Loss`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EpError {
    /// The configuration and the group do not agree.
    #[error("{rank}: {what} is {config} in the configuration and {fabric} in the group")]
    Mismatch {
        /// This rank.
        rank: Rank,
        /// The number in question.
        what: &'static str,
        /// Its value in the configuration.
        config: u64,
        /// Its value in the group.
        fabric: u64,
    },
    /// The group's region is too small for the configuration.
    #[error("{rank}: the region has {bytes} bytes, the configuration needs {needed}")]
    RegionTooSmall {
        /// This rank.
        rank: Rank,
        /// Bytes of the region.
        bytes: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Memory of this size cannot be had.
    #[error("{rank}: no memory for {what} of {bytes} bytes")]
    Memory {
        /// This rank.
        rank: Rank,
        /// What it is for.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
    },
    /// An incarnation that signals cannot carry.
    #[error("{rank}: {incarnation} is outside of 1 to {max}")]
    Incarnation {
        /// This rank.
        rank: Rank,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The last that fits.
        max: u32,
    },
    /// Epochs that signals cannot carry any more.
    #[error("{rank}: {epoch} is beyond the last one, {max}")]
    EpochsExhausted {
        /// This rank.
        rank: Rank,
        /// The epoch.
        epoch: Epoch,
        /// The last that fits.
        max: u64,
    },
    /// A slice of the wrong length.
    #[error("{rank}: {what} has {len} elements, expected {expected}")]
    Length {
        /// This rank.
        rank: Rank,
        /// The argument.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The length that goes with the other arguments.
        expected: usize,
    },
    /// A number beyond what the buffer was configured for.
    #[error("{rank}: {what} is {value}, allowed are {min} to {max}")]
    Limit {
        /// This rank.
        rank: Rank,
        /// The number.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The least value allowed.
        min: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// A choice that is neither an expert nor -1.
    #[error("{rank}: token {token} chooses expert {expert} at k = {k}, there are {experts}")]
    NoSuchExpert {
        /// This rank.
        rank: Rank,
        /// The token.
        token: usize,
        /// Which of its choices.
        k: usize,
        /// What it holds.
        expert: i32,
        /// Number of experts.
        experts: u32,
    },
    /// A handle or an output made by another buffer.
    #[error("{rank}: {what} belongs to another buffer")]
    Foreign {
        /// This rank.
        rank: Rank,
        /// The argument.
        what: &'static str,
    },
    /// A number that must be a multiple of another.
    #[cfg(feature = "cuda")]
    #[error("{rank}: {what} is {value}, which is not a multiple of {multiple}")]
    NotMultiple {
        /// This rank.
        rank: Rank,
        /// The number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it has to be a multiple of.
        multiple: u64,
    },
    /// Device memory that is too small, or not aligned to 16 bytes.
    #[cfg(feature = "cuda")]
    #[error("{rank}: {what} has {bytes} bytes at {address:#x}; needed are {needed}, aligned to 16")]
    Tensor {
        /// This rank.
        rank: Rank,
        /// The argument.
        what: &'static str,
        /// Its device address.
        address: u64,
        /// Its size.
        bytes: u64,
        /// The size that goes with the other arguments.
        needed: u64,
    },
    /// Halves of operations that do not belong together.
    #[cfg(feature = "cuda")]
    #[error("{rank}: {called} was called, but {due} is due")]
    Order {
        /// This rank.
        rank: Rank,
        /// What was called.
        called: &'static str,
        /// What should have been.
        due: &'static str,
    },
    /// The GPU or its driver refused.
    #[cfg(feature = "cuda")]
    #[error("{rank}: the GPU refused")]
    Cuda {
        /// This rank.
        rank: Rank,
        /// What it refused.
        source: ep_transport::cuda::CudaError,
    },
    /// The group could not be opened.
    #[cfg(feature = "cuda")]
    #[error("{rank}: no place in the group")]
    Group {
        /// This rank.
        rank: Rank,
        /// Why not.
        source: Box<ep_transport::Error>,
    },
    /// The local region refused an access, so it is not the one that was checked.
    #[error("{rank}: access outside of the region")]
    Region {
        /// This rank.
        rank: Rank,
        /// The access.
        source: RegionError,
    },
}

/// A peer that was masked during an operation.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loss {
    /// The peer.
    pub rank: Rank,
    /// The life of it that was lost.
    pub incarnation: Incarnation,
    /// The operation, which is also the first that leaves the peer out.
    pub epoch: Epoch,
    /// Why.
    pub cause: LossCause,
}

/// Why a peer was masked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossCause {
    /// Nothing came from it, nor a report that it waits for somebody itself.
    #[error("no answer within {waited:?}")]
    Silent {
        /// How long this rank waited.
        waited: Duration,
    },
    /// What was to be sent could not be handed to the network in time.
    #[error("could not send within {waited:?}: {what}")]
    Unsendable {
        /// How long this rank tried.
        waited: Duration,
        /// What was in the way.
        what: &'static str,
    },
    /// The network said so.
    #[error(transparent)]
    Fault(#[from] PeerFault),
    /// It sent something that cannot be right.
    #[error(transparent)]
    Content(#[from] SlotError),
    /// The membership agent masked it while the operation was under way.
    #[error("masked by the membership agent")]
    Withdrawn,
}
