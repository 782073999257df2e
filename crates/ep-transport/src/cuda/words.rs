//! The words of a table, wherever they are, and the time that passes there.

use super::error::CudaError;
use super::memory::DeviceMemory;
use crate::events::monotonic_us;
use std::time::Duration;

/// Memory that kernels read and write at the same time. Offsets and lengths are multiples
/// of 4; an aligned word of 8 bytes is never seen half written, but of several words any
/// may be seen first.
pub trait Words: Send + Sync {
    /// Copies what is at `offset`.
    ///
    /// # Errors
    /// The memory cannot be reached.
    fn load(&self, offset: usize, to: &mut [u8]) -> Result<(), CudaError>;

    /// Copies to `offset`. What was stored is there for all kernels when this returns.
    ///
    /// # Errors
    /// The memory cannot be reached.
    fn store(&self, offset: usize, from: &[u8]) -> Result<(), CudaError>;

    /// Lets time pass.
    fn pause(&self, time: Duration);

    /// The time, from whenever on.
    fn now(&self) -> Duration;
}

impl Words for DeviceMemory {
    fn load(&self, offset: usize, to: &mut [u8]) -> Result<(), CudaError> {
        self.read(offset as u64, to)
    }

    fn store(&self, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        self.write(offset as u64, from)
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn now(&self) -> Duration {
        Duration::from_micros(monotonic_us())
    }
}
