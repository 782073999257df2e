//! Several ranks of GPUs in one process, for tests and benchmarks of kernels.
//!
//! Ranks are dealt out to the GPUs that there are; those that share one must share its
//! multiprocessors ([`super::Settings::sms`]), since their kernels wait for one another, and make
//! their streams one after the other: the driver may give the same queue of the GPU to streams
//! that are made at the same time.

use super::buffer::EpBuffer;
use super::fabric::DeviceFabric;
use super::layout::Layout;
use super::tensor::Tensor;
use crate::config::Config;
use ep_transport::cuda::table::Table;
use ep_transport::cuda::{
    CudaError, Device, DeviceControl, DeviceMemory, DeviceRegion, Driver,
    Settings as ControlSettings, Windows,
};
use ep_transport::{Epoch, Incarnation, Rank};
use std::sync::Arc;

/// Multiprocessors of a GPU that ranks leave alone if they share it, for what the driver runs.
const SPARE_SMS: u32 = 4;
const FIRST_LIFE: Incarnation = Incarnation(1);

/// One rank of a cluster.
#[derive(Debug)]
pub struct Member {
    rank: Rank,
    device: Arc<Device>,
    windows: Windows,
    control: DeviceControl,
}

impl Member {
    /// The device table, to mask ranks and admit them.
    #[must_use]
    pub fn control(&self) -> &DeviceControl {
        &self.control
    }

    /// Goes on at `epoch` among all others, who have to be masked.
    ///
    /// # Errors
    /// A rank is not masked, or the memory cannot be reached.
    pub fn admit_all(&self, epoch: Epoch) -> Result<(), CudaError> {
        let all = (0..self.windows.capacity()).map(Rank);
        let others = all.filter(|rank| *rank != self.rank);
        let others: Vec<_> = others.map(|rank| (rank, FIRST_LIFE)).collect();
        self.control.admit_self(&others, epoch)
    }

    /// The words in this rank's own window by which `source` tells it, in the dispatch of
    /// `epoch`, how many rows each expert and how many tokens come: (tag << 32 | word).
    #[must_use]
    pub fn counts_from(&self, config: &Config, source: Rank, epoch: Epoch) -> Tensor {
        let layout = Layout::new(config);
        let bytes = u64::from(layout.count_words) * 8;
        self.own_range(&layout, layout.counts_at, bytes, source, epoch)
    }

    /// The lines in this rank's own window by which `source` tells it, in the dispatch of
    /// `epoch`, which rows each token is, `[max_tokens][lines][32]` words. In the first line
    /// of a token word 1 + 2k is (row << 16 | expert) of choice k, or has all bits set; the last
    /// word of each line is the tag.
    #[must_use]
    pub fn meta_from(&self, config: &Config, source: Rank, epoch: Epoch) -> Tensor {
        let layout = Layout::new(config);
        let lines = u64::from(config.max_tokens()) * u64::from(layout.meta_lines);
        self.own_range(&layout, layout.meta_at, lines * 128, source, epoch)
    }

    fn own_range(
        &self,
        layout: &Layout,
        at: u64,
        bytes: u64,
        source: Rank,
        epoch: Epoch,
    ) -> Tensor {
        let own = self.windows.base() + u64::from(self.rank.0) * self.windows.stride();
        let half = own + epoch.0 % 2 * layout.half_bytes;
        Tensor::new(half + at + u64::from(source.0) * bytes, bytes)
    }
}

/// GPUs that this process sees; 0 if there is no driver.
#[must_use]
pub fn device_count() -> u32 {
    Driver::get().and_then(Driver::device_count).unwrap_or(0)
}

/// Multiprocessors for each rank of `config`, see [`super::Settings::sms`]: its part of a GPU's
/// where ranks share GPUs, and nothing where each has one.
///
/// # Errors
/// The driver does not answer.
pub fn sms_of_each(config: &Config) -> Result<Option<u32>, CudaError> {
    match config.capacity().div_ceil(device_count().max(1)) {
        0 | 1 => Ok(None),
        on_each => {
            let all = Device::open(0)?.sm_count()?;
            Ok(Some(all.saturating_sub(SPARE_SMS) / on_each))
        }
    }
}

/// All ranks of `config`, connected, everybody active from epoch 0 on.
///
/// # Errors
/// There is no GPU, or they do not reach one another.
pub fn cluster(config: &Config) -> Result<Vec<Member>, CudaError> {
    let members = strangers(config)?;
    for member in &members {
        member.admit_all(Epoch(0))?;
    }
    Ok(members)
}

/// All ranks of `config`, connected, each of them alone until [`Member::admit_all`].
///
/// # Errors
/// There is no GPU, or they do not reach one another.
pub fn strangers(config: &Config) -> Result<Vec<Member>, CudaError> {
    let capacity = config.capacity();
    let gpus = device_count().max(1);
    let bytes = EpBuffer::footprint(config);
    let devices = (0..capacity)
        .map(|rank| Device::open(rank % gpus))
        .collect::<Result<Vec<_>, _>>()?;
    let regions = devices
        .iter()
        .map(|device| DeviceRegion::new(device, bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let mut members = Vec::new();
    for (rank, device) in (0..capacity).map(Rank).zip(&devices) {
        let windows = Windows::reserve(device, capacity, bytes)?;
        for (peer, region) in (0..capacity).map(Rank).zip(&regions) {
            // SAFETY: nothing was launched yet.
            unsafe {
                if peer == rank {
                    windows.place_own(peer, region)?;
                } else {
                    windows.share_in_process(peer, region)?;
                }
            }
        }
        members.push(Member {
            rank,
            windows,
            control: control(device, config)?,
            device: Arc::clone(device),
        });
    }
    Ok(members)
}

fn control(device: &Arc<Device>, config: &Config) -> Result<DeviceControl, CudaError> {
    let settings = ControlSettings {
        capacity: config.capacity(),
        own: FIRST_LIFE,
        round: u64::from(config.ops_per_round()),
        time_out: config.time_out(),
        decision_time_out: config.decision_time_out(),
    };
    let memory = DeviceMemory::new(device, size_of::<Table>() as u64)?;
    DeviceControl::new(memory, settings)
}

impl DeviceFabric for Member {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn incarnation(&self) -> Incarnation {
        FIRST_LIFE
    }

    fn device(&self) -> &Arc<Device> {
        &self.device
    }

    fn windows(&self) -> &Windows {
        &self.windows
    }

    fn table_address(&self) -> u64 {
        self.control.words().address()
    }
}
