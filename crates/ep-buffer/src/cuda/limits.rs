//! Checks whose errors name rank, value and limits.

use super::tensor::Tensor;
use crate::error::EpError;
use ep_transport::Rank;

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
