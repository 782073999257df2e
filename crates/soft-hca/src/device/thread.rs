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

/// Those by which accesses to memory that is gone end: never blocked, even where
/// the maker of the thread has them so.
const FAULTS: [libc::c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

fn unblock(signals: &[libc::c_int]) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` makes the set, the others take one that was made;
    // none fails with signals that exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
    }
}

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
    let thread = Builder::new().name(name).spawn(|| {
        unblock(&FAULTS);
        run();
    });
    // SAFETY: the first call filled `before`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    thread
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whether the calling thread has a signal blocked.
    fn blocked(signal: libc::c_int) -> bool {
        let mut set = MaybeUninit::uninit();
        // SAFETY: only asks; the set is made by the call.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
            libc::sigismember(set.as_ptr(), signal) == 1
        }
    }

    #[test]
    fn faults_are_handled_whatever_the_maker_blocks() {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: makes the set, then blocks its signals in this thread only.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        }
        let (tell, told) = mpsc::channel();
        let ask = move || {
            let found = [libc::SIGSEGV, libc::SIGBUS, libc::SIGTERM].map(blocked);
            tell.send(found).unwrap();
        };
        spawn("engine".to_owned(), ask).unwrap().join().unwrap();
        assert_eq!(told.recv().unwrap(), [false, false, true]);
        assert!(blocked(libc::SIGSEGV));
    }
}
