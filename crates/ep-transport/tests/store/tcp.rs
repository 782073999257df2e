//! Broken connections, lost answers, and stores that go away.

use crate::proxy::Proxy;
use crate::{PATIENCE, TTL};
use ep_transport::store::{
    MAX_VALUE, Rendezvous, Revision, StoreError, Swap, TcpStore, TcpStoreServer,
};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

fn served() -> (TcpStoreServer, Proxy) {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(server.address());
    (server, proxy)
}

#[test]
fn a_broken_connection_ends_no_lease_and_the_next_call_opens_another() {
    let (server, proxy) = served();
    let survived = (0..8).filter(|round| {
        let client = TcpStore::connect(&proxy.address, PATIENCE).unwrap();
        let lease = client.grant(LONG).unwrap();
        client.put("card", b"here", Some(lease)).unwrap();
        proxy.cut();
        if round % 2 == 0 {
            // Nothing is asked for meanwhile: the client comes back all the same.
            std::thread::sleep(Duration::from_millis(60));
        }
        let there = server.store().get("card").unwrap().is_some();
        let kept = client.keep_alive(lease);
        drop(client);
        let deadline = Instant::now() + PATIENCE;
        while server.store().get("card").unwrap().is_some() {
            assert!(Instant::now() < deadline, "the lease outlives its client");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(kept, Ok(()) | Err(StoreError::LeaseEnded { .. })));
        there && kept.is_ok()
    });
    // A client has 10 ms, and other tests run beside this one.
    let survived = survived.count();
    assert!(survived > 4, "{survived} of 8");
}

#[test]
fn a_wait_for_changes_goes_on_over_another_connection() {
    let (server, proxy) = served();
    let client = TcpStore::connect(&proxy.address, PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| client.changes("k", Revision(0), PATIENCE).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        proxy.cut();
        std::thread::sleep(Duration::from_millis(50));
        server.store().put("k", b"v", None).unwrap();
        assert_eq!(heard.join().unwrap().changes.len(), 1);
    });
}

#[test]
fn a_swap_whose_answer_was_lost_is_won_and_done_once() {
    let (server, proxy) = served();
    let client = TcpStore::connect(&proxy.address, PATIENCE).unwrap();
    proxy.lose_answers();
    let outcome = std::thread::scope(|scope| {
        let swap = scope.spawn(|| client.compare_and_swap("k", None, b"mine").unwrap());
        proxy.wait_for_a_lost_answer();
        assert_eq!(server.store().get("k").unwrap().unwrap().value, b"mine");
        proxy.hear();
        proxy.cut();
        swap.join().unwrap()
    });
    let held = server.store().get("k").unwrap().unwrap();
    assert_eq!(outcome, Swap::Won(held.revision));
    assert_eq!(held.revision, Revision(1));
}

#[test]
fn a_call_to_a_silent_store_ends_and_a_later_one_succeeds() {
    let (_server, proxy) = served();
    let client = TcpStore::connect(&proxy.address, PATIENCE).unwrap();
    proxy.lose_answers();
    let begun = Instant::now();
    let error = client.get("k").unwrap_err();
    assert!(matches!(error, StoreError::Connection { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(6));
    proxy.hear();
    client.get("k").unwrap();
}

#[test]
fn a_store_that_is_gone_is_named_soon_and_another_one_is_not_taken_for_it() {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let address = server.address().to_string();
    let client = TcpStore::connect(&address, PATIENCE).unwrap();
    let lease = client.grant(LONG).unwrap();
    drop(server);
    let begun = Instant::now();
    let error = client.keep_alive(lease).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let _another = TcpStoreServer::bind(&address).unwrap();
    let error = client.keep_alive(lease).unwrap_err();
    assert!(matches!(error, StoreError::Replaced { .. }), "{error}");
    TcpStore::connect(&address, PATIENCE)
        .unwrap()
        .get("k")
        .unwrap();
}

#[test]
fn a_member_that_was_given_up_is_told_so() {
    let (server, proxy) = served();
    let client = TcpStore::connect(&proxy.address, PATIENCE).unwrap();
    let lease = client.grant(TTL).unwrap();
    client.put("card", b"", Some(lease)).unwrap();
    std::thread::sleep(TTL * 2);
    assert_eq!(server.store().get("card").unwrap(), None);
    let error = client.keep_alive(lease).unwrap_err();
    assert!(matches!(error, StoreError::LeaseEnded { lease: of } if of == lease));
}

#[test]
fn what_no_store_would_say_is_refused_and_the_store_goes_on() {
    use std::io::{Read, Write};
    let (server, _proxy) = served();
    let mut hello = b"EPRV\x03\x00\x00".to_vec();
    hello.resize(39, 7);
    let mut huge = hello.clone();
    huge.extend_from_slice(&(64 * MAX_VALUE as u32).to_le_bytes());
    let mut early = hello.clone();
    // A frame that asks for something before it joins.
    early.extend_from_slice(&[4, 0, 0, 0, 1, 2, 1, b'k']);
    let mut odd = hello.clone();
    odd[6] = 9;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &huge, &early, &odd] {
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        // A reset is as good an end as any.
        let _ = stream.read_to_end(&mut said);
        assert_eq!(said.len(), 39, "{said:?}");
    }
    let client = TcpStore::connect(&server.address().to_string(), PATIENCE).unwrap();
    client.put("k", b"", None).unwrap();
}

/// How often a client asks that reads nothing.
const UNREAD: u8 = 8;

/// Raw, so that nobody reads: says hello, joins, and asks for what is under a prefix.
fn unread(server: &TcpStoreServer, prefix: &str) -> std::net::TcpStream {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    let mut said = b"EPRV\x03\x00\x00".to_vec();
    said.resize(39, 7);
    let mut frame = |id: u8, request: &[u8]| {
        said.extend_from_slice(&(1 + request.len() as u32).to_le_bytes());
        said.push(id);
        said.extend_from_slice(request);
    };
    let mut join = vec![0];
    join.extend_from_slice(&[9; 16]);
    frame(0, &join);
    // Changes of the prefix after revision 0, waiting for nothing.
    let mut list = vec![5, prefix.len() as u8];
    list.extend_from_slice(prefix.as_bytes());
    list.extend_from_slice(&[0, 0, 0]);
    (1..=UNREAD).for_each(|id| frame(id, &list));
    stream.write_all(&said).unwrap();
    stream
}

#[test]
fn a_store_ends_at_once_whatever_its_clients_do() {
    use std::io::Read;
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let address = server.address().to_string();
    let store = server.store();
    for i in 0..3 {
        let value = vec![7; MAX_VALUE];
        store.put(&format!("much/{i}"), &value, None).unwrap();
    }
    // Answers of 3 MiB each, which fill all buffers.
    let mut unread = [(); 4].map(|()| unread(&server, "much/"));
    // Some that say nothing, some that have not even said hello.
    let idle = [(); 4].map(|()| TcpStore::connect(&address, PATIENCE).unwrap());
    let mute = [(); 4].map(|()| std::net::TcpStream::connect(&address).unwrap());
    std::thread::scope(|scope| {
        for client in &idle {
            scope.spawn(|| client.changes("never/", Revision(1), LONG));
        }
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        drop(server);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
    // They were being answered, and did not get it all.
    for stream in &mut unread {
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        let all = 3 * MAX_VALUE * usize::from(UNREAD);
        assert!((50..all).contains(&got.len()), "{}", got.len());
    }
    drop(mute);
    // The store itself is still there for whoever served it.
    assert!(store.get("much/0").unwrap().is_some());
}
