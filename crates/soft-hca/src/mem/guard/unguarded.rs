//! Accesses where there is no code for the processor: memory that is gone ends
//! the process.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Outcome;

const fn done(value: u64) -> Outcome {
    Outcome { fault: 0, value }
}

/// # Safety
/// Both ranges are there, and do not overlap.
pub(super) unsafe fn soft_hca_guard_copy(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    // SAFETY: by our contract.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    done(0)
}

/// # Safety
/// The word is there.
pub(super) unsafe fn soft_hca_guard_store_u32(to: *mut u32, value: u32) -> Outcome {
    // SAFETY: by our contract.
    unsafe { AtomicU32::from_ptr(to) }.store(value, Ordering::Release);
    done(0)
}

/// # Safety
/// The word is there.
pub(super) unsafe fn soft_hca_guard_store_u64(to: *mut u64, value: u64) -> Outcome {
    // SAFETY: by our contract.
    unsafe { AtomicU64::from_ptr(to) }.store(value, Ordering::Release);
    done(0)
}

/// # Safety
/// The word is there.
pub(super) unsafe fn soft_hca_guard_load_u32(from: *const u32) -> Outcome {
    // SAFETY: by our contract; nothing is stored.
    let value = unsafe { AtomicU32::from_ptr(from.cast_mut()) }.load(Ordering::Acquire);
    done(value.into())
}

/// # Safety
/// The word is there.
pub(super) unsafe fn soft_hca_guard_swap_u32(at: *mut u32, expected: u32, new: u32) -> Outcome {
    // SAFETY: by our contract.
    let word = unsafe { AtomicU32::from_ptr(at) };
    let result = word.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
    done(result.unwrap_or_else(|found| found).into())
}

/// # Safety
/// The word is there.
pub(super) unsafe fn soft_hca_guard_swap_u64(at: *mut u64, expected: u64, new: u64) -> Outcome {
    // SAFETY: by our contract.
    let word = unsafe { AtomicU64::from_ptr(at) };
    let result = word.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
    done(result.unwrap_or_else(|found| found))
}

/// No access is guarded.
pub(super) fn code() -> (Range<usize>, usize) {
    (0..0, 0)
}

/// There is nowhere to go on.
pub(super) fn place(_: &mut libc::ucontext_t) -> Option<&mut usize> {
    None
}
