//! Checks whose errors name rank, value and limits.

use super::tensor::Tensor;
use crate::error::EpError;
use ep_transport::Rank;
use ep_transport::cuda::{CudaError, Device};

/// Checks that name rank, value and limits.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) rank: Rank,
}

impl Limits {
    pub(super) fn within<N: Into<u64> + Copy>(
        self,
        what: &'static str,
        value: N,
        min: N,
        max: N,
    ) -> Result<(), EpError> {
        let (value, min, max) = (value.into(), min.into(), max.into());
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(EpError::Limit {
            rank: self.rank,
            what,
            value: value as usize,
            min: min as usize,
            max: max as usize,
        })
    }

    /// A GPU that the kernels run on: they are compiled for 9.0, and by the driver for what came
    /// after it.
    pub(super) fn gpu(self, device: &Device) -> Result<(), EpError> {
        let rank = self.rank;
        let refused = |source| EpError::Cuda { rank, source };
        if device.compute_capability().map_err(refused)? >= (9, 0) {
            return Ok(());
        }
        Err(refused(CudaError::Unsupported {
            ordinal: device.ordinal(),
            uuid: device.uuid(),
            what: "compute capability 9.0 or newer",
        }))
    }

    /// Device memory that is there, large enough, and aligned for vectors.
    pub(super) fn tensor(
        self,
        what: &'static str,
        tensor: Tensor,
        bytes: u64,
    ) -> Result<(), EpError> {
        if tensor.bytes >= bytes
            && (bytes == 0 || tensor.address != 0 && tensor.address.is_multiple_of(16))
        {
            return Ok(());
        }
        Err(EpError::Tensor {
            rank: self.rank,
            what,
            address: tensor.address,
            bytes: tensor.bytes,
            needed: bytes,
        })
    }
}
