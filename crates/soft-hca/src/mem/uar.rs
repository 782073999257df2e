//! Doorbell pages.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use mlx5gda_sys::doorbell::{UAR_BLUEFLAME, UAR_BLUEFLAME_BYTES, UAR_CQ_DOORBELL, UAR_PAGE_BYTES};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A doorbell page.
///
/// # Invariants
/// `page` is a private mapping of [`UAR_PAGE_BYTES`], owned by the value.
#[derive(Debug)]
pub(crate) struct UarPage {
    page: NonNull<u8>,
}

// SAFETY: the page is accessed by atomics only.
unsafe impl Send for UarPage {}

impl UarPage {
    /// Maps a page of zeroes.
    ///
    /// # Errors
    /// The system's, when out of memory.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        // SAFETY: a fresh anonymous mapping replaces nothing.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                UAR_PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self {
            page: NonNull::new(page.cast()).ok_or(rustix::io::Errno::NOMEM)?,
        })
    }

    /// Address of the page.
    pub(crate) const fn address(&self) -> *mut u8 {
        self.page.as_ptr()
    }

    /// The register at `offset`.
    fn register(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= UAR_PAGE_BYTES);
        // SAFETY: every caller names a register of the page, 8-byte aligned; it
        // is only accessed by atomics, and mapped as long as the value lives.
        unsafe { AtomicU64::from_ptr(self.page.as_ptr().add(offset).cast()) }
    }

    /// What was written to a register since the last call. It is cleared, so
    /// that the same value is noticed again; no doorbell is 0, since no queue
    /// has that number.
    fn take(&self, offset: usize) -> Option<u64> {
        let register = self.register(offset);
        // Only a register that was written is written to: its cache line stays
        // where it is otherwise.
        if register.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(register.swap(0, Ordering::Acquire))
    }

    /// Whether a doorbell register has been written since the last call.
    pub(crate) fn rung(&self) -> bool {
        let one = self.take(UAR_BLUEFLAME).is_some();
        let other = self.take(UAR_BLUEFLAME + UAR_BLUEFLAME_BYTES).is_some();
        one || other
    }

    /// The value written to the CQ doorbell register since the last call.
    pub(crate) fn cq_rung(&self) -> Option<u64> {
        self.take(UAR_CQ_DOORBELL).map(u64::from_be)
    }
}

impl Drop for UarPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing in this process refers to it
        // any more; a client that still does was told that it is gone.
        let result = unsafe { munmap(self.page.as_ptr().cast(), UAR_PAGE_BYTES) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doorbell_is_noticed_once() {
        let uar = UarPage::new().unwrap();
        assert!(!uar.rung());
        let register = uar.address().wrapping_add(UAR_BLUEFLAME).cast::<u64>();
        // SAFETY: the register is in the page and aligned.
        let register = unsafe { AtomicU64::from_ptr(register) };
        // The same value rings again: a queue pair that was reset starts over.
        for _ in 0..2 {
            register.store(5, Ordering::Release);
            assert!(uar.rung());
            assert!(!uar.rung());
        }
    }
}
