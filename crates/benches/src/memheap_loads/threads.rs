//! Two threads on one heap.

use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use memheap::{Heap, SharedHeap};

use super::load::{Load, Random, Request};
use super::run::Contender;
use super::{OffsetAllocator, pin};

const THREADS: usize = 2;
const SLOTS_PER_THREAD: usize = 500;
const PAIRS_PER_THREAD: usize = 100_000;

/// An allocator that threads share.
trait Common: Sync {
    type Handle: Send;
    fn alloc(&self, request: Request) -> Option<Self::Handle>;
    fn free(&self, handle: Self::Handle);
}

impl Common for SharedHeap {
    type Handle = memheap::Block;

    fn alloc(&self, request: Request) -> Option<Self::Handle> {
        SharedHeap::alloc(self, request.size, request.align).ok()
    }

    fn free(&self, block: Self::Handle) {
        drop(SharedHeap::free(self, block));
    }
}

impl<C: Contender + Send> Common for Mutex<C>
where
    C::Handle: Send,
{
    type Handle = C::Handle;

    fn alloc(&self, request: Request) -> Option<Self::Handle> {
        let mut inner = self.lock().unwrap_or_else(PoisonError::into_inner);
        Some(inner.alloc(request)?.0)
    }

    fn free(&self, handle: Self::Handle) {
        let mut inner = self.lock().unwrap_or_else(PoisonError::into_inner);
        inner.free(handle);
    }
}

/// A shared allocator by name, and nanoseconds per operation of a run.
pub(super) type NamedRun = (&'static str, fn() -> f64);

/// What threads can share, this project's first.
pub(super) const SHARED: [NamedRun; 3] = [
    ("memheap shared", || {
        run(Heap::build(&load()).map(SharedHeap::from))
    }),
    ("memheap in mutex", || {
        run(Heap::build(&load()).map(Mutex::new))
    }),
    ("offset-allocator in mutex", || {
        run(OffsetAllocator::build(&load()).map(Mutex::new))
    }),
];

fn load() -> Load {
    Load::log_uniform(THREADS * SLOTS_PER_THREAD)
}

/// Time per operation of the heap, over all threads: half of what a thread waits
/// for one when two are at it.
fn run<C: Common>(heap: Option<C>) -> f64 {
    let Some(heap) = heap else { return f64::NAN };
    let load = load();
    let start = Barrier::new(THREADS);
    let work = |thread: usize| {
        pin(thread);
        let mut random = Random::new(thread as u64);
        let mut slots: Vec<_> = (0..SLOTS_PER_THREAD)
            .map(|slot| heap.alloc(load.draw(&mut random, slot)))
            .collect();
        start.wait();
        let begin = Instant::now();
        for _ in 0..PAIRS_PER_THREAD {
            let slot = random.below(SLOTS_PER_THREAD);
            if let Some(handle) = slots[slot].take() {
                heap.free(handle);
            }
            slots[slot] = heap.alloc(load.draw(&mut random, slot));
        }
        begin.elapsed().as_nanos() as f64
    };
    let slowest = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS).map(|i| scope.spawn(move || work(i))).collect();
        let times = threads.into_iter().map(|t| t.join().unwrap_or(f64::NAN));
        times.fold(0.0, f64::max)
    });
    slowest / (2 * THREADS * PAIRS_PER_THREAD) as f64
}
