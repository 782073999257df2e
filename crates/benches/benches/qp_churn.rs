//! What it takes to replace queue pairs: destroying and creating them, against resetting them and
//! using them again. One by one, and for a peer that has 32 of 256.
//!
//! `cargo bench -p benches --bench qp_churn`, less than a minute. First a table of commands: on
//! hardware, each is a round trip through the driver and the firmware, which costs more than all
//! that is timed here.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may end here and prints what it finds"
)]

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../../soft-hca/tests/it/client.rs"]
mod client;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mlx5gda_sys::prm::Mtu;
use soft_hca::Config;

use client::{Client, Cq, End, Qp};

/// Queue pairs to all peers, and to one of them.
const ALL: usize = 256;
const ONE_PEER: usize = 32;
/// Blocks of each send queue, as a power of two.
const LOG_DEPTH: u32 = 3;
/// First PSN.
const PSN: u32 = 11;

/// A queue pair with its completion queue, and where their memory starts.
struct Slot {
    memory: u64,
    cq: Cq,
    qp: Qp,
}

/// A device with many connected queue pairs, and the peer that they are connected to.
struct Fleet {
    client: Client,
    slots: Vec<Slot>,
    end: End,
    _peer: Client,
}

impl Fleet {
    fn new(count: usize) -> Self {
        let mut client = Client::new(Config::default());
        let mut peer = Client::new(Config::default());
        let cq = peer.cq(4, true);
        let qp = peer.qp(&cq, 4);
        let end = peer.end(&qp, PSN, Mtu::Bytes4096);
        let slots = (0..count).map(|_| create(&mut client, None, &end));
        let slots = slots.collect();
        Self {
            client,
            slots,
            end,
            _peer: peer,
        }
    }

    /// Destroys the first queue pairs and creates others in the same memory.
    fn recreate(&mut self, count: usize) {
        for slot in &mut self.slots[..count] {
            assert_eq!(self.client.destroy(slot.qp.object), 0);
            assert_eq!(self.client.destroy(slot.cq.object), 0);
            *slot = create(&mut self.client, Some(slot.memory), &self.end);
        }
    }

    /// Resets the first queue pairs and connects them anew.
    fn reuse(&mut self, count: usize) {
        for slot in &mut self.slots[..count] {
            self.client.reset(&mut slot.qp);
            self.client.forget(&slot.cq);
            self.client.connect(&slot.qp, PSN, &self.end);
        }
    }

    fn commands(&self) -> u64 {
        soft_hca::stats(&self.client.name).unwrap().total_commands()
    }
}

/// Creates a completion queue and a queue pair, in memory used before or in new, and connects.
fn create(client: &mut Client, memory: Option<u64>, end: &End) -> Slot {
    let (memory, taken) = (memory.unwrap_or(client.used), client.used);
    client.used = memory;
    let cq = client.cq(LOG_DEPTH, true);
    let qp = client.qp(&cq, LOG_DEPTH);
    client.used = client.used.max(taken);
    client.connect(&qp, PSN, end);
    Slot { memory, cq, qp }
}

/// A way to replace queue pairs: how many of them there are, how many of those it touches.
type Way = (&'static str, usize, fn(&mut Fleet));

const WAYS: [Way; 5] = [
    ("one/create and destroy", 1, |fleet| fleet.recreate(1)),
    ("one/reset and reuse", 1, |fleet| fleet.reuse(1)),
    ("32 of 256/create and destroy all", ALL, |fleet| {
        fleet.recreate(ALL);
    }),
    ("32 of 256/create and destroy 32", ALL, |fleet| {
        fleet.recreate(ONE_PEER);
    }),
    ("32 of 256/reset and reuse 32", ALL, |fleet| {
        fleet.reuse(ONE_PEER);
    }),
];

fn table() {
    println!("{:<36}{:>10}", "", "commands");
    for (name, count, replace) in WAYS {
        let mut fleet = Fleet::new(count);
        let before = fleet.commands();
        replace(&mut fleet);
        println!("{name:<36}{:>10}", fleet.commands() - before);
    }
    println!();
}

fn churn(criterion: &mut Criterion) {
    table();
    let mut group = criterion.benchmark_group("qp_churn");
    group
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    for (name, count, replace) in WAYS {
        let mut fleet = Fleet::new(count);
        group.bench_function(name, |bencher| bencher.iter(|| replace(&mut fleet)));
    }
    group.finish();
}

criterion_group!(benches, churn);
criterion_main!(benches);
