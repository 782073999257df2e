//! Every operation between two devices, one datagram at a time, and a line for each datagram.
//!
//! `exchange LOG [ADDRESS ADDRESS]` writes the lines to the file LOG, in the order in which each device sent them:
//! the fields of the event that `soft_hca::packets` tells, as `name=value`. `cargo xtask
//! pcap-check` captures it on loopback and holds one against the other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a check may end here")]

use std::fs::File;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::{Config, Faults};
use tracing_subscriber::EnvFilter;

#[expect(dead_code, reason = "shared with the tests, which use all of it")]
#[path = "../tests/it/client.rs"]
mod client;

use client::{Client, Cq, Qp};

/// Where messages come from and where they go to, in the data memory.
const FROM: usize = 0;
const TO: usize = 1 << 19;
/// Where atomics work.
const WORD: usize = (1 << 20) - 64;

/// A connected pair; the second end has a receive queue.
struct Ends {
    a: Client,
    b: Client,
    cq_a: Cq,
    cq_b: Cq,
    qp_a: Qp,
    qp_b: Qp,
    received: u16,
}

impl Ends {
    fn new(mtu: Mtu, psn: u32, addresses: &[IpAddr]) -> Self {
        let config = |index| Config {
            // The system would hand the capture many datagrams in one piece.
            batching: false,
            addresses: addresses.get(index).copied().into_iter().collect(),
            ..Config::default()
        };
        let mut a = Client::new(config(0));
        let mut b = Client::new(config(1));
        let cq_a = a.cq(4, false);
        let cq_b = b.cq(4, false);
        let qp_a = a.qp(&cq_a, 4);
        let qp_b = b.qp_with_receives(&cq_b, 4);
        a.connect(&qp_a, psn, &b.end(&qp_b, 5, mtu));
        b.connect(&qp_b, 5, &a.end(&qp_a, psn, mtu));
        Self {
            a,
            b,
            cq_a,
            cq_b,
            qp_a,
            qp_b,
            received: 0,
        }
    }

    fn local(&self, len: usize) -> DataPtr {
        DataPtr {
            addr: self.a.address() + FROM as u64,
            lkey: self.a.key(),
            len: u32::try_from(len).unwrap(),
        }
    }

    /// The list of memory for a message: nothing, if it is empty.
    fn message(&self, len: usize) -> Vec<DataPtr> {
        (len > 0).then(|| self.local(len)).into_iter().collect()
    }

    fn remote(&self, offset: usize) -> Remote {
        Remote {
            addr: self.b.address() + offset as u64,
            rkey: self.b.key(),
        }
    }

    /// Posts, and waits for success.
    fn run(&mut self, wqe: &Wqe) {
        self.a.post(&mut self.qp_a, wqe);
        self.finish();
    }

