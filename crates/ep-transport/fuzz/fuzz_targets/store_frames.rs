//! Any bytes as what a client or a store says over TCP:
//! `cargo xtask fuzz`, or `cargo fuzz run store_frames` with a nightly compiler.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ep_transport::fuzzing::frames(bytes));
