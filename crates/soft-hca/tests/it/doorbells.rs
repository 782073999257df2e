//! Nothing starts before a doorbell says so.

use std::time::Duration;

use mlx5gda_sys::cqe::CqeOpcode;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::Wqe;

use crate::client::Pair;

/// Longer than any time after which the device might look by itself.
const LONG: Duration = Duration::from_millis(60);

#[test]
fn work_waits_for_its_doorbell() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let first = Wqe::nop(pair.a.signalled(&pair.qp_a)).unwrap();
    pair.a.place(&mut pair.qp_a, &first);
    pair.a.record(&pair.qp_a);
    // Neither time nor what the peer sends starts it.
    for _ in 0..3 {
        std::thread::sleep(LONG / 3);
        pair.b.nop(&mut pair.qp_b);
    }
    assert_eq!(
        pair.a.collapsed(&pair.cq_a).opcode(),
        Ok(CqeOpcode::Invalid)
    );
    pair.a.write_doorbell(first.ctrl_doorbell());
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Ok(()));
}

#[test]
fn work_recorded_before_ready_to_send_waits_for_its_doorbell() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let end = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.reset(&mut pair.qp_a);
    let wqe = Wqe::nop(pair.a.signalled(&pair.qp_a)).unwrap();
    pair.a.place(&mut pair.qp_a, &wqe);
    pair.a.record(&pair.qp_a);
    pair.a.connect(&pair.qp_a, 1, &end);
    std::thread::sleep(LONG);
    assert_eq!(
        pair.a.collapsed(&pair.cq_a).opcode(),
        Ok(CqeOpcode::Invalid)
    );
    pair.a.write_doorbell(wqe.ctrl_doorbell());
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Ok(()));
}

#[test]
fn a_doorbell_of_one_queue_pair_tells_of_all_of_its_page() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let cq = pair.a.cq(4, true);
    let mut other = pair.a.qp(&cq, 4);
    pair.a
        .connect(&other, 1, &pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024));
    let lost = Wqe::nop(pair.a.signalled(&other)).unwrap();
    pair.a.place(&mut other, &lost);
    pair.a.record(&other);
    // Its own doorbell was overwritten by this one.
    pair.a.nop(&mut pair.qp_a);
    assert_eq!(pair.a.wait(&cq, 0), Ok(()));
}

#[test]
fn arming_waits_for_its_doorbell() {
    /// `cqc.st` of a queue that nobody asked, and of one that is armed.
    const STATES: [u32; 2] = [0, 9];
    let mut pair = Pair::new(Mtu::Bytes1024, 4, false);
    pair.a.record_arming(&pair.cq_a, 1, false);
    std::thread::sleep(LONG);
    // Work has its own doorbell.
    pair.a.nop(&mut pair.qp_a);
    pair.a.next(&mut pair.cq_a);
    assert_eq!(pair.a.cq_context(&pair.cq_a).st(), STATES[0]);
    pair.a.arm(&pair.cq_a, 2, false);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while pair.a.cq_context(&pair.cq_a).st() != STATES[1] {
        assert!(std::time::Instant::now() < until, "never armed");
        std::thread::yield_now();
    }
}
