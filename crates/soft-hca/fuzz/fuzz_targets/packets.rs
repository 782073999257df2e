//! Any datagrams to the parsers of packets and to both halves of a connection:
//! `cargo xtask fuzz`, or `cargo fuzz run packets` with a nightly compiler.
#![no_main]

#[path = "../../tests/hostile/packets.rs"]
mod packets;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| packets::run(bytes));
