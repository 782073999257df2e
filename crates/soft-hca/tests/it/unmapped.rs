//! Memory that goes away under the device. A driver would have pinned it; here
//! the work that needs it fails, and nothing else does.

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::eqe::{Eqe, EventType};
use mlx5gda_sys::prm::{CmdStatus, CreateQpIn, Mtu, QpState};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use rustix::mm::MprotectFlags;
use soft_hca::Config;

use crate::channel::Channel;
use crate::client::{Client, Cq, Pair, Qp};
use crate::completions::resize;

const GONE: MprotectFlags = MprotectFlags::empty();
const BACK: MprotectFlags = MprotectFlags::READ.union(MprotectFlags::WRITE);
/// A page of data memory that is not the first.
const FAR: usize = 16 * 4096;

/// A page of control memory.
fn page(client: &mut Client) -> u64 {
    client.next_page();
    client.take(4096)
}

/// A queue pair of `a` that is connected to nobody's queue, and its completion
/// queue.
fn lone(pair: &mut Pair, place: impl FnOnce(&mut CreateQpIn)) -> (Cq, Qp) {
    let cq = pair.a.cq(4, false);
    let (mut input, ..) = pair.a.qp_command(cq.number, 4);
    place(&mut input);
    let (object, out) = pair.a.create(input).unwrap();
    let qp = Qp {
        object,
        number: out.qpn(),
        queue: input.wq_umem_offset(),
        doorbell: input.qpc.dbr_addr(),
        log: 4,
        posted: 0,
    };
    let end = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.connect(&qp, 1, &end);
    (cq, qp)
}

/// That the device serves others as before.
fn works(pair: &mut Pair) {
    let index = pair.qp_a.posted;
    pair.a.nop(&mut pair.qp_a);
    assert_eq!(pair.a.wait(&pair.cq_a, index), Ok(()));
}

#[test]
fn a_send_queue_that_is_gone_fails_its_work() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let page = page(&mut pair.a);
    let (mut cq, mut qp) = lone(&mut pair, |input| input.set_wq_umem_offset(page));
    pair.a.nop(&mut qp);
    assert_eq!(pair.a.next(&mut cq).opcode(), Ok(CqeOpcode::Req));
    pair.a.control_access(page, GONE);
    qp.posted += 1;
    pair.a.record(&qp);
    pair.a.write_doorbell(1);
    let cqe = pair.a.next(&mut cq);
    assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr));
    assert_eq!(
        (cqe.wqe_counter(), cqe.syndrome()),
        (1, Syndrome::LocalProtection)
    );
    pair.a.wait_state(&qp, QpState::Err);
    works(&mut pair);
    assert_eq!(pair.a.destroy(qp.object), 0);
    pair.a.control_access(page, BACK);
}

#[test]
fn a_doorbell_record_that_is_gone_ends_its_queue_pair() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let page = page(&mut pair.a);
    let (_, qp) = lone(&mut pair, |input| input.qpc.set_dbr_addr(page));
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(
        channel.subscribe(qp.object, &[EventType::WqCatastrophic], 3),
        0
    );
    pair.a.control_access(page, GONE);
    channel.stays_quiet();
    works(&mut pair);
    assert_eq!(
        channel.next(),
        (3, Eqe::queue_pair(EventType::WqCatastrophic, qp.number))
    );
    pair.a.wait_state(&qp, QpState::Err);
    // Once, however often it is rung.
    works(&mut pair);
    channel.stays_quiet();
    assert_eq!(pair.a.destroy(qp.object), 0);
    pair.a.control_access(page, BACK);
}

#[test]
fn a_completion_queue_that_is_gone_is_in_error() {
    for record in [false, true] {
        let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
        let page = page(&mut pair.a);
        let (mut input, ring) = pair.a.cq_command(4, false);
        input.cq_context.set_oi(false);
        if record {
            input.cq_context.set_dbr_addr(page);
        } else {
            input.set_cq_umem_offset(page);
        }
        let (object, out) = pair.a.create(input).unwrap();
        let cq = Cq {
            object,
            number: out.cqn(),
            doorbell: input.cq_context.dbr_addr(),
            ring,
            log: 4,
            consumed: 0,
        };
        let mut qp = pair.a.qp(&cq, 4);
        let end = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
        pair.a.connect(&qp, 1, &end);
        let channel = Channel::new(&pair.a, 0);
        assert_eq!(channel.subscribe(object, &[EventType::CqError], 5), 0);
        assert_eq!(
            channel.subscribe(qp.object, &[EventType::WqCatastrophic], 6),
            0
        );
        pair.a.control_access(page, GONE);
        pair.a.nop(&mut qp);
        assert_eq!(
            channel.next(),
            (5, Eqe::cq_error(cq.number, Eqe::CQ_ACCESS))
        );
        assert_eq!(
            channel.next(),
            (6, Eqe::queue_pair(EventType::WqCatastrophic, qp.number))
        );
        pair.a.wait_state(&qp, QpState::Err);
        // As a query shows a queue that could not be written.
        assert_eq!(pair.a.cq_context(&cq).status(), 10);
        works(&mut pair);
        assert_eq!(pair.a.destroy(qp.object), 0);
        assert_eq!(pair.a.destroy(cq.object), 0);
        pair.a.control_access(page, BACK);
    }
}

