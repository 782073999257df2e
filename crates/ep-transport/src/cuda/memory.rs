//! Memory of a GPU: small tables, and what peers map.

use super::device::Device;
use super::error::CudaError;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use rustix::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

/// Windows have at most about this many pieces of the memory that stands in for a peer.
const PIECES: u64 = 64;
/// `CU_MEM_ALLOC_GRANULARITY_MINIMUM`
const MINIMUM: u32 = 0;
/// What descriptors stand for.
pub(super) const POSIX_FD: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

fn size(what: &'static str, bytes: u64) -> Result<usize, CudaError> {
    let size = usize::try_from(bytes).ok();
    size.filter(|size| *size > 0)
        .ok_or(CudaError::BadSize { what, bytes })
}

/// Memory of one GPU for tables and statistics, which the host reads and writes by copies.
///
/// # Invariants
/// `address` is the start of an allocation of `bytes` bytes.
#[derive(Debug)]
pub struct DeviceMemory {
    device: Arc<Device>,
    address: u64,
    bytes: u64,
}

impl DeviceMemory {
    /// Zeroed memory.
    ///
    /// # Errors
    /// `bytes` is 0, or there is not enough memory.
    pub fn new(device: &Arc<Device>, bytes: u64) -> Result<Self, CudaError> {
        let size = size("GPU memory", bytes)?;
        let mut address = 0;
        let scope = device.scope()?;
        // SAFETY: `address` is written during the call; the context is current.
        unsafe { device.driver().mem_alloc(&mut address, size)? };
        drop(scope);
        let memory = Self {
            device: Arc::clone(device),
            address,
            bytes,
        };
        // SAFETY: the memory was just allocated.
        unsafe { device.copies().clear(device, address, size)? };
        Ok(memory)
    }

    /// The GPU.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where kernels find it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Never true: there is no empty memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn at(&self, offset: u64, len: usize) -> Result<u64, CudaError> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.bytes => Ok(self.address + offset),
            _ => Err(CudaError::OutOfRange {
                offset,
                len: len as u64,
                bytes: self.bytes,
            }),
        }
    }

    /// Copies `data` to `offset`, and returns when it is there. Kernels that run at the time
    /// see each aligned word as it was or as it is now.
    ///
    /// # Errors
    /// The range is not inside the memory, or the GPU does not answer.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), CudaError> {
        let to = self.at(offset, data.len())?;
        // SAFETY: in range (checked) of memory that lives as long as this value.
        unsafe { self.device.copies().write(&self.device, to, data) }
    }

    /// Copies what is at `offset` into `data`.
    ///
    /// # Errors
    /// The range is not inside the memory, or the GPU does not answer.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), CudaError> {
        let from = self.at(offset, data.len())?;
        // SAFETY: in range (checked) of memory that lives as long as this value.
        unsafe { self.device.copies().read(&self.device, from, data) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_scope) = self.device.scope() {
            // SAFETY: allocated by `new`. The driver waits for kernels that use it.
            let _ = unsafe { self.device.driver().mem_free(self.address) };
        }
    }
}

/// A piece of a GPU's memory that has no address, only a handle, and can be mapped by any
/// process that is given a descriptor.
///
/// # Invariants
/// `handle` is an allocation of `bytes` bytes.
#[derive(Debug)]
pub struct DeviceRegion {
    device: Arc<Device>,
    handle: u64,
    bytes: u64,
}

impl DeviceRegion {
    /// New memory of at least `bytes` bytes; [`DeviceRegion::len`] says how many it has.
    ///
    /// # Errors
    /// `bytes` is 0, there is not enough memory, or the GPU cannot share any.
    pub fn new(device: &Arc<Device>, bytes: u64) -> Result<Self, CudaError> {
        let bytes = Extent::of(device, bytes)?.bytes;
        Self::exact(device, bytes)
    }

