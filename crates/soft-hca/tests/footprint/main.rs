//! What a device costs that does nothing, and one whose queue pairs are reset
//! for ever. In a process of its own, as other tests need memory and time too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![expect(clippy::print_stderr, reason = "measurements are there to be read")]

#[expect(dead_code, reason = "shared with other tests, which use all of it")]
#[path = "../it/client.rs"]
mod client;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{Remote, Wqe};
use rustix::time::{ClockId, clock_gettime};
use soft_hca::Config;

use crate::client::{Client, Cq, Pair, Qp};

/// One test at a time has the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of memory that the process has now.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Time that all threads have run so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Connects `count` queue pairs of `a` to as many of `b`.
fn connect(a: &mut Client, b: &mut Client, cqs: [&Cq; 2], count: u32) -> Vec<[Qp; 2]> {
    let pair = |psn| {
        let ends = [a.qp(cqs[0], 0), b.qp(cqs[1], 0)];
        a.connect(&ends[0], psn, &b.end(&ends[1], psn, Mtu::Bytes1024));
        b.connect(&ends[1], psn, &a.end(&ends[0], psn, Mtu::Bytes1024));
        ends
    };
    (0..count).map(pair).collect()
}

#[test]
fn idle_queue_pairs_cost_next_to_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let [mut a, mut b] = [(); 2].map(|()| Client::new(Config::default()));
    let (cq_a, cq_b) = (a.cq(4, true), b.cq(4, true));
    let pairs = connect(&mut a, &mut b, [&cq_a, &cq_b], 256);
    assert_eq!(pairs.len(), 256);
    let share = || {
        let (started, before) = (Instant::now(), spent());
        std::thread::sleep(Duration::from_secs(1));
        (spent() - before).as_secs_f64() / started.elapsed().as_secs_f64()
    };
    // A machine with other things to do makes everything take longer.
    let least = (0..3).map(|_| share()).fold(f64::INFINITY, f64::min);
    // Each of the two devices has 256.
    let percent = least * 100.0 / 2.0;
    eprintln!("256 idle queue pairs: {percent:.2} % of a core");
    assert!(percent < 5.0, "{percent} %");
}

/// Resets one end of a connection `times` times, connects it again, and now and
/// then writes something; the growth of memory in the last nine tenths.
fn resets(times: u32) -> usize {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let mut before = 0;
    let started = Instant::now();
    for round in 0..times {
        if round == times / 10 {
            before = resident();
        }
        let Pair {
            a,
            b,
            cq_a,
            qp_a,
            qp_b,
        } = &mut pair;
        let psn = round & 0x00ff_ffff;
        if round % 10_000 == 0 {
            b.reset(qp_b);
            b.connect(qp_b, 7, &a.end(qp_a, psn, Mtu::Bytes1024));
        }
        a.reset(qp_a);
        a.connect(qp_a, psn, &b.end(qp_b, 7, Mtu::Bytes1024));
        if round % 10_000 == 0 {
            a.forget(cq_a);
            let to = Remote {
                addr: b.address(),
                rkey: b.key(),
            };
            let bytes = u64::from(round).to_ne_bytes();
            let wqe = Wqe::rdma_write_inline(a.signalled(qp_a), to, &bytes, None).unwrap();
            a.post(qp_a, &wqe);
            assert_eq!(a.wait(cq_a, 0), Ok(()), "round {round}");
        }
    }
    let grown = resident().saturating_sub(before);
    eprintln!(
        "{times} resets in {:.1} s, {grown} bytes more",
        started.elapsed().as_secs_f64()
    );
    grown
}

#[test]
fn a_million_resets_leave_memory_as_it_was() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(resets(1_000_000) < 1 << 20);
}
