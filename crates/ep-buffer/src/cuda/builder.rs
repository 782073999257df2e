//! From a configuration to a buffer in a group, in one call.

use super::buffer::EpBuffer;
use super::settings::Settings;
use crate::config::Config;
use crate::error::EpError;
use crate::group::with_rows;
use ep_transport::cuda::{Device, GpuGroup, TimeOuts};
use ep_transport::store::Rendezvous;
use ep_transport::{GroupConfig, Rank};
use std::sync::Arc;

/// Collects what a buffer on a GPU and its group need.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    config: Config,
    settings: Settings,
    group: GroupConfig,
    ordinal: u32,
}

impl EpBuffer<GpuGroup> {
    /// Starts a buffer for `rank`; see [`Builder::open`].
    pub fn builder(rank: Rank, config: Config) -> Builder {
        Builder {
            group: config.group_of_any_rows(rank),
            config,
            settings: Settings::default(),
            ordinal: 0,
        }
    }
}

impl Builder {
    /// What rows are dispatched as, the number of SMs and so on. Default: bf16 on all SMs.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The number by which this process knows its GPU. Default: 0.
    pub fn device(mut self, ordinal: u32) -> Self {
        self.ordinal = ordinal;
        self
    }

    /// Changes the group's settings, of which those of [`Config::group`] are the defaults:
    /// its name, secret and initial ranks, leases, the time an attempt may take.
    pub fn group(mut self, change: impl FnOnce(&mut GroupConfig)) -> Self {
        change(&mut self.group);
        self
    }

    /// Opens the GPU, takes the rank with memory of [`EpBuffer::footprint`] bytes, and makes
    /// the buffer. Nobody has heard of this rank yet: it can warm up and capture graphs, with
    /// every peer masked, and then calls [`GpuGroup::wait_admitted`] on
    /// [`EpBuffer::fabric_mut`].
    ///
    /// # Errors
    /// There is no driver or no such GPU, the configuration does not fit it, the group's
    /// settings are out of their limits, the store is away, or a living process holds the rank.
    pub fn open(self, store: Arc<dyn Rendezvous>) -> Result<EpBuffer<GpuGroup>, EpError> {
        let rank = self.group.rank;
        self.settings.check(&self.config, rank)?;
        let refused = |source| EpError::Cuda { rank, source };
        let device = Device::open(self.ordinal).map_err(refused)?;
        let bytes = EpBuffer::footprint(&self.config, &self.settings);
        let time_outs = TimeOuts {
            operation: self.config.time_out(),
            decision: self.config.decision_time_out(),
        };
        let group = self.agreed();
        let group = GpuGroup::open(&group, &device, bytes, time_outs, store).map_err(|source| {
            let source = Box::new(source);
            EpError::Group { rank, source }
        })?;
        EpBuffer::new(self.config, self.settings, group)
    }

    /// The group's settings, with what all buffers must have in common.
    fn agreed(&self) -> GroupConfig {
        with_rows(self.group.clone(), self.settings.dispatch_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{DispatchType, ScaleFormat};
    use ep_transport::store::MemStore;

    fn builder() -> Builder {
        let config = Config::builder(2, 8, 256, 16).build().unwrap();
        EpBuffer::builder(Rank(1), config)
    }

    #[test]
    fn ranks_that_dispatch_other_rows_do_not_agree() {
        let types = [
            DispatchType::Bf16,
            DispatchType::Fp8(ScaleFormat::F32),
            DispatchType::Fp8(ScaleFormat::Ue8m0),
        ];
        let common = |dispatch_type| {
            let settings = Settings {
                dispatch_type,
                ..Settings::default()
            };
            builder().settings(settings).agreed().common
        };
        for (i, one) in types.iter().enumerate() {
            for (j, other) in types.iter().enumerate() {
                assert_eq!(i == j, common(*one) == common(*other));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_there_is_a_gpu() {
        let refused = |hidden, of_config, dispatch_type| {
            let config = Config::builder(2, 8, hidden, 16).dispatch_type(of_config);
            let settings = Settings {
                dispatch_type,
                ..Settings::default()
            };
            let builder = EpBuffer::builder(Rank(1), config.build().unwrap()).settings(settings);
            let error = builder.device(1 << 20).open(Arc::new(MemStore::new()));
            error.unwrap_err().to_string()
        };
        let (bf16, fp8) = (DispatchType::Bf16, DispatchType::Fp8(ScaleFormat::F32));
        assert_eq!(
            refused(264, bf16, fp8),
            "rank 1: hidden of rows in FP8 is 264, which is not a multiple of 128"
        );
        assert_eq!(
            refused(256, fp8, bf16),
            "rank 1: rows are fp8 in the configuration and bf16 in the settings of the GPU"
        );
        // A configuration that says nothing, or the same.
        for of_config in [bf16, fp8] {
            assert_eq!(refused(256, of_config, fp8), "rank 1: the GPU refused");
        }
    }

    #[test]
    fn what_is_not_a_gpu_is_an_error_and_takes_no_rank() {
        let store = MemStore::new();
        let beyond = builder().device(1 << 20).group(|group| group.lanes = 1);
        let error = beyond.open(Arc::new(store.clone())).unwrap_err();
        assert!(
            matches!(error, EpError::Cuda { rank: Rank(1), .. }),
            "{error}"
        );
        let left = store.changes(
            "",
            ep_transport::store::Revision(0),
            std::time::Duration::ZERO,
        );
        assert!(left.unwrap().changes.is_empty());
    }
}
