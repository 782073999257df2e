//! The signals of a fault, shared with whoever else wants them.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::arch;

/// What a fault raises: no such page, or a page of a file that has become
/// shorter.
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Times that the handler is put in front of somebody else's.
const LAYERS: usize = 4;

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The same handler several times, each with a place for the one that it was
/// put in front of. Whoever came in between may pass signals on to the handler
/// found, which is an earlier one of these and passes them on further.
static HANDLERS: [Handler; LAYERS] = [handle::<0>, handle::<1>, handle::<2>, handle::<3>];
static BEFORE: [[OnceLock<libc::sigaction>; SIGNALS.len()]; LAYERS] =
    [const { [const { OnceLock::new() }; SIGNALS.len()] }; LAYERS];

/// Has accesses to memory that is gone end, and not the process.
///
/// A handler that somebody has put in place since the last call is put behind
/// ours, and gets all that is not ours. This is done a few times and no more.
pub(in crate::mem) fn install() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, &signal) in SIGNALS.iter().enumerate() {
        let Some(before) = action(signal) else {
            continue;
        };
        let ours = |handler: &Handler| *handler as *const () as usize == before.sa_sigaction;
        if HANDLERS.iter().any(ours) {
            continue;
        }
        let mut layers = HANDLERS.iter().zip(&BEFORE);
        let Some((&handler, _)) = layers.find(|(_, of)| of[index].set(before).is_ok()) else {
            tracing::warn!(signal, "handlers of faults are replaced again and again");
            continue;
        };
        let mut action = before;
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO
            | libc::SA_ONSTACK
            | before.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER);
        set(signal, &action);
    }
}

/// What is done about a signal.
fn action(signal: c_int) -> Option<libc::sigaction> {
    let mut action = mem::MaybeUninit::uninit();
    // SAFETY: only asks; `action` has room for the answer.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written by the call if that went well.
    (result == 0).then(|| unsafe { action.assume_init() })
}

fn set(signal: c_int, action: &libc::sigaction) {
    // SAFETY: the action is one that the system gave, or has a handler that
    // takes what `SA_SIGINFO` promises. It does not fail for these signals.
    let result = unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
    debug_assert_eq!(result, 0);
}

/// The handler.
extern "C" fn handle<const LAYER: usize>(
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the kernel passes what the signal was raised for, and the state of
    // the thread, which is nobody else's meanwhile.
    let (raised, thread) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    // What another process or thread sends is no fault.
    let is_fault = raised.si_code > 0;
    if is_fault && resume(thread) {
        return;
    }
    let index = SIGNALS.iter().position(|known| *known == signal);
    let before = index.and_then(|index| BEFORE[LAYER][index].get());
    let default = libc::SIG_DFL;
    match before.map_or(default, |before| before.sa_sigaction) {
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            by_default(signal);
            if !is_fault {
                // SAFETY: raises what was raised; it comes when we return.
                unsafe { libc::raise(signal) };
            }
            // A fault happens again, and then there is nobody to handle it.
        }
        handler => {
            let flags = before.map_or(0, |before| before.sa_flags);
            if flags & libc::SA_RESETHAND != 0 {
                by_default(signal);
            }
            if flags & libc::SA_SIGINFO != 0 {
                // SAFETY: a handler of this kind, as its flags say.
                let handler = unsafe { mem::transmute::<usize, Handler>(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: a handler of this kind, as its flags say.
                let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
                handler(signal);
            }
        }
    }
}

/// Has a thread whose access faulted go on at the exit; whether it did.
fn resume(thread: &mut libc::ucontext_t) -> bool {
    let (accesses, exit) = arch::code();
    let Some(place) = arch::place(thread) else {
        return false;
    };
    let ours = accesses.contains(place);
    if ours {
        *place = exit;
    }
    ours
}

fn by_default(signal: c_int) {
    // SAFETY: an action of zeroes is the default, without flags.
    set(signal, &unsafe { mem::zeroed() });
}
