#![no_std]
#![forbid(unsafe_code)]
//! Hands out pieces of memory that the CPU cannot or should not touch.
//!
//! A [`Heap`] knows offsets, sizes and alignments only. It keeps all its
//! bookkeeping outside the memory it manages and never reads or writes that
//! memory, so the memory may be on a GPU, in a registered region, in a texture
//! atlas or in a file.
//!
//! ```
//! use memheap::Heap;
//!
//! let mut heap = Heap::new(1 << 20);
//! let ring = heap.alloc(64 * 1024, 4096)?;
//! let record = heap.alloc(8, 64)?;
//! assert_eq!(ring.offset() % 4096, 0);
//! heap.free(record)?;
//! heap.free(ring)?;
//! assert_eq!(heap.largest_free(), 1 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The method is two-level segregated fit (Masmano, Ripoll, Crespo and Real,
//! "TLSF: a new dynamic memory allocator for real-time systems", ECRTS 2004):
//! free blocks hang in lists by size class, a bitmap finds the first list that
//! fits, and neighbours are merged the moment a block is freed.

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

mod block;
mod classes;
mod error;
mod figures;
mod generation;
mod heap;
mod index;
#[cfg(feature = "sync")]
mod lock;
mod nodes;
mod picture;
mod place;
mod resize;
#[cfg(feature = "sync")]
mod shared;
mod stats;
mod tiles;

pub use block::Block;
pub use error::{AllocError, FreeAtError, FreeError, GranuleError, GrowError};
pub use figures::Blocks;
pub use heap::Heap;
#[cfg(feature = "sync")]
pub use shared::{SharedBlock, SharedHeap};
pub use stats::Stats;

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
