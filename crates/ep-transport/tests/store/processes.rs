//! Processes that are killed or stopped. The tests start this program again, as the
//! one process that something happens to.

use crate::PATIENCE;
use ep_transport::store::{Rendezvous, Revision, TcpStore, TcpStoreServer};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "STORE_TEST_ROLE";
const TTL: Duration = Duration::from_secs(1);

struct Process(Child);

impl Process {
    /// Starts this program as a client of `store`, or as a store; returns what it says.
    fn start(role: &str) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::the_death_of_a_process_is_seen_at_once"])
            .args(["--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("ready ").map(|(_, said)| said.to_owned()));
        (Self(child), said.unwrap())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.0.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a process started by [`Process::start`]: does what it is there for.
fn is_one_of_them() -> bool {
    let Ok(role) = std::env::var(ROLE) else {
        return false;
    };
    if role == "store" {
        let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
        println!("ready {}", server.address());
        std::thread::sleep(PATIENCE * 3);
    } else {
        let client = TcpStore::connect(&role, PATIENCE).unwrap();
        let lease = client.grant(Duration::from_secs(60)).unwrap();
        client.put("card", b"", Some(lease)).unwrap();
        println!("ready and alive");
        // As a rank does that has nothing else to do; longer than the other side waits.
        let _ = client.changes("never", Revision(1), PATIENCE * 3);
        std::thread::sleep(PATIENCE * 3);
    }
    true
}

#[test]
fn the_death_of_a_process_is_seen_at_once() {
    if is_one_of_them() {
        return;
    }
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let store = server.store();
    let mut delays: Vec<Duration> = (0..5)
        .map(|_| {
            let (client, _) = Process::start(&server.address().to_string());
            let at = store
                .changes("card", Revision(0), PATIENCE)
                .unwrap()
                .revision;
            client.signal("KILL");
            let killed = Instant::now();
            let gone = store.changes("card", at, PATIENCE).unwrap();
            assert!(gone.changes[0].value.is_none());
            killed.elapsed()
        })
        .collect();
    delays.sort();
    println!("deaths seen after {delays:?}");
    // Half of them, since other tests run beside this one.
    assert!(delays[2] < Duration::from_millis(200), "{delays:?}");
}

#[test]
fn a_store_that_was_stopped_ends_nobodys_lease() {
    let (store, address) = Process::start("store");
    let clients: Vec<TcpStore> = (0..3)
        .map(|_| TcpStore::connect(&address, PATIENCE).unwrap())
        .collect();
    let leases: Vec<_> = clients.iter().map(|c| c.grant(TTL).unwrap()).collect();
    let keep = |until: Instant| {
        while Instant::now() < until {
            for (client, lease) in clients.iter().zip(&leases) {
                client.keep_alive(*lease).unwrap();
            }
            std::thread::sleep(TTL / 4);
        }
    };
    keep(Instant::now() + TTL);
    store.signal("STOP");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(TTL * 3);
            store.signal("CONT");
        });
        // The calls made meanwhile wait and are answered.
        keep(Instant::now() + TTL * 4);
    });
    let silent = leases[0];
    std::thread::sleep(TTL + TTL / 2);
    assert!(clients[0].keep_alive(silent).is_err());
}
