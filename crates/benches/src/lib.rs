//! Loads and measuring code that the benchmarks and `cargo xtask` share.

pub mod memheap_loads;
