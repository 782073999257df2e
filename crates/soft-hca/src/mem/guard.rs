//! Access to memory that may be gone.
//!
//! A driver pins the pages of registered memory, so a client may unmap them
//! whenever it likes. Nothing pins them here. So every access is made by code in
//! one place (`arch`), and where that faults, a signal handler has it go on at
//! an exit that says so, as the kernel does with the memory of its users. What
//! does not fault costs a call and nothing else.
//!
//! The handler looks at where the fault was and at nothing else, so it needs
//! neither thread-local storage nor locks. Every other signal goes to the
//! handler that was there before (`signals`).

#[cfg_attr(target_arch = "x86_64", path = "guard/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "guard/aarch64.rs")]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "guard/unguarded.rs"
)]
mod arch;
mod signals;

pub(super) use signals::install;

/// What an access came to, in the registers that a C function returns two words
/// in.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
struct Outcome {
    /// 0 unless the memory was not there.
    fault: usize,
    /// What was found.
    value: u64,
}

impl Outcome {
    fn found(self) -> Option<u64> {
        (self.fault == 0).then_some(self.value)
    }

    const fn is_done(self) -> bool {
        self.fault == 0
    }
}

/// Copies `len` bytes; `false` if some of them are not there, or must not be
/// accessed so. Any number of the others is copied then.
///
/// # Safety
/// [`install`] was called. Where there is memory, it is the caller's to access
/// so, and the ranges do not overlap.
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> bool {
    // SAFETY: by our contract.
    unsafe { arch::soft_hca_guard_copy(to, from, len) }.is_done()
}

/// Stores 4 bytes as one, after everything before; `false` if it cannot be.
///
/// # Safety
/// As for [`copy`]; `to` is a multiple of 4.
pub(super) unsafe fn store_u32(to: *mut u32, value: u32) -> bool {
    // SAFETY: by our contract.
    unsafe { arch::soft_hca_guard_store_u32(to, value) }.is_done()
}

/// Stores 8 bytes as one, after everything before; `false` if it cannot be.
///
/// # Safety
/// As for [`copy`]; `to` is a multiple of 8.
pub(super) unsafe fn store_u64(to: *mut u64, value: u64) -> bool {
    // SAFETY: by our contract.
    unsafe { arch::soft_hca_guard_store_u64(to, value) }.is_done()
}

/// Loads 4 bytes as one, before everything after.
///
/// # Safety
/// As for [`copy`]; `from` is a multiple of 4.
pub(super) unsafe fn load_u32(from: *const u32) -> Option<u32> {
    // SAFETY: by our contract.
    let outcome = unsafe { arch::soft_hca_guard_load_u32(from) };
    outcome.found().map(|value| value as u32)
}

/// Replaces 4 bytes by what `change` makes of them, as one; what they were.
///
/// # Safety
/// As for [`copy`]; `at` is a multiple of 4.
pub(super) unsafe fn update_u32(at: *mut u32, change: impl Fn(u32) -> u32) -> Option<u32> {
    let mut expected = 0;
    loop {
        // SAFETY: by our contract.
        let outcome = unsafe { arch::soft_hca_guard_swap_u32(at, expected, change(expected)) };
        let found = outcome.found()? as u32;
        if found == expected {
            return Some(found);
        }
        expected = found;
    }
}

/// Replaces 8 bytes by what `change` makes of them, as one; what they were.
///
/// # Safety
/// As for [`copy`]; `at` is a multiple of 8.
pub(super) unsafe fn update_u64(at: *mut u64, change: impl Fn(u64) -> u64) -> Option<u64> {
    let mut expected = 0;
    loop {
        // SAFETY: by our contract.
        let outcome = unsafe { arch::soft_hca_guard_swap_u64(at, expected, change(expected)) };
        let found = outcome.found()?;
        if found == expected {
            return Some(found);
        }
        expected = found;
    }
}

#[cfg(test)]
mod tests;
