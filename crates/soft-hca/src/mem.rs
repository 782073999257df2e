//! Memory that clients registered, and doorbell pages: the only place outside
//! the C ABI that dereferences addresses.
//!
//! Registered memory is shared with threads, processes and GPUs that Rust knows
//! nothing of, as it is with a DMA engine, and a client may unmap it whenever it
//! likes. No reference to it is ever made; every access goes through `guard`,
//! which says so where there is nothing, and accesses as one what others poll.

mod guard;
mod protection;
mod uar;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

pub(crate) use uar::UarPage;

use crate::rc::AtomicOp;

/// A range of memory that a client registered.
///
/// # Invariants
/// From [`Region::new`] to the drop of the value, what is mapped in the range is
/// the device's to read, and to write where `writable` says so.
#[derive(Debug)]
pub(crate) struct Region {
    base: *mut u8,
    len: usize,
    writable: bool,
    /// Keeps a mapping made here.
    _mapping: Option<Mapping>,
}

// SAFETY: the value is an address range; all accesses go through raw copies and
// atomics, which the contract of `Region::new` allows from any thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A range that starts at `base`.
    ///
    /// # Safety
    /// Whatever is mapped at `base .. base + len` until the region is dropped is
    /// the device's to read (and to write, if `writable`), and whoever else uses
    /// it must expect concurrent access, as for any memory registered with a
    /// device. What is not mapped, or not any more, is no access to memory.
    pub(crate) unsafe fn new(base: *mut u8, len: usize, writable: bool) -> Self {
        guard::install();
        Self {
            base,
            len,
            writable,
            _mapping: None,
        }
    }

    /// `len` bytes at `offset` of what `fd` stands for, mapped by this value.
    ///
    /// # Errors
    /// `EINVAL` if it is not that long, or what mapping it gives.
    ///
    /// # Safety
    /// Whoever else uses what `fd` stands for must expect concurrent access.
    pub(crate) unsafe fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
    ) -> rustix::io::Result<Self> {
        const PAGE: u64 = 4096;
        let size = fstat(fd)?.st_size as u64;
        let end = offset.checked_add(len as u64).ok_or(Errno::INVAL)?;
        if len == 0 || end > size {
            return Err(Errno::INVAL);
        }
        let skip = offset % PAGE;
        let whole = len + skip as usize;
        let access = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice replaces
        // nothing.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                whole,
                access,
                MapFlags::SHARED,
                fd,
                offset - skip,
            )
        }?;
        guard::install();
        Ok(Self {
            base: start.cast::<u8>().wrapping_add(skip as usize),
            len,
            writable,
            _mapping: Some(Mapping { start, len: whole }),
        })
    }

    /// Bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether the device may write to it.
    pub(crate) const fn is_writable(&self) -> bool {
        self.writable
    }

    /// The address of `len` bytes at `offset`, if they are inside.
    fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len)?;
        // In range, so the sum does not wrap.
        (end <= self.len).then(|| self.base.wrapping_add(offset))
    }

    /// Copies bytes out; `false` if they are not all inside, or not there.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, to.len()) else {
            return false;
        };
        // SAFETY: `at` checked the range, which is the device's by the invariant;
        // `to` is ours, so they do not overlap.
        unsafe { guard::copy(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in; `false` if they do not all fit, must not be written, or
    /// are not all there.
    ///
    /// Other threads poll what arrives here. A naturally aligned 4- or 8-byte
    /// write is one release store, so a poller sees all of it or nothing, and
    /// with it everything written before. A longer write is copied with its
    /// last aligned 8 bytes stored in that way at the end, so a flag at the end
    /// of a message is never seen before its payload.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> bool {
        let Some(to) = self.at(offset, data.len()).filter(|_| self.writable) else {
            return false;
        };
        let end = to.wrapping_add(data.len());
        if let Some((body, tail)) = data.split_last_chunk::<8>()
            && end.addr().is_multiple_of(8)
        {
            let word = end.wrapping_sub(8).cast();
            // SAFETY: as in `read`, and the region is writable; the word is the
            // last 8 bytes of the range, aligned as just checked.
            unsafe {
                guard::copy(body.as_ptr(), to, body.len())
                    && guard::store_u64(word, u64::from_ne_bytes(*tail))
            }
        } else if let (Ok(value), true) = (<[u8; 4]>::try_from(data), to.addr().is_multiple_of(4)) {
            // SAFETY: 4 bytes in range and writable, aligned as just checked.
            unsafe { guard::store_u32(to.cast(), u32::from_ne_bytes(value)) }
        } else {
            // SAFETY: as in `read`, and the region is writable.
            let whole = unsafe { guard::copy(data.as_ptr(), to, data.len()) };
            fence(Ordering::Release);
            whole
        }
    }

    /// Writes a 64-byte completion. Its last byte holds opcode and owner bit,
    /// which consumers poll, so the last 8 bytes are stored last, as one.
    pub(crate) fn write_cqe(&self, offset: u64, cqe: &[u8; 64]) -> bool {
        self.at(offset, 64)
            .is_some_and(|to| to.addr().is_multiple_of(8))
            && self.write(offset, cqe)
    }

    /// Loads a big-endian 32-bit counter that somebody else stores; what was
    /// written before it is visible afterwards.
    pub(crate) fn load_be32(&self, offset: u64) -> Option<u32> {
        let from = self
            .at(offset, 4)
            .filter(|at| at.addr().is_multiple_of(4))?;
        // SAFETY: 4 bytes in range, aligned as just checked.
        let raw = unsafe { guard::load_u32(from.cast_const().cast()) };
        raw.map(u32::from_be)
    }

    /// Executes an atomic on 4 or 8 aligned bytes and returns what they were.
    pub(crate) fn atomic(&self, offset: u64, op: AtomicOp) -> Option<u64> {
        let width = op.bytes() as usize;
        let at = self
            .at(offset, width)
            .filter(|at| self.writable && at.addr().is_multiple_of(width))?;
        // SAFETY: `width` bytes in range and writable, aligned as just checked.
        unsafe {
            if width == 4 {
                let after = |found: u32| op.apply(found.into()) as u32;
                guard::update_u32(at.cast(), after).map(u64::from)
            } else {
                guard::update_u64(at.cast(), |found| op.apply(found))
            }
        }
    }

    /// Whether the range is mapped now, with the access that the region has.
    pub(crate) fn is_mapped(&self) -> bool {
        let start = self.base.addr();
        let Some(end) = start.checked_add(self.len) else {
            return false;
        };
        protection::allows(&(start..end), self.writable).unwrap_or_else(|| self.is_present())
    }

    /// Whether the range is mapped now, whatever may be done with it: one call
    /// of the system.
    fn is_present(&self) -> bool {
        const PAGE: usize = 4096;
        let start = self.base.addr() & !(PAGE - 1);
        let Some(end) = self.base.addr().checked_add(self.len) else {
            return false;
        };
        let from = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: a request to start writing back, which private memory has
        // none of, changes nothing; it fails where nothing is mapped.
        unsafe { msync(from, end - start, MsyncFlags::ASYNC) }.is_ok()
    }
}

