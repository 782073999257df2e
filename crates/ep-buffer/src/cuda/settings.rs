//! What is particular to GPUs about a buffer.

pub use crate::fp8::ScaleFormat;

/// What rows are dispatched as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DispatchType {
    /// As they are.
    #[default]
    Bf16,
    /// E4M3, quantised by the sender in groups of 128 channels.
    Fp8(ScaleFormat),
}

/// Settings of a buffer on a GPU. All ranks use the same dispatch type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What rows are dispatched as.
    pub dispatch_type: DispatchType,
    /// Streaming multiprocessors that an operation occupies, one thread block each; `None`
    /// for all. They must be free at the same time: blocks wait for one another.
    pub sms: Option<u32>,
    /// Of these, the ones that send in a dispatch; `None` for a quarter.
    pub senders: Option<u32>,
    /// Kernels are brought onto the GPU while those before them are still running there
    /// (programmatic launch), which saves about a microsecond for each. Not for ranks that
    /// share a GPU: what waits there would be in the way of what it waits for. `None`: if
    /// `sms` is `None`.
    pub early_launch: Option<bool>,
}

impl Settings {
    /// Dispatch in bf16.
    #[must_use]
    pub fn bf16() -> Self {
        Self::default()
    }

    /// Dispatch in FP8 with `f32` scales.
    #[must_use]
    pub fn fp8() -> Self {
        Self {
            dispatch_type: DispatchType::Fp8(ScaleFormat::F32),
            ..Self::default()
        }
    }
}
