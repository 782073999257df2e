//! The rendezvous stores, in one process and over TCP.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and speaks to the one that started it"
)]

mod conformance;
mod processes;
mod proxy;
mod secret;
mod tcp;

use ep_transport::store::{MemStore, TcpStore, TcpStoreServer};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_millis(400);

#[test]
fn the_store_in_this_process_conforms() {
    let store = MemStore::new();
    conformance::all(&conformance::Subject {
        one: &store.clone(),
        two: &store,
        ttl: TTL,
    });
}

fn over_tcp(address: &str) -> TcpStore {
    TcpStore::connect(address, PATIENCE).unwrap()
}

#[test]
fn the_store_over_tcp_conforms() {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let address = server.address().to_string();
    conformance::all(&conformance::Subject {
        one: &over_tcp(&address),
        two: &over_tcp(&address),
        ttl: TTL,
    });
}

#[test]
fn the_process_that_serves_a_store_uses_it_as_the_others_do() {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    conformance::all(&conformance::Subject {
        one: &server.store(),
        two: &over_tcp(&server.address().to_string()),
        ttl: TTL,
    });
}
