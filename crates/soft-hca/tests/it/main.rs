//! Devices driven through the function table only, as a C client would.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod channel;
mod client;
mod commands;
mod completions;
mod doorbells;
mod end_to_end;
mod events;
mod faults;
mod keys;
mod masked;
mod namespace;
mod networks;
mod posting;
mod process;
mod queries;
mod readers;
mod receives;
mod strictness;
mod transitions;
mod unmapped;
