//! From a configuration to a buffer in a group, in one call.

use super::buffer::EpBuffer;
use super::resources::Resources;
use super::settings::Settings;
use crate::config::Config;
use crate::error::EpError;
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
            group: config.group(rank),
            config,
            settings: Settings::default(),
            ordinal: 0,
        }
    }
}

impl Builder {
    /// The number of SMs and so on. Default: all of them.
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
    /// There is no driver or no such GPU or it is too old, the configuration does not fit it, the
    /// group's settings are out of their limits, the store is away, or a living process holds the
    /// rank.
    pub fn open(self, store: Arc<dyn Rendezvous>) -> Result<EpBuffer<GpuGroup>, EpError> {
        let rank = self.group.rank;
        let refused = |source| EpError::Cuda { rank, source };
        let device = Device::open(self.ordinal).map_err(refused)?;
        Resources::new(&self.config, self.settings, rank, &device)?;
        let bytes = EpBuffer::footprint(&self.config);
        let time_outs = TimeOuts {
            operation: self.config.time_out(),
            decision: self.config.decision_time_out(),
        };
        let group = GpuGroup::open(&self.group, &device, bytes, time_outs, store);
        let group = group.map_err(|source| {
            let source = Box::new(source);
            EpError::Group { rank, source }
        })?;
        EpBuffer::new(self.config, self.settings, group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ep_transport::store::MemStore;

    fn builder() -> Builder {
        let config = Config::builder(2, 8, 256, 16).build().unwrap();
        EpBuffer::builder(Rank(1), config)
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
