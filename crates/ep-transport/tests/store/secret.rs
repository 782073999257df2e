//! Stores that ask for a secret.

use crate::proxy::Proxy;
use crate::{PATIENCE, TTL, conformance};
use ep_transport::Secret;
use ep_transport::store::{Rendezvous, TcpStore, TcpStoreServer};
use std::time::{Duration, Instant};

fn secret(byte: u8) -> Option<Secret> {
    Some(Secret::new(&[byte; 32]).unwrap())
}

fn refusal(server: &TcpStoreServer, secret: Option<Secret>) -> String {
    let address = server.address().to_string();
    let refused = TcpStore::connect_with_secret(&address, Duration::ZERO, secret);
    refused.unwrap_err().to_string().replace(&address, "it")
}

#[test]
fn a_store_with_a_secret_conforms() {
    let server = TcpStoreServer::bind_with_secret("127.0.0.1:0", secret(1)).unwrap();
    let address = server.address().to_string();
    let connect = || TcpStore::connect_with_secret(&address, PATIENCE, secret(1)).unwrap();
    conformance::all(&conformance::Subject {
        one: &connect(),
        two: &connect(),
        ttl: TTL,
    });
}

#[test]
fn who_does_not_know_the_secret_is_refused_with_the_reason() {
    let secured = TcpStoreServer::bind_with_secret("127.0.0.1:0", secret(1)).unwrap();
    let open = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        refusal(&secured, None),
        "it is not to be trusted: it asks for a secret, this side has none"
    );
    assert_eq!(
        refusal(&secured, secret(2)),
        "it is not to be trusted: it refuses this side's secret"
    );
    assert_eq!(
        refusal(&open, secret(1)),
        "it is not to be trusted: it has no secret, this side asks for one"
    );
}

#[test]
fn a_store_that_only_pretends_to_know_the_secret_is_found_out() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let pretender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 39];
        stream.read_exact(&mut hello).unwrap();
        // The client's own hello and proof, sent back.
        stream.write_all(&hello).unwrap();
        let mut proof = [0; 32];
        stream.read_exact(&mut proof).unwrap();
        stream.write_all(&[1]).unwrap();
        stream.write_all(&proof).unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    let error = TcpStore::connect_with_secret(&address, Duration::ZERO, secret(1)).unwrap_err();
    assert!(
        error.to_string().ends_with("it does not know the secret"),
        "{error}"
    );
    pretender.join().unwrap();
}

#[test]
fn a_stranger_can_do_nothing_without_the_handshake() {
    use std::io::{Read, Write};
    let server = TcpStoreServer::bind_with_secret("127.0.0.1:0", secret(1)).unwrap();
    server.store().put("k", b"v", None).unwrap();
    let mut hello = b"EPRV\x03\x00\x01".to_vec();
    hello.resize(39, 7);
    // A proof of zeros, then a frame all the same.
    hello.resize(39 + 32, 0);
    hello.extend_from_slice(&[4, 0, 0, 0, 1, 3, 1, b'k']);
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(said.len() <= 40, "{} bytes", said.len());
    assert!(server.store().get("k").unwrap().is_some());
}

#[test]
fn a_tampered_message_is_not_carried_out_and_said_again() {
    let server = TcpStoreServer::bind_with_secret("127.0.0.1:0", secret(1)).unwrap();
    let proxy = Proxy::to(server.address());
    let client = TcpStore::connect_with_secret(&proxy.address, PATIENCE, secret(1)).unwrap();
    let took = [1, 2, 3].map(|n| {
        proxy.tamper();
        let begun = Instant::now();
        client.put("k", b"right", None).unwrap();
        let took = begun.elapsed();
        let held = server.store().get("k").unwrap().unwrap();
        // The store has seen one change only each time.
        assert_eq!((&held.value[..], held.revision.0), (&b"right"[..], n));
        took
    });
    // The client is told at once that its message was not taken. One time, since other
    // tests run beside this one.
    assert!(
        took.iter().min() < Some(&Duration::from_millis(300)),
        "{took:?}"
    );
}
