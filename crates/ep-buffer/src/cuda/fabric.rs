//! The group under a buffer.

use ep_transport::cuda::{Device, GpuGroup, Windows};
use ep_transport::{Incarnation, Rank};
use std::sync::Arc;

/// What a buffer needs of the group that it is in.
pub trait DeviceFabric {
    /// This rank.
    fn rank(&self) -> Rank;
    /// This life of it, not 0.
    fn incarnation(&self) -> Incarnation;
    /// The GPU.
    fn device(&self) -> &Arc<Device>;
    /// The memory of all ranks, this one's included.
    fn windows(&self) -> &Windows;
    /// Where the device table is.
    fn table_address(&self) -> u64;
}

impl DeviceFabric for GpuGroup {
    fn rank(&self) -> Rank {
        Self::rank(self)
    }

    fn incarnation(&self) -> Incarnation {
        Self::incarnation(self)
    }

    fn device(&self) -> &Arc<Device> {
        Self::device(self)
    }

    fn windows(&self) -> &Windows {
        Self::windows(self)
    }

    fn table_address(&self) -> u64 {
        Self::table_address(self)
    }
}
