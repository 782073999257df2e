//! Any bytes as what a rank has published:
//! `cargo xtask fuzz`, or `cargo fuzz run records` with a nightly compiler.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ep_transport::fuzzing::records(bytes));
