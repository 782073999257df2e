//! Memory of a GPU, registered so that the NIC reaches it without the host (GPUDirect).

use super::object::MemoryRegion;
use super::{Device, ProtectionDomain, VerbsError};
use crate::config::{GidChoice, Nic};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;
use std::path::Path;

/// Where the module that gives the kernel's RDMA core the pages of a GPU is seen.
const PEER_MODULE: &str = "/sys/module/nvidia_peermem";

/// What GPU memory is registered by.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum GpuRange<'a> {
    /// A dmabuf: `cuMemGetHandleForAddressRange`, Linux 5.12, open kernel modules.
    DmaBuf {
        /// The descriptor; needed during the registration only.
        file: BorrowedFd<'a>,
        /// First byte in it, with the same offset in its page as `address`.
        offset: u64,
        /// The address by which peers name that byte.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// The address of GPU memory in this process, which the module `nvidia_peermem`
    /// understands.
    Peer {
        /// The address.
        address: u64,
        /// Bytes.
        len: u64,
    },
}

/// GPU memory that a NIC reads and writes.
#[derive(Debug)]
pub struct GpuMemory {
    region: MemoryRegion,
}

impl GpuMemory {
    /// Registers memory of a GPU with a NIC, for remote writes.
    ///
    /// # Errors
    /// The NIC cannot be opened; or it cannot reach the memory, with what is missing for
    /// that as far as it can be told.
    ///
    /// # Safety
    /// The memory stays allocated, and what a descriptor stands for does not become
    /// shorter, as long as the value lives. Nothing in it is referenced by Rust references.
    pub unsafe fn register(nic: &Nic, range: GpuRange<'_>) -> Result<Self, VerbsError> {
        let device = Device::open(nic, GidChoice::Automatic)?;
        let domain = ProtectionDomain::allocate(&device)?;
        // SAFETY: passed on to our caller.
        let registered = unsafe {
            match range {
                GpuRange::DmaBuf {
                    file,
                    offset,
                    address,
                    len,
                } => MemoryRegion::register_dmabuf(&domain, file.as_raw_fd(), offset, len, address),
                GpuRange::Peer { address, len } => MemoryRegion::register_at(&domain, address, len),
            }
        };
        let region = registered.map_err(|error| {
            let peer_module = Path::new(PEER_MODULE).exists();
            match error {
                VerbsError::Call { object, source, .. } => VerbsError::GpuDirect {
                    missing: missing(&range, &source, peer_module),
                    device: device.name().to_owned(),
                    object,
                    source,
                },
                other => other,
            }
        })?;
        Ok(Self { region })
    }

    /// The key by which work requests of this NIC name the memory.
    #[must_use]
    pub fn lkey(&self) -> u32 {
        self.region.lkey()
    }

    /// The key by which peers write to it.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        self.region.rkey()
    }
}

/// What is probably missing when the registration fails so.
fn missing(range: &GpuRange<'_>, error: &io::Error, peer_module: bool) -> &'static str {
    use rustix::io::Errno;
    let is = |codes: &[Errno]| {
        let code = error.raw_os_error();
        codes.iter().any(|known| code == Some(known.raw_os_error()))
    };
    match range {
        GpuRange::DmaBuf { .. } if is(&[Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS]) => {
            "the kernel or the NIC's driver cannot register a dmabuf (Linux 5.12, rdma-core 34)"
        }
        GpuRange::DmaBuf { .. } if is(&[Errno::BADF, Errno::INVAL]) => {
            "the descriptor is not a dmabuf that holds this range"
        }
        GpuRange::Peer { .. } if !peer_module && is(&[Errno::FAULT, Errno::INVAL]) => {
            "the kernel module nvidia_peermem is not loaded"
        }
        _ => "the system's answer says why",
    }
}

#[cfg(test)]
#[cfg(feature = "soft")]
mod tests {
    use super::*;
    use crate::region::Region;
    use rustix::fd::AsFd;

    const NIC: Nic = Nic::Soft { address: None };

    fn dmabuf(file: BorrowedFd<'_>, offset: u64) -> GpuRange<'_> {
        GpuRange::DmaBuf {
            file,
            offset,
            address: 0x7000_0000,
            len: 4096,
        }
    }

    #[test]
    fn memory_behind_a_descriptor_is_registered() {
        let region = Region::shared("gpu", 8192).unwrap();
        // SAFETY: the region lives longer, and its file is sealed against shrinking.
        let memory = unsafe { GpuMemory::register(&NIC, dmabuf(region.file().unwrap(), 4096)) };
        let memory = memory.unwrap();
        assert_ne!((memory.lkey(), memory.rkey()), (0, 0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .to_owned();
        let other = options.open("/dev/null").unwrap();
        // SAFETY: nothing is registered.
        let error = unsafe { GpuMemory::register(&NIC, dmabuf(other.as_fd(), 0)) };
        let text = error.unwrap_err().to_string();
        assert!(
            text.ends_with("is not a dmabuf that holds this range"),
            "{text}"
        );
        let unknown = io::Error::from_raw_os_error(rustix::io::Errno::OPNOTSUPP.raw_os_error());
        let why = missing(&dmabuf(other.as_fd(), 0), &unknown, true);
        assert!(why.contains("cannot register a dmabuf"), "{why}");
        let nowhere = GpuRange::Peer {
            address: 4096,
            len: 4096,
        };
        // SAFETY: as above: the address is not mapped.
        let error = unsafe { GpuMemory::register(&NIC, nowhere) };
        let text = error.unwrap_err().to_string();
        assert!(text.contains("nvidia_peermem is not loaded"), "{text}");
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::FAULT.raw_os_error());
        assert!(!missing(&nowhere, &refused, true).contains("nvidia_peermem"));
    }
}
