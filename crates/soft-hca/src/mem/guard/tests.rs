use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::*;

const PAGE: usize = 4096;

/// Two pages of memory and one without.
struct Edge(*mut u8);

impl Edge {
    fn new() -> Self {
        install();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), 3 * PAGE, access, MapFlags::PRIVATE) };
        let edge = Self(start.unwrap().cast());
        edge.withdraw();
        edge
    }

    /// Takes away the last page. It stays mapped, so that no other test gets it.
    fn withdraw(&self) {
        // SAFETY: the mapping is the value's.
        unsafe { mprotect(self.before(0).cast(), PAGE, MprotectFlags::empty()) }.unwrap();
    }

    /// The address `back` bytes before the end.
    fn before(&self, back: usize) -> *mut u8 {
        self.0.wrapping_add(2 * PAGE - back)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's.
        unsafe { munmap(self.0.cast(), 3 * PAGE) }.unwrap();
    }
}

#[test]
fn copies_of_every_length_are_whole_up_to_the_edge_and_fail_beyond() {
    let edge = Edge::new();
    let data: Vec<u8> = (0..300).map(|i| (i * 7 + 1) as u8).collect();
    for len in 0..data.len() {
        let mut back = vec![0; len + 2];
        // SAFETY: the memory is the test's.
        unsafe {
            assert!(copy(data.as_ptr(), edge.before(len), len));
            assert!(copy(edge.before(len), back.as_mut_ptr().add(1), len));
        }
        assert_eq!(back[1..=len], data[..len]);
        assert_eq!((back[0], back[len + 1]), (0, 0), "length {len}");
        for short in 0..len {
            // SAFETY: as above.
            unsafe {
                assert!(
                    !copy(data.as_ptr(), edge.before(short), len),
                    "{short} of {len}"
                );
                assert!(
                    !copy(edge.before(short), back.as_mut_ptr(), len),
                    "{short} of {len}"
                );
            }
        }
    }
}

#[test]
fn copies_are_whole_wherever_they_are_from_and_to() {
    install();
    let data: Vec<u8> = (0..3 * PAGE).map(|i| (i * 7 + i / 256) as u8).collect();
    for skew in [0, 1, 16, 28, 44, 255, 256, 4000, 4095] {
        for len in [16, 17, 31, 32, 63, 64, 65, 128, 200, 1000, 4096, 5000] {
            let mut to = vec![0; 4 * PAGE];
            let from = to.as_ptr().align_offset(PAGE);
            // The target lies this far behind the source, modulo a page.
            let at = from + skew;
            let start = data.as_ptr().align_offset(PAGE);
            // SAFETY: both ranges are inside.
            let whole = unsafe { copy(data.as_ptr().add(start), to.as_mut_ptr().add(at), len) };
            assert!(whole);
            assert_eq!(to[at..at + len], data[start..start + len], "{skew} {len}");
            let around = to[..at].iter().chain(&to[at + len..]);
            assert!(around.copied().all(|byte| byte == 0), "{skew} {len}");
        }
    }
}

#[test]
fn words_that_are_not_there_are_neither_loaded_nor_stored() {
    let edge = Edge::new();
    let (there, gone) = (edge.before(8), edge.before(0));
    // SAFETY: the memory is the test's; the words are aligned.
    unsafe {
        assert!(store_u64(there.cast(), 0x0102_0304_0506_0708));
        assert_eq!(load_u32(there.cast()), Some(0x0506_0708));
        assert!(store_u32(there.cast(), 1));
        assert_eq!(
            update_u64(there.cast(), |found| found + 1),
            Some(0x0102_0304_0000_0001)
        );
        assert_eq!(update_u32(there.cast(), |found| found * 10), Some(2));
        assert_eq!(load_u32(there.cast()), Some(20));
        assert!(!store_u64(gone.cast(), 1));
        assert!(!store_u32(gone.cast(), 1));
        assert_eq!(load_u32(gone.cast()), None);
        assert_eq!(update_u64(gone.cast(), |found| found), None);
        assert_eq!(update_u32(gone.cast(), |found| found), None);
    }
}

#[test]
fn what_must_not_be_written_can_be_read() {
    let edge = Edge::new();
    let word: *mut u32 = edge.before(8).cast();
    // SAFETY: the memory is the test's; the words are aligned.
    unsafe {
        assert!(store_u32(word, 5));
        mprotect(edge.0.cast(), 2 * PAGE, MprotectFlags::READ).unwrap();
        assert_eq!(load_u32(word), Some(5));
        assert!(!store_u32(word, 6));
        assert_eq!(update_u32(word, |_| 6), None);
        assert_eq!(load_u32(word), Some(5));
    }
}

#[test]
fn a_file_that_became_shorter_is_not_there() {
    let file = rustix::fs::memfd_create("short", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, PAGE as u64).unwrap();
    install();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping; the word is aligned.
    unsafe {
        let start = rustix::mm::mmap(ptr::null_mut(), PAGE, access, MapFlags::SHARED, &file, 0);
        let start = start.unwrap();
        assert!(store_u32(start.cast(), 5));
        rustix::fs::ftruncate(&file, 0).unwrap();
        assert_eq!(load_u32(start.cast()), None);
        munmap(start, PAGE).unwrap();
    }
}

/// The page that [`provide`] has to make.
static MISSING: AtomicUsize = AtomicUsize::new(0);
/// Who handled faults before [`provide`].
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// A client's handler: makes one page, and passes on all else.
extern "C" fn provide(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the kernel says where the fault was. The page is the test's.
    unsafe {
        let page = (*info).si_addr() as usize & !(PAGE - 1);
        if MISSING
            .compare_exchange(page, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            libc::mmap(page as *mut c_void, PAGE, access, flags, -1, 0);
        } else if let Some(before) = BEFORE.get() {
            let before: Handler = mem::transmute(before.sa_sigaction);
            before(signal, info, context);
        }
    }
}

/// Has the client's handler in place; what was there before.
fn replace() -> libc::sigaction {
    // SAFETY: the actions are valid.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = provide as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        let mut before = mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, &mut before), 0);
        before
    }
}

/// Reads from a page that only the client's handler provides.
fn read_missing(edge: &Edge) {
    let gone = edge.before(0);
    MISSING.store(gone.addr(), Ordering::Relaxed);
    // SAFETY: the page is there once the handler has run, and goes again.
    assert_eq!(unsafe { gone.read_volatile() }, 0);
    edge.withdraw();
    assert_eq!(MISSING.load(Ordering::Relaxed), 0);
}

#[test]
fn handlers_of_the_client_work_before_and_after() {
    let edge = Edge::new();
    // SAFETY: aligned; nothing is there.
    let load = || unsafe { load_u32(edge.before(0).cast()) };
    // A client that comes later and passes on what it found.
    let before = replace();
    assert!(BEFORE.set(before).is_ok());
    read_missing(&edge);
    assert_eq!(load(), None);
    // In front of it again: it passes on to us, and we to it.
    install();
    read_missing(&edge);
    assert_eq!(load(), None);
    // Once in front, and no more.
    for _ in 0..100 {
        install();
    }
    assert_eq!(load(), None);
    read_missing(&edge);
}
