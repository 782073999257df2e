//! What is particular to GPUs about a buffer.

pub use crate::fp8::ScaleFormat;
pub use crate::rows::DispatchType;

/// Settings of a buffer on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Streaming multiprocessors that an operation occupies, one thread block each; `None`
    /// for all. They must be free at the same time: blocks wait for one another.
    pub sms: Option<u32>,
    /// Of these, the ones that send in a dispatch; `None` for a quarter, and at least as many as
    /// ranks there can be. In the combine of a batch of more than 256 tokens two fifths
    /// send, and half where there can be more than two ranks.
    pub senders: Option<u32>,
    /// Kernels are brought onto the GPU while those before them are still running there
    /// (programmatic launch), which saves about a microsecond for each. Not for ranks that
    /// share a GPU: what waits there would be in the way of what it waits for. `None`: if
    /// `sms` is `None`.
    pub early_launch: Option<bool>,
}
