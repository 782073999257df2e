//! What is particular to GPUs about a buffer.

use crate::config::Config;
use crate::error::EpError;
use ep_transport::Rank;

pub use crate::fp8::ScaleFormat;
pub use crate::rows::DispatchType;

/// Settings of a buffer on a GPU. All ranks use the same dispatch type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What rows are dispatched as. [`Config::dispatch_type`] is the host form's: it is left
    /// alone or says the same.
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

    /// Whether buffers of `config` can dispatch such rows.
    pub(super) fn check(&self, config: &Config, rank: Rank) -> Result<(), EpError> {
        let (ours, theirs) = (self.dispatch_type, config.dispatch_type());
        if theirs != DispatchType::default() && theirs != ours {
            return Err(EpError::DispatchType {
                rank,
                config: theirs,
                settings: ours,
            });
        }
        if !config.hidden().is_multiple_of(ours.multiple()) {
            return Err(EpError::NotMultiple {
                rank,
                what: ours.hidden_name(),
                value: config.hidden().into(),
                multiple: ours.multiple().into(),
            });
        }
        Ok(())
    }
}
