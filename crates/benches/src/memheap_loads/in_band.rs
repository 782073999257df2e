//! `rlsf`: two-level segregated fit with its records inside the memory it hands
//! out, so it needs memory that the CPU can write.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::load::{Load, Request};
use super::run::Contender;

/// Reserved address space; pages come to be when written.
struct Pool {
    start: NonNull<u8>,
    len: usize,
}

impl Pool {
    fn new(len: usize) -> Option<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no other mapping is replaced.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags) };
        let start = NonNull::new(start.ok()?.cast())?;
        Some(Self { start, len })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and its user is dropped before.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// 16 lists per power of two, as `memheap` has.
type Tlsf = rlsf::Tlsf<'static, u32, u16, 32, 16>;

/// The allocator and its memory, in the order in which they must be dropped.
pub struct InBand {
    tlsf: Tlsf,
    pool: Pool,
}

impl Contender for InBand {
    type Handle = (NonNull<u8>, usize);

    fn build(load: &Load) -> Option<Self> {
        // Every block dirties a page or two.
        if load.slots > 100_000 {
            return None;
        }
        let pool = Pool::new(usize::try_from(load.heap_size()).ok()?)?;
        let bytes = pool.start.as_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the mapping is writable, is as long, has no other user, and
        // outlives `tlsf`, with which it lives in this struct.
        let memory = unsafe { std::slice::from_raw_parts_mut(bytes, pool.len) };
        let mut tlsf = Tlsf::new();
        let _: &dyn Send = &tlsf.insert_free_block(memory);
        Some(Self { tlsf, pool })
    }

    #[inline]
    fn alloc(&mut self, request: Request) -> Option<(Self::Handle, u64)> {
        let align = usize::try_from(request.align).ok()?;
        let layout = Layout::from_size_align(usize::try_from(request.size).ok()?, align).ok()?;
        let start = self.tlsf.allocate(layout)?;
        let offset = start.as_ptr() as usize - self.pool.start.as_ptr() as usize;
        Some(((start, align), offset as u64))
    }

    #[inline]
    fn free(&mut self, (start, align): Self::Handle) {
        // SAFETY: `start` came from `allocate` with that alignment and, being
        // moved here, is freed once.
        unsafe { self.tlsf.deallocate(start, align) };
    }
}
