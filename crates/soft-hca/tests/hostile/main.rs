//! No bytes from a peer and no bytes from a client make the device panic. `cargo xtask fuzz` looks
//! for such bytes with coverage to guide it; these are some that are drawn by chance.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[expect(dead_code, reason = "shared with tests that use all of it")]
#[path = "../it/client.rs"]
mod client;
mod commands;
mod packets;

use proptest::prelude::*;

/// A datagram that begins as one of the RC packets does, with a sequence number near the expected.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![9 => 0u8..=0x14, 1 => any::<u8>()];
    let psn = prop_oneof![9 => 0u8..12, 1 => any::<u8>()];
    let tail = prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..300);
    (opcode, any::<[u8; 2]>(), psn, tail).prop_map(|(opcode, [flags, ack], psn, tail)| {
        let mut datagram = vec![opcode, flags & 0xf0, 0xff, 0xff, 0, 0, 0, 7, ack, 0, 0, psn];
        datagram.extend(tail);
        datagram
    })
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(any::<[u8; 3]>(), 0..3);
    // Not cut, mostly.
    let cut = prop_oneof![9 => Just(1u8), 1 => any::<u8>()];
    (any::<[u8; 3]>(), changes, cut).prop_map(|([call, template, object], changes, cut)| {
        let mut command = vec![call, template, object, changes.len() as u8, cut];
        command.extend(changes.concat());
        command
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_datagrams_are_taken_or_refused(datagrams in prop::collection::vec(datagram(), 0..24)) {
        let mut bytes = Vec::new();
        for datagram in datagrams {
            bytes.push(datagram.len().div_ceil(2) as u8);
            bytes.extend(&datagram);
            if datagram.len() % 2 == 1 {
                bytes.push(0);
            }
        }
        packets::run(&bytes);
    }
}

#[test]
fn any_commands_are_executed_or_refused() {
    let mut commands = commands::Commands::new();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let lists = prop::collection::vec(command(), 0..40);
    let commands = std::cell::RefCell::new(&mut commands);
    let outcome = runner.run(&lists, |list| {
        commands.borrow_mut().run(&list.concat());
        Ok(())
    });
    outcome.unwrap();
}
