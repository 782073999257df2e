//! Ranks that are processes of their own, so that one can be killed.

use super::*;
use ep_transport::store::{TcpStore, TcpStoreServer};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// The address of the store, for rank 1.
const ROLE: &str = "EP_TRANSPORT_GPU_TEST_STORE";
const AT: u64 = 4096;

pub(super) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Rank 1: comes in, writes its incarnation into its own window and rank 0's, and stays.
pub(super) fn run(store: String) -> ExitCode {
    let store = TcpStore::connect(&store, PATIENCE).unwrap();
    let mut group = open(1, 2, Arc::new(store));
    group.wait_admitted(PATIENCE).unwrap();
    let life = group.incarnation().0.to_le_bytes();
    for rank in [Rank(0), Rank(1)] {
        group.windows().write(rank, AT, &life).unwrap();
    }
    println!("ready");
    // Until the test ends, or kills this.
    let _ = std::io::stdin().read(&mut [0]);
    ExitCode::SUCCESS
}

struct Process(Child);

impl Process {
    fn start(store: &TcpStoreServer) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, store.address().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn wait_ready(&mut self) {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "rank 1 did not come in");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn a_process_dies() {
    let server = TcpStoreServer::bind("127.0.0.1:0").unwrap();
    let mut group = open(0, 2, Arc::new(server.store()));
    let mut first = Process::start(&server);
    group.wait_admitted(PATIENCE).unwrap();
    first.wait_ready();
    let before = group.snapshot();
    let lives =
        |group: &GpuGroup| [Rank(0), Rank(1)].map(|rank| read(group.windows(), rank, AT, 4));
    assert_eq!(lives(&group), [[1, 0, 0, 0]; 2]);
    drop(first);
    let counts = |group: &GpuGroup, life| group.control().counts(Rank(1), Incarnation(life));
    eventually("the death was noticed", || !counts(&group, 1).unwrap());
    // What was mapped outlives the process; a kernel that stores there is not hurt.
    group.windows().write(Rank(1), AT, &[7; 4]).unwrap();
    let mut second = Process::start(&server);
    second.wait_ready();
    eventually("the newcomer counts", || counts(&group, 2).unwrap());
    assert_eq!(lives(&group), [[2, 0, 0, 0]; 2]);
    assert_eq!(group.snapshot(), before);
}
