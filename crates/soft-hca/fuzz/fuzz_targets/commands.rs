//! Any mailboxes to a live device:
//! `cargo xtask fuzz`, or `cargo fuzz run commands` with a nightly compiler.
#![no_main]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/it/client.rs"]
mod client;
#[path = "../../tests/hostile/commands.rs"]
mod commands;

use std::cell::RefCell;

use commands::Commands;
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// Opened once: that takes longer than many commands.
    static DEVICE: RefCell<Commands> = RefCell::new(Commands::new());
}

fuzz_target!(|bytes: &[u8]| DEVICE.with_borrow_mut(|device| device.run(bytes)));