    fn finish(&mut self) {
        let cqe = self.a.next(&mut self.cq_a);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::Req), "{:?}", cqe.syndrome());
    }

    fn write(&mut self, len: usize, immediate: Option<u32>) {
        if immediate.is_some() {
            self.receive(0);
        }
        let data = pattern(len);
        self.a.store(FROM, &data);
        let post = self.a.signalled(&self.qp_a);
        let wqe = Wqe::rdma_write(post, self.remote(TO), &self.message(len), immediate).unwrap();
        self.run(&wqe);
        assert_eq!(self.b.load(TO, len), data);
        if let Some(immediate) = immediate {
            assert_eq!(self.b.next(&mut self.cq_b).imm(), immediate);
        }
    }

    fn read(&mut self, len: usize) {
        let data = pattern(len);
        self.b.store(TO, &data);
        let post = self.a.signalled(&self.qp_a);
        let wqe = Wqe::rdma_read(post, self.remote(TO), &self.message(len)).unwrap();
        self.run(&wqe);
        assert_eq!(self.a.load(FROM, len), data);
    }

    /// Posts a receive buffer of `len` bytes.
    fn receive(&mut self, len: u32) {
        let buffer = DataPtr {
            addr: self.b.address() + TO as u64,
            lkey: self.b.key(),
            len,
        };
        let list = [buffer];
        let list = if len > 0 { &list[..] } else { &[] };
        self.b.post_receive(&self.qp_b, self.received, list);
        self.received = self.received.wrapping_add(1);
    }

    fn post_send(&mut self, len: usize, immediate: Option<u32>) {
        self.a.store(FROM, &pattern(len));
        let post = self.a.signalled(&self.qp_a);
        let wqe = Wqe::send(post, &self.message(len), immediate).unwrap();
        self.a.post(&mut self.qp_a, &wqe);
    }

    fn received(&mut self, len: usize, immediate: Option<u32>) {
        self.finish();
        let cqe = self.b.next(&mut self.cq_b);
        assert_eq!(cqe.byte_cnt() as usize, len);
        assert_eq!(cqe.imm(), immediate.unwrap_or(0));
        assert_eq!(self.b.load(TO, len), pattern(len));
    }

    fn send(&mut self, len: usize, immediate: Option<u32>) {
        self.receive(64 << 10);
        self.post_send(len, immediate);
        self.received(len, immediate);
    }

    fn atomics(&mut self) {
        let post = self.a.signalled(&self.qp_a);
        let remote = self.remote(WORD);
        let add = Wqe::fetch_add(post, remote, self.local(8), 0x0123_4567_89ab_cdef).unwrap();
        self.run(&add);
        let post = self.a.signalled(&self.qp_a);
        let (compare, swap) = (0x0123_4567_89ab_cdef, 77);
        let swap = Wqe::compare_swap(post, remote, self.local(8), compare, swap).unwrap();
        self.run(&swap);
        assert_eq!(self.b.load(WORD, 8), 77u64.to_ne_bytes());
    }

    /// Nothing is posted to receive into: the sender is told to try again later.
    fn not_ready(&mut self) {
        self.post_send(2500, None);
        std::thread::sleep(Duration::from_millis(20));
        self.receive(64 << 10);
        self.received(2500, None);
    }

    /// A packet is lost: the receiver says which it expects.
    fn gap(&mut self) {
        let name = self.a.name.clone();
        let retransmits = || soft_hca::stats(&name).unwrap().retransmits;
        let before = retransmits();
        let until = Instant::now() + Duration::from_secs(10);
        for seed in 0.. {
            assert!(Instant::now() < until, "nothing was ever lost");
            let loss = 0.2;
            let faults = Faults {
                loss,
                seed,
                ..Faults::default()
            };
            soft_hca::set_faults(&name, faults).unwrap();
            self.write(20_000, None);
            if retransmits() > before {
                break;
            }
        }
        soft_hca::set_faults(&name, Faults::default()).unwrap();
    }

    /// The last thing: the receiver refuses and both ends fail.
    fn refusal(&mut self) {
        let bad = Remote {
            rkey: self.b.key() ^ 1,
            ..self.remote(TO)
        };
        let post = self.a.signalled(&self.qp_a);
        let wqe = Wqe::rdma_write_inline(post, bad, &[1; 8], None).unwrap();
        self.a.post(&mut self.qp_a, &wqe);
        let cqe = self.a.next(&mut self.cq_a);
        assert_eq!(cqe.syndrome(), Syndrome::RemoteAccess);
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + len) as u8).collect()
}

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| {
        panic!("exchange LOG: which file?");
    });
    let log = File::create(path).unwrap();
    let addresses: Vec<IpAddr> = std::env::args()
        .skip(2)
        .map(|address| address.parse().unwrap())
        .collect();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("soft_hca::packets=trace"))
        .without_time()
        .with_target(false)
        .with_level(false)
        .with_ansi(false)
        .with_writer(Mutex::new(log))
        .init();
    // The second numbers packets beyond the end of the 24 bits.
    for (mtu, psn) in [(Mtu::Bytes1024, 100), (Mtu::Bytes4096, 0x00ff_fff0)] {
        let mut ends = Ends::new(mtu, psn, &addresses);
        for len in [0, 1, 1024, 4097, 20_003] {
            ends.write(len, None);
            ends.write(len, Some(0xa1b2_c3d4));
            ends.read(len);
            ends.send(len, None);
            ends.send(len, Some(len as u32));
        }
        ends.atomics();
        ends.not_ready();
        ends.gap();
        ends.refusal();
    }
}
