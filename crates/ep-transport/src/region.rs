//! Memory that peers write into while this process reads it.
//!
//! Rust references promise that nobody else writes, which is not true here: the
//! NIC, or a process that has mapped the same pages, stores at any time. So a
//! region is reached only through copies and atomics, never through a slice.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a region could not be made or reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A system call failed.
    #[error("{call} for a region of {bytes} bytes failed")]
    System {
        /// The call that failed.
        call: &'static str,
        /// The region's size.
        bytes: u64,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// An access outside of the region.
    #[error("access of {len} bytes at offset {offset} is outside of a region of {bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The region's size.
        bytes: u64,
    },
    /// Memory of another process that may shrink, upon which an access would end this one.
    #[error("the memory handed over for a region of {bytes} bytes is not sealed (F_SEAL_SHRINK)")]
    Unsealed {
        /// The region's size.
        bytes: u64,
    },
    /// A size of zero, or one that this machine cannot address.
    #[error("a region of {bytes} bytes cannot be made")]
    BadSize {
        /// The size asked for.
        bytes: u64,
    },
}

/// A page-aligned mapping of shared memory.
///
/// # Invariants
/// `base` is the start of a mapping of `bytes` bytes, readable and writable,
/// that stays in place as long as the region lives. For a window, the *pages*
/// behind the addresses change (see [`Region::replace`]); the addresses do not.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    file: Option<OwnedFd>,
}

// SAFETY: all access goes through raw copies and atomics; the type hands out no
// references into the memory, and the mapping lives as long as the value.
unsafe impl Send for Region {}
// SAFETY: as above. Two threads that copy over the same bytes at once may read
// torn values, which is the nature of this memory; the protocol above (signals
// with epochs) says when a range is quiet.
unsafe impl Sync for Region {}

impl Region {
    /// New zeroed memory backed by a file descriptor that other processes can map.
    ///
    /// # Errors
    /// `bytes` is 0 or too large, or the kernel refuses.
    pub fn shared(name: &str, bytes: u64) -> Result<Self, RegionError> {
        let size = usize::try_from(bytes).map_err(|_| RegionError::BadSize { bytes })?;
        if size == 0 {
            return Err(RegionError::BadSize { bytes });
        }
        let system = |call| {
            move |source| RegionError::System {
                call,
                bytes,
                source,
            }
        };
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(system("memfd_create"))?;
        ftruncate(&file, bytes).map_err(system("ftruncate"))?;
        // Whoever gets the descriptor could otherwise shrink the file under us, and
        // the next access would raise SIGBUS.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(system("F_ADD_SEALS"))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .map_err(system("mmap"))?;
        Self::from_mapping(base, size, Some(file))
    }

    /// An address range of `bytes` bytes with no peer behind it yet: writes go
    /// into private zero pages. [`Region::replace`] puts a peer's memory there.
    ///
    /// # Errors
    /// `bytes` is 0 or too large, or the kernel refuses.
    pub fn reserved(bytes: u64) -> Result<Self, RegionError> {
        let size = usize::try_from(bytes).map_err(|_| RegionError::BadSize { bytes })?;
        if size == 0 {
            return Err(RegionError::BadSize { bytes });
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(|source| RegionError::System {
            call: "mmap",
            bytes,
            source,
        })?;
        Self::from_mapping(base, size, None)
    }

    fn from_mapping(
        base: *mut std::ffi::c_void,
        bytes: usize,
        file: Option<OwnedFd>,
    ) -> Result<Self, RegionError> {
        let base = NonNull::new(base.cast()).ok_or(RegionError::BadSize {
            bytes: bytes as u64,
        })?;
        Ok(Self { base, bytes, file })
    }

    /// Puts the memory behind `file` (which must hold at least this region's size, and
    /// be sealed against shrinking, as that of [`Region::shared`] is) at this region's addresses, in one step. Takes `&self`: the addresses stay,
    /// and the caller sees to it that no operation that uses them is under way.
    ///
    /// # Errors
    /// The file is smaller than the region or may become so, or the kernel refuses; the
    /// old memory then stays where it was.
    pub fn replace(&self, file: BorrowedFd<'_>) -> Result<(), RegionError> {
        let bytes = self.bytes as u64;
        let system = |call| {
            move |source| RegionError::System {
                call,
                bytes,
                source,
            }
        };
        // What is not of `memfd_create` has no seals.
        let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(RegionError::Unsealed { bytes });
        }
        let size = rustix::fs::fstat(file).map_err(system("fstat"))?.st_size;
        if u64::try_from(size).unwrap_or(0) < bytes {
            // Touching pages past the end of the file would raise SIGBUS.
            return Err(RegionError::OutOfRange {
                offset: 0,
                len: bytes,
                bytes: u64::try_from(size).unwrap_or(0),
            });
        }
        // SAFETY: the range is this region's own mapping (invariant), so nothing
        // else is replaced; all access to it is through raw copies and atomics.
        unsafe {
            mmap(
                self.base.as_ptr().cast(),
                self.bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        }
        .map_err(system("mmap"))?;
        Ok(())
    }

    /// The descriptor to hand to peers, for memory made by [`Region::shared`].
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// Never true: an empty region cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address of the first byte, fixed for the life of the region.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn at(&self, offset: u64, len: usize) -> Result<*mut u8, RegionError> {
        let out_of_range = RegionError::OutOfRange {
            offset,
            len: len as u64,
            bytes: self.bytes as u64,
        };
        match usize::try_from(offset) {
            Ok(start) if start.checked_add(len).is_some_and(|end| end <= self.bytes) => {
                // SAFETY: `start <= bytes`, so the result stays inside the mapping.
                Ok(unsafe { self.base.as_ptr().add(start) })
            }
            _ => Err(out_of_range),
        }
    }

