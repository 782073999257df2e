//! Random commands, work requests and faults on two devices, against an obvious model: memory is
//! what the model says, every signalled work request is reported once, every message is received
//! once, every addition is made once, states are legal, and in the end everything is freed.
//!
//! `PROPTEST_CASES` asks for more of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod action;
#[expect(dead_code, reason = "shared with tests that use all of it")]
#[path = "../it/client.rs"]
mod client;
mod command;
mod lane;
mod lives;
mod masked;
mod side;
mod world;

use proptest::prelude::*;

/// How many sequences are drawn unless the environment says.
const CASES: u32 = 48;

fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let cases = asked.and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    ProptestConfig {
        cases,
        // A failure takes a while to show; what it shrinks to is worth less than the seed.
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn two_devices_do_what_the_model_does(
        actions in prop::collection::vec(action::action(), 20..160),
    ) {
        let mut world = world::World::new();
        for action in &actions {
            world.act(action);
        }
        world.end();
    }
}
