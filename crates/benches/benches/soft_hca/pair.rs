//! Two connected devices.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::CqeOpcode;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::Config;

use crate::client::{Client, Cq, Qp};

/// Writes that wait in the queue.
const DEPTH: u16 = 32;
/// Where the word is that a ping changes.
const WORD: usize = crate::client::DATA - 8;

/// Two devices with a queue pair each.
pub(crate) struct Bench {
    a: Client,
    b: Client,
    cq_a: Cq,
    qp_a: Qp,
    qp_b: Qp,
    round: u64,
}

fn local(client: &Client, offset: u64, len: usize) -> DataPtr {
    DataPtr {
        addr: client.address() + offset,
        lkey: client.key(),
        len: len as u32,
    }
}

fn remote(client: &Client, offset: u64) -> Remote {
    Remote {
        addr: client.address() + offset,
        rkey: client.key(),
    }
}

impl Bench {
    pub(crate) fn new(batching: bool) -> Self {
        let config = Config {
            batching,
            ..Config::default()
        };
        let mut a = Client::new(config.clone());
        let mut b = Client::new(config);
        let cq_a = a.cq(8, true);
        let cq_b = b.cq(8, true);
        let qp_a = a.qp(&cq_a, 8);
        let qp_b = b.qp(&cq_b, 8);
        a.connect(&qp_a, 1, &b.end(&qp_b, 2, Mtu::Bytes4096));
        b.connect(&qp_b, 2, &a.end(&qp_a, 1, Mtu::Bytes4096));
        Self {
            a,
            b,
            cq_a,
            qp_a,
            qp_b,
            round: 0,
        }
    }

    /// Writes of `size` bytes for about `time`; MiB/s.
    pub(crate) fn throughput(&mut self, size: usize, time: Duration) -> f64 {
        let Self {
            a, b, cq_a, qp_a, ..
        } = self;
        let started = Instant::now();
        let first = qp_a.posted;
        let mut done = 0u64;
        let mut posted = 0u64;
        loop {
            let over = started.elapsed() >= time;
            while !over && posted - done < u64::from(DEPTH) {
                let data = [local(a, 0, size)];
                let wqe = Wqe::rdma_write(a.signalled(qp_a), remote(b, 0), &data, None).unwrap();
                a.post(qp_a, &wqe);
                posted += 1;
            }
            if done == posted {
                break;
            }
            let cqe = a.collapsed(cq_a);
            match cqe.opcode() {
                Ok(CqeOpcode::Req) => {
                    let newest = cqe.wqe_counter().wrapping_sub(first).wrapping_add(1);
                    done += u64::from(newest.wrapping_sub(done as u16) & 0xff);
                }
                Ok(CqeOpcode::Invalid) => {}
                other => panic!("{other:?}"),
            }
            // The processors are for the engines.
            std::thread::sleep(Duration::from_micros(20));
        }
        a.forget(cq_a);
        posted as f64 * size as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64()
    }

    /// Writes of `size` bytes there and back for about `time`; microseconds
    /// from posting to being seen in memory.
    pub(crate) fn latency(&mut self, size: usize, time: Duration) -> f64 {
        let started = Instant::now();
        let mut count = 0u64;
        while started.elapsed() < time {
            self.round += 1;
            count += 2;
            ping(&self.a, &mut self.qp_a, &self.b, size, self.round);
            ping(&self.b, &mut self.qp_b, &self.a, size, self.round);
        }
        started.elapsed().as_secs_f64() * 1e6 / count as f64
    }
}

/// A write whose last word is `value`, and its arrival.
fn ping(from: &Client, qp: &mut Qp, to: &Client, size: usize, value: u64) {
    let at = (WORD + 8 - size) as u64;
    let wqe = if size == 8 {
        let bytes = value.to_ne_bytes();
        Wqe::rdma_write_inline(from.signalled(qp), remote(to, at), &bytes, None).unwrap()
    } else {
        // Not where anything arrives: the peer's data is in the other half.
        let source = at - (1 << 19);
        from.word(WORD - (1 << 19)).store(value, Ordering::Relaxed);
        let data = [local(from, source, size)];
        Wqe::rdma_write(from.signalled(qp), remote(to, at), &data, None).unwrap()
    };
    from.post(qp, &wqe);
    let until = Instant::now() + Duration::from_secs(10);
    while to.word(WORD).load(Ordering::Acquire) != value {
        assert!(Instant::now() < until, "no ping");
        std::thread::yield_now();
    }
}
