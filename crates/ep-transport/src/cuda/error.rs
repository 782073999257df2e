//! What can go wrong with a GPU.

use crate::ids::Rank;
use std::time::Duration;

/// Why something with a GPU failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no `libcuda` here.
    #[error("no CUDA driver here: libcuda cannot be loaded")]
    NoDriver,
    /// The driver is too old.
    #[error("the CUDA driver has no function {function}")]
    NoFunction {
        /// What it lacks.
        function: &'static str,
    },
    /// A call of the driver failed.
    #[error("{call} failed: {name} ({code})")]
    Call {
        /// The driver's function.
        call: &'static str,
        /// The result code, as the driver's header numbers them.
        code: u32,
        /// The driver's name for it.
        name: String,
    },
    /// There are fewer GPUs.
    #[error("there is no GPU {ordinal}: this process sees {count}")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The GPU lacks something that is needed.
    #[error("GPU {ordinal} ({uuid}) does not support {what}")]
    Unsupported {
        /// Its number in this process.
        ordinal: u32,
        /// Its identity.
        uuid: super::Uuid,
        /// What is missing.
        what: &'static str,
    },
    /// A size of zero, or one that cannot be addressed.
    #[error("{what} of {bytes} bytes cannot be made")]
    BadSize {
        /// What was asked for.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// An access outside of the memory.
    #[error("access of {len} bytes at offset {offset} is outside of GPU memory of {bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The memory's size.
        bytes: u64,
    },
    /// No window and no row for this rank.
    #[error("there is no {rank}: the capacity is {capacity}")]
    NoSuchRank {
        /// The rank asked for.
        rank: Rank,
        /// How many ranks there can be.
        capacity: u32,
    },
    /// A window and the memory that is to be seen through it differ.
    #[error("the memory of {rank} has {theirs} bytes, its window {ours}")]
    WindowSize {
        /// The rank.
        rank: Rank,
        /// Bytes of its memory.
        theirs: u64,
        /// Bytes of the window.
        ours: u64,
    },
    /// The table has no room for so many.
    #[error("a capacity of {capacity} is beyond the {limit} ranks of a GPU's table")]
    TooManyRanks {
        /// Ranks asked for.
        capacity: u32,
        /// Ranks that there can be.
        limit: u32,
    },
    /// A rank that takes part cannot be admitted.
    #[error("{rank} takes part: it has to be masked before it can be admitted")]
    NotMasked {
        /// The rank.
        rank: Rank,
    },
    /// Operations came before every change that was tried.
    #[error("a change to the table was not possible in {tries} tries")]
    NeverQuiet {
        /// How often.
        tries: u32,
    },
    /// The GPU did not answer.
    #[error("a copy of {bytes} bytes was not done after {limit:?}")]
    TimedOut {
        /// Bytes.
        bytes: u64,
        /// How long was waited.
        limit: Duration,
    },
}

impl CudaError {
    /// The driver's result code, if it was the driver that refused.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Call { code, .. } => Some(*code),
            _ => None,
        }
    }
}