#[test]
fn a_ring_that_is_gone_is_not_left_for_another() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let page = page(&mut pair.a);
    let (mut input, _) = pair.a.cq_command(4, false);
    input.set_cq_umem_offset(page);
    let cq = pair.a.cq_by(input, page).unwrap();
    let (_, ring) = pair.a.cq_command(5, false);
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(channel.subscribe(cq.object, &[EventType::CqError], 5), 0);
    pair.a.control_access(page, GONE);
    let refused = Err(CmdStatus::BadResState);
    assert_eq!(resize(&pair.a, &cq, 5, ring), refused);
    let error = Eqe::cq_error(cq.number, Eqe::CQ_ACCESS);
    assert_eq!(channel.next(), (5, error));
    assert_eq!(pair.a.cq_context(&cq).log_cq_size(), 4);
    assert_eq!(resize(&pair.a, &cq, 5, ring), refused);
    channel.stays_quiet();
    works(&mut pair);
    pair.a.control_access(page, BACK);
}

#[test]
fn data_that_is_gone_here_is_a_local_error() {
    for reads in [false, true] {
        let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
        let local = DataPtr {
            addr: pair.a.address() + FAR as u64,
            lkey: pair.a.key(),
            len: 3000,
        };
        let remote = Remote {
            addr: pair.b.address(),
            rkey: pair.b.key(),
        };
        let post = pair.a.signalled(&pair.qp_a);
        let wqe = if reads {
            Wqe::rdma_read(post, remote, &[local]).unwrap()
        } else {
            Wqe::rdma_write(post, remote, &[local], None).unwrap()
        };
        pair.a.data_access(FAR, GONE);
        pair.a.post(&mut pair.qp_a, &wqe);
        let failed = Err((0, Syndrome::LocalProtection));
        assert_eq!(pair.a.wait(&pair.cq_a, 0), failed);
        pair.a.wait_state(&pair.qp_a, QpState::Err);
        pair.a.data_access(FAR, BACK);
    }
}

#[test]
fn data_that_is_gone_there_is_refused() {
    for kind in 0..3 {
        let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
        let local = DataPtr {
            addr: pair.a.address(),
            lkey: pair.a.key(),
            len: 8,
        };
        let remote = Remote {
            addr: pair.b.address() + FAR as u64,
            rkey: pair.b.key(),
        };
        let post = pair.a.signalled(&pair.qp_a);
        let wqe = match kind {
            0 => Wqe::rdma_write(post, remote, &[local], None),
            1 => Wqe::rdma_read(post, remote, &[local]),
            _ => Wqe::fetch_add(post, remote, local, 1),
        };
        let channel = Channel::new(&pair.b, 0);
        assert_eq!(
            channel.subscribe(pair.qp_b.object, &[EventType::AccessViolation], 9),
            0
        );
        pair.b.data_access(FAR, GONE);
        pair.a.post(&mut pair.qp_a, &wqe.unwrap());
        let refused = Err((0, Syndrome::RemoteAccess));
        assert_eq!(pair.a.wait(&pair.cq_a, 0), refused, "{kind}");
        let event = Eqe::queue_pair(EventType::AccessViolation, pair.qp_b.number);
        assert_eq!(channel.next(), (9, event));
        pair.b.wait_state(&pair.qp_b, QpState::Err);
        pair.b.data_access(FAR, BACK);
    }
}

#[test]
fn a_receive_queue_that_is_gone_ends_its_queue_pair() {
    /// Control memory that is taken before the queues of 4 entries each.
    const BEFORE: u64 = 320;
    for record in [false, true] {
        let [mut a, mut b] = [(); 2].map(|()| Client::new(Config::default()));
        let (cq_a, cq_b) = (a.cq(4, true), b.cq(4, false));
        let mut sender = a.qp(&cq_a, 4);
        let start = page(&mut b);
        b.used = start + 4096 - BEFORE;
        let qp = b.qp_with_receives(&cq_b, 2);
        assert_eq!(
            (qp.doorbell, qp.queue),
            (start + 4096 - 64, start + 4096 + 128)
        );
        b.next_page();
        a.connect(&sender, 1, &b.end(&qp, 2, Mtu::Bytes1024));
        b.connect(&qp, 2, &a.end(&sender, 1, Mtu::Bytes1024));
        let channel = Channel::new(&b, 0);
        assert_eq!(
            channel.subscribe(qp.object, &[EventType::WqCatastrophic], 8),
            0
        );
        b.post_receive(&qp, 0, &[]);
        let gone = if record { start } else { start + 4096 };
        b.control_access(gone, GONE);
        let wqe = Wqe::send_inline(a.signalled(&sender), &[1; 4], None).unwrap();
        a.post(&mut sender, &wqe);
        assert_eq!(a.wait(&cq_a, 0), Err((0, Syndrome::RemoteOperation)));
        let event = Eqe::queue_pair(EventType::WqCatastrophic, qp.number);
        assert_eq!(channel.next(), (8, event));
        b.wait_state(&qp, QpState::Err);
        assert_eq!(b.destroy(qp.object), 0);
        b.control_access(gone, BACK);
    }
}
