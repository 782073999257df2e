//! Error numbers of the C ABI.

use core::ffi::c_int;

use rustix::io::Errno;

use crate::cmd::Reason;

unsafe extern "C" {
    /// Address of the calling thread's `errno` (glibc, musl).
    safe fn __errno_location() -> *mut c_int;
}

/// Sets `errno`.
pub(super) fn set(error: Errno) {
    // SAFETY: the address is that of this thread's `errno`, always valid.
    unsafe { *__errno_location() = error.raw_os_error() };
}

/// What a call that returns a pointer does on failure: null and `errno`.
pub(super) fn pointer<T>(result: Result<*mut T, Errno>) -> *mut T {
    result.unwrap_or_else(|error| {
        set(error);
        core::ptr::null_mut()
    })
}

/// What a call that returns an error number does, setting `errno` as well.
pub(super) fn number(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            set(error);
            error.raw_os_error()
        }
    }
}

/// What a call that returns -1 on failure does.
pub(super) fn minus_one(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            set(error);
            -1
        }
    }
}

/// The kernel reports what the firmware refused as `EREMOTEIO`; the mailbox
/// says more.
pub(super) const fn refused(_: Reason) -> Errno {
    Errno::REMOTEIO
}
