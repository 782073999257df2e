//! Threads that leave a client's signals alone.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{Builder, JoinHandle};

/// Signals that a thread's own doing raises: blocked, they would end the process
/// without the handler that it may have for them.
const OWN: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
];

/// The signals that are a client's.
fn foreign() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` makes the set, the others change a set that was made;
    // none fails with signals that exist.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in OWN {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Starts a thread that no signal for the process is delivered to: a client that
/// blocks signals in all its threads, to wait for them, knows nothing of this
/// one. It starts with the mask of its maker, so there is no moment without.
///
/// # Errors
/// The system's.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let block = foreign();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are valid for what is done to them; the call fails only
    // for an unknown way to change the mask.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &block, before.as_mut_ptr()) };
    let thread = Builder::new().name(name).spawn(run);
    // SAFETY: the first call filled `before`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    thread
}