    /// `bytes` is a multiple of what the GPU allocates.
    pub(super) fn exact(device: &Arc<Device>, bytes: u64) -> Result<Self, CudaError> {
        let size = size("a GPU region", bytes)?;
        device.require(
            Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
            "memory that is shared by descriptor",
        )?;
        let mut handle = 0;
        let _scope = device.scope()?;
        // SAFETY: `handle` is written during the call.
        unsafe {
            let properties = properties(device);
            device
                .driver()
                .mem_create(&mut handle, size, &properties, 0)?;
        }
        Ok(Self {
            device: Arc::clone(device),
            handle,
            bytes,
        })
    }

    /// The GPU.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The driver's handle.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Size in bytes, rounded up to what the GPU allocates.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Never true: there is no empty region.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A descriptor by which another process can map the memory.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn export(&self) -> Result<OwnedFd, CudaError> {
        let mut file: i32 = -1;
        let _scope = self.device.scope()?;
        // SAFETY: for this kind of handle the driver writes a descriptor, an `int`, which
        // is the caller's from then on.
        unsafe {
            let driver = self.device.driver();
            driver.mem_export((&raw mut file).cast(), self.handle, POSIX_FD, 0)?;
            Ok(OwnedFd::from_raw_fd(file))
        }
    }
}

impl Drop for DeviceRegion {
    fn drop(&mut self) {
        if let Ok(_scope) = self.device.scope() {
            // SAFETY: made by `new`. The memory goes when its last mapping goes.
            let _ = unsafe { self.device.driver().mem_release(self.handle) };
        }
    }
}

fn properties(device: &Device) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: POSIX_FD,
        location: location(device),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

/// The GPU, where memory is or from where it is reached.
pub(super) fn location(device: &Device) -> sys::CUmemLocation {
    sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: device.ordinal() as i32,
    }
}

/// How large regions and windows for `wanted` bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes of a region, and from one window to the next.
    pub(super) bytes: u64,
    /// Bytes of the memory that stands in for a peer; a divisor of the above.
    pub(super) piece: u64,
    /// What the GPU allocates, and aligns to.
    pub(super) granularity: u64,
}

impl Extent {
    pub(super) fn of(device: &Device, wanted: u64) -> Result<Self, CudaError> {
        let mut granularity = 0;
        let _scope = device.scope()?;
        // SAFETY: `granularity` is written during the call.
        unsafe {
            let properties = properties(device);
            let driver = device.driver();
            driver.mem_granularity(&mut granularity, &properties, MINIMUM)?;
        }
        Self::with(wanted, granularity as u64).ok_or(CudaError::BadSize {
            what: "a GPU region",
            bytes: wanted,
        })
    }

    fn with(wanted: u64, granularity: u64) -> Option<Self> {
        if wanted == 0 || granularity == 0 {
            return None;
        }
        let granules = wanted.div_ceil(granularity);
        let piece = granules.div_ceil(PIECES);
        let bytes = granules
            .checked_next_multiple_of(piece)?
            .checked_mul(granularity)?;
        Some(Self {
            bytes,
            piece: piece * granularity,
            granularity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_whole_pieces_and_pieces_are_few() {
        const MIB: u64 = 1 << 20;
        let extent = Extent::with(1, 2 * MIB).unwrap();
        assert_eq!((extent.bytes, extent.piece), (2 * MIB, 2 * MIB));
        let extent = Extent::with(131 * MIB, 2 * MIB).unwrap();
        assert_eq!((extent.bytes, extent.piece), (132 * MIB, 4 * MIB));
        for wanted in (1..5000).map(|n| n * MIB - 3) {
            let extent = Extent::with(wanted, 2 * MIB).unwrap();
            assert!(extent.bytes >= wanted && extent.bytes - wanted < extent.piece + 2 * MIB);
            assert_eq!(extent.bytes % extent.piece, 0);
            assert!(extent.bytes / extent.piece <= PIECES);
        }
        assert_eq!(Extent::with(0, 2 * MIB), None);
        assert_eq!(Extent::with(u64::MAX, 2 * MIB), None);
    }
}
