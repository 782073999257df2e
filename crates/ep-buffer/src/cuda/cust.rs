//! Streams and memory of the crate `cust`.

use super::tensor::{Stream, Tensor};
use cust::memory::{DeviceBuffer, DeviceCopy, DeviceSlice};

impl From<&cust::stream::Stream> for Stream {
    fn from(stream: &cust::stream::Stream) -> Self {
        // The same handle of the driver, of which each crate has a declaration of its own.
        Self(stream.as_inner().cast())
    }
}

impl<T: DeviceCopy> From<&DeviceSlice<T>> for Tensor {
    fn from(slice: &DeviceSlice<T>) -> Self {
        let bytes = slice.len() * size_of::<T>();
        Self::new(slice.as_device_ptr().as_raw(), bytes as u64)
    }
}

impl<T: DeviceCopy> From<&DeviceBuffer<T>> for Tensor {
    fn from(buffer: &DeviceBuffer<T>) -> Self {
        Self::from(&**buffer)
    }
}
