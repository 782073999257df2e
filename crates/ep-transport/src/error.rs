//! Everything that can go wrong in this crate, data path apart.

use crate::ids::{Incarnation, Rank};
use crate::member::records::RecordError;
use crate::region::RegionError;
use crate::store::StoreError;
use crate::verbs::VerbsError;
use std::time::Duration;

/// Why a group could not be formed, joined or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting outside of its limits.
    #[error("{what} is {value}, but must be {limit}")]
    Config {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        limit: String,
    },
    /// Another rank was started with other sizes.
    #[error("{rank} has a different configuration: theirs is [{theirs}], ours is [{ours}]")]
    ConfigMismatch {
        /// The other rank.
        rank: Rank,
        /// Its configuration.
        theirs: String,
        /// This rank's configuration.
        ours: String,
    },
    /// The rendezvous refused or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something at the rendezvous cannot be understood.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Memory could not be had or mapped.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The control memory is too small for another queue.
    #[error("control memory for queue pairs: {0}")]
    ControlMemory(#[from] memheap::AllocError),
    /// A NIC object could not be made or changed.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    /// A peer's window could not be had.
    #[error("window of {rank} ({what})")]
    Window {
        /// The peer, or this rank.
        rank: Rank,
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Windows need both ranks on one host.
    #[error("{rank} is on host [{theirs}], this rank on [{ours}]: no window can be mapped")]
    OtherHost {
        /// The peer.
        rank: Rank,
        /// Its host.
        theirs: String,
        /// This rank's host.
        ours: String,
    },
    /// A peer published something else than this rank's path needs.
    #[error("{rank} offers no {what}")]
    NotOffered {
        /// The peer.
        rank: Rank,
        /// What is missing.
        what: &'static str,
    },
    /// Operations under way did not end in time, so their links were not touched.
    #[error("operations under way did not end within {limit:?}")]
    NotQuiet {
        /// How long was waited.
        limit: Duration,
    },
    /// A living process holds this rank.
    #[error("{rank} is taken: {incarnation} was still there after {limit:?}")]
    RankTaken {
        /// The rank asked for.
        rank: Rank,
        /// Who holds it.
        incarnation: Incarnation,
        /// How long was waited.
        limit: Duration,
    },
    /// The group did not admit this rank in time.
    #[error("{rank} was not admitted within {limit:?}; present: {present}")]
    NotAdmitted {
        /// This rank.
        rank: Rank,
        /// How long was waited.
        limit: Duration,
        /// Whose cards were seen.
        present: String,
    },
    /// Members were still there when the wait for them to finish was over.
    #[error("{rank} waited {limit:?} in vain for {pending}")]
    NotFinished {
        /// This rank.
        rank: Rank,
        /// How long was waited.
        limit: Duration,
        /// Who had not finished.
        pending: String,
    },
    /// Writes to peers that count were not acknowledged before this rank left.
    #[error("{rank} left within {limit:?}, and what it last wrote to {pending} may be lost")]
    NotDelivered {
        /// This rank.
        rank: Rank,
        /// How long was waited.
        limit: Duration,
        /// To whom.
        pending: String,
    },
    /// Another process has taken this rank.
    #[error("{rank} was taken over by {by}")]
    Superseded {
        /// This rank.
        rank: Rank,
        /// The other life.
        by: Incarnation,
    },
    /// A GPU refused, or does not answer.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    /// The GPUs of two ranks cannot be joined by a window.
    #[cfg(feature = "cuda")]
    #[error("{me} on {ours} does not reach the memory of {rank} on {theirs}")]
    NoPeerAccess {
        /// This rank.
        me: Rank,
        /// Its GPU.
        ours: crate::cuda::Uuid,
        /// The peer.
        rank: Rank,
        /// Its GPU.
        theirs: crate::cuda::Uuid,
        /// What the driver said, if it was asked to map the memory.
        source: Option<crate::cuda::CudaError>,
    },
    /// A thread could not be started.
    #[error("cannot start the {name} thread")]
    Thread {
        /// Its name.
        name: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why this rank cannot become a member: an [`Error`] for everybody who asks.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    Record(RecordError),
    ConfigMismatch {
        rank: Rank,
        theirs: String,
        ours: String,
    },
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::CudaError),
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

#[cfg(feature = "cuda")]
impl From<crate::cuda::CudaError> for Refusal {
    fn from(error: crate::cuda::CudaError) -> Self {
        Self::Cuda(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Record(error) => Self::Record(error),
            Refusal::ConfigMismatch { rank, theirs, ours } => {
                Self::ConfigMismatch { rank, theirs, ours }
            }
            #[cfg(feature = "cuda")]
            Refusal::Cuda(error) => Self::Cuda(error),
        }
    }
}

/// An error with all its causes, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_each_cause_once() {
        let source = std::io::Error::other("no descriptor");
        let error = Error::Window {
            rank: Rank(3),
            what: "socket x".into(),
            source,
        };
        assert_eq!(error.to_string(), "window of rank 3 (socket x)");
        assert_eq!(
            Chain(&error).to_string(),
            "window of rank 3 (socket x): no descriptor"
        );
    }
}