    /// Copies `data` into the region at `offset`.
    ///
    /// # Errors
    /// The range is not inside the region; nothing was written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), RegionError> {
        let to = self.at(offset, data.len())?;
        // SAFETY: `to` has room for `data` (checked), and a region and a slice of
        // ordinary memory cannot overlap, as the region hands out no slices.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// Copies from the region at `offset` into `data`.
    ///
    /// # Errors
    /// The range is not inside the region; `data` is unchanged.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), RegionError> {
        let from = self.at(offset, data.len())?;
        // SAFETY: as in `write`, with the directions exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Copies `len` bytes from this region into `to`.
    ///
    /// # Errors
    /// Either range is not inside its region; nothing was written.
    pub fn copy_to(
        &self,
        offset: u64,
        to: &Region,
        to_offset: u64,
        len: u64,
    ) -> Result<(), RegionError> {
        let size = usize::try_from(len).map_err(|_| RegionError::BadSize { bytes: len })?;
        let from = self.at(offset, size)?;
        let into = to.at(to_offset, size)?;
        // SAFETY: both ranges were checked; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from, into, size) };
        Ok(())
    }

    fn word(&self, offset: u64) -> Result<&AtomicU64, RegionError> {
        let at = self.at(offset, 8)?;
        if !(at as usize).is_multiple_of(8) {
            return Err(RegionError::OutOfRange {
                offset,
                len: 8,
                bytes: self.bytes as u64,
            });
        }
        // SAFETY: in range and aligned (both checked); the mapping outlives the
        // borrow of `self`, and atomics may be shared with any writer.
        Ok(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// Loads an aligned 8-byte word; what was written before it is visible after.
    ///
    /// # Errors
    /// The word is not inside the region, or `offset` is not a multiple of 8.
    pub fn load_acquire(&self, offset: u64) -> Result<u64, RegionError> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Stores an aligned 8-byte word after everything stored before it.
    ///
    /// # Errors
    /// The word is not inside the region, or `offset` is not a multiple of 8.
    pub fn store_release(&self, offset: u64, value: u64) -> Result<(), RegionError> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this region's own (invariant) and nothing hands
        // out references that could outlive it.
        // An error here would mean that the range was never mapped; nothing to do.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_the_memory_behind_it_at_one_address() {
        let first = Region::shared("first", 8192).unwrap();
        let second = Region::shared("second", 8192).unwrap();
        let window = Region::reserved(8192).unwrap();
        let address = window.address();
        window.replace(first.file().unwrap()).unwrap();
        window.write(100, b"to the first").unwrap();
        window.replace(second.file().unwrap()).unwrap();
        window.store_release(4096, 7).unwrap();
        assert_eq!(window.address(), address);
        let mut seen = [0; 12];
        first.read(100, &mut seen).unwrap();
        assert_eq!(&seen, b"to the first");
        assert_eq!(first.load_acquire(4096).unwrap(), 0);
        assert_eq!(second.load_acquire(4096).unwrap(), 7);
    }

    #[test]
    fn memory_that_may_shrink_is_not_taken() {
        let window = Region::reserved(4096).unwrap();
        window.write(0, &[7]).unwrap();
        let loose = memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let loose = loose.unwrap();
        ftruncate(&loose, 4096).unwrap();
        fcntl_add_seals(&loose, SealFlags::GROW).unwrap();
        // Files on disk have no seals at all.
        let disk = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        for file in [loose.as_fd(), disk.as_fd()] {
            let error = window.replace(file).unwrap_err();
            assert!(error.to_string().contains("F_SEAL_SHRINK"), "{error}");
        }
        let mut there = [0];
        window.read(0, &mut there).unwrap();
        assert_eq!(there, [7]);
        fcntl_add_seals(&loose, SealFlags::SHRINK).unwrap();
        window.replace(loose.as_fd()).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let region = Region::shared("small", 4096).unwrap();
        assert!(region.write(4090, &[0; 7]).is_err());
        assert!(region.write(u64::MAX, &[0; 7]).is_err());
        assert!(region.load_acquire(4).is_err());
        assert!(region.load_acquire(4096).is_err());
        assert!(region.write(4089, &[0; 7]).is_ok());
        let window = Region::reserved(8192).unwrap();
        assert!(window.replace(region.file().unwrap()).is_err());
        assert!(Region::shared("none", 0).is_err());
        assert!(ftruncate(region.file().unwrap(), 0).is_err());
    }
}