/// A mapping made here.
///
/// # Invariants
/// `len` bytes at `start` are mapped, by nobody else.
#[derive(Debug)]
struct Mapping {
    start: *mut std::ffi::c_void,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant; the region in it goes at the same time.
        let result = unsafe { munmap(self.start, self.len) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(memory: &mut [u64]) -> Region {
        // SAFETY: the tests keep the memory alive and do not use it meanwhile.
        unsafe { Region::new(memory.as_mut_ptr().cast(), memory.len() * 8, true) }
    }

    #[test]
    fn writes_of_every_length_and_place_arrive_whole() {
        let mut memory = [0u64; 8];
        let data: Vec<u8> = (1..=40).collect();
        for len in 0..=40 {
            for offset in 0..24 {
                memory.fill(0);
                let region = region(&mut memory);
                assert!(region.write(offset, &data[..len]));
                let mut back = [0; 64];
                assert!(region.read(0, &mut back));
                let at = offset as usize;
                assert_eq!(back[at..at + len], data[..len]);
                assert!(back[..at].iter().chain(&back[at + len..]).all(|b| *b == 0));
            }
        }
    }

    #[test]
    fn what_is_outside_is_refused() {
        let mut memory = [0u64; 2];
        let region = region(&mut memory);
        assert!(!region.write(9, &[0; 8]));
        assert!(!region.write(u64::MAX, &[0; 2]));
        assert!(!region.read(16, &mut [0; 1]));
        assert!(region.read(16, &mut []));
        assert_eq!(region.load_be32(14), None);
        assert_eq!(region.atomic(4, AtomicOp::FetchAdd { add: 1 }), None);
    }

    #[test]
    fn unmapped_memory_is_recognised() {
        let mut memory = [0u64; 2];
        assert!(region(&mut memory).is_mapped());
        // SAFETY: it is only asked whether it is mapped; page 0 never is.
        assert!(!unsafe { Region::new(std::ptr::dangling_mut(), 8, true) }.is_mapped());
    }

    #[test]
    fn read_only_memory_is_not_written() {
        let mut memory = [7u64; 1];
        // SAFETY: as in `region`.
        let region = unsafe { Region::new(memory.as_mut_ptr().cast(), 8, false) };
        assert!(!region.write(0, &[0; 8]));
        assert_eq!(region.atomic(0, AtomicOp::FetchAdd { add: 1 }), None);
    }
}
