//! Completion queues: owner bits, overrun, solicited completions, changes.

use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::eqe::EventType;
use mlx5gda_sys::prm::{CmdStatus, ModifyCqIn, Mtu};
use mlx5gda_sys::wqe::{DataPtr, Post, Remote, Wqe};
use soft_hca::{Config, Reason};

use crate::channel::Channel;
use crate::client::{Client, Cq, Pair, Qp};

/// A queue pair whose completions go to a queue of `2^log` entries.
fn pair_on(log: u32, strict: bool) -> (Pair, Cq, Qp) {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let cq = if strict {
        pair.a.strict_cq(log)
    } else {
        pair.a.cq(log, false)
    };
    let qp = pair.a.qp(&cq, 6);
    let peer = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.connect(&qp, 1, &peer);
    (pair, cq, qp)
}

#[test]
fn a_ring_wraps_with_its_owner_bit() {
    let (pair, mut cq, mut qp) = pair_on(2, true);
    for round in 0..200u16 {
        // One to four at a time, so that every entry is the last of some.
        for _ in 0..=round % 4 {
            pair.a.nop(&mut qp);
        }
        for _ in 0..=round % 4 {
            let index = cq.consumed as u16;
            let cqe = pair.a.next(&mut cq);
            assert_eq!(
                (cqe.opcode(), cqe.wqe_counter()),
                (Ok(CqeOpcode::Req), index)
            );
        }
        pair.a.release(&cq);
    }
    let context = pair.a.cq_context(&cq);
    assert_eq!(context.producer_counter(), 500);
    assert_eq!(context.consumer_counter(), 500);
    assert_eq!(context.status(), 0);
}

#[test]
fn overrun_that_is_ignored_overwrites() {
    let (pair, mut cq, mut qp) = pair_on(2, false);
    for _ in 0..7 {
        pair.a.nop(&mut qp);
    }
    // The second pass: entries 4, 5 and 6.
    cq.consumed = 6;
    assert_eq!(pair.a.next(&mut cq).wqe_counter(), 6);
    let context = pair.a.cq_context(&cq);
    assert_eq!((context.producer_counter(), context.status()), (7, 0));
}

fn modify(client: &Client, cq: &Cq, change: impl FnOnce(&mut ModifyCqIn)) -> Result<(), CmdStatus> {
    let mut input = ModifyCqIn::new();
    input.set_cqn(cq.number).unwrap();
    change(&mut input);
    client.modify(cq.object, input)
}

/// Has completions go to the ring of `2^log` entries at `ring`.
pub(crate) fn resize(client: &Client, cq: &Cq, log: u32, ring: u64) -> Result<(), CmdStatus> {
    modify(client, cq, |input| {
        input.header.set_op_mod(1);
        input.set_modify_field_select(1);
        input.set_cq_umem_valid(true);
        input.set_cq_umem_id(client.umem_id());
        input.set_cq_umem_offset(ring);
        input.cq_context.set_log_cq_size(log).unwrap();
    })
}

#[test]
fn overrun_can_be_ignored_from_now_on() {
    let (pair, cq, mut qp) = pair_on(2, true);
    let ignore = |input: &mut ModifyCqIn| {
        input.set_modify_field_select(1 << 0 | 1 << 1 | 1 << 2);
        input.cq_context.set_oi(true);
        input.cq_context.set_cq_period(12).unwrap();
        input.cq_context.set_cq_max_count(34);
    };
    assert_eq!(modify(&pair.a, &cq, ignore), Ok(()));
    let context = pair.a.cq_context(&cq);
    assert!(context.oi());
    assert_eq!((context.cq_period(), context.cq_max_count()), (12, 34));
    let mut ahead = Cq { consumed: 6, ..cq };
    for _ in 0..7 {
        pair.a.nop(&mut qp);
    }
    assert_eq!(pair.a.next(&mut ahead).wqe_counter(), 6);
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let (pair, cq, _) = pair_on(2, true);
    let refused = |reason: Reason, change: fn(&mut ModifyCqIn)| {
        assert_eq!(
            modify(&pair.a, &cq, change),
            Err(reason.status()),
            "{reason}"
        );
    };
    refused(Reason::FieldSelect, |input| {
        input.set_modify_field_select(1 << 3);
    });
    refused(Reason::OpMod, |input| input.header.set_op_mod(2));
    refused(Reason::FieldSelect, |input| input.header.set_op_mod(1));
    refused(Reason::NoUmem, |input| {
        input.header.set_op_mod(1);
        input.set_modify_field_select(1);
    });
    refused(Reason::QueueDepth, |input| {
        input.header.set_op_mod(1);
        input.set_modify_field_select(1);
        input.cq_context.set_log_cq_size(31).unwrap();
    });
}

#[test]
fn completions_go_on_in_a_larger_ring() {
    let (mut pair, mut cq, mut qp) = pair_on(2, true);
    for _ in 0..3 {
        pair.a.nop(&mut qp);
    }
    assert_eq!(pair.a.next(&mut cq).wqe_counter(), 0);
    pair.a.release(&cq);
    let (_, ring) = pair.a.cq_command(4, false);
    // Two completions wait, and a ring of one entry has no room for them.
    let small = resize(&pair.a, &cq, 0, ring);
    assert_eq!(small, Err(CmdStatus::BadSize));
    assert_eq!(resize(&pair.a, &cq, 4, ring), Ok(()));
    pair.a.nop(&mut qp);
    for index in 1..3 {
        assert_eq!(pair.a.next(&mut cq).wqe_counter(), index);
    }
    assert_eq!(pair.a.next(&mut cq).opcode(), Ok(CqeOpcode::Resize));
    let mut cq = Cq { ring, log: 4, ..cq };
    for index in 3..40 {
        assert_eq!(pair.a.next(&mut cq).wqe_counter(), index);
        pair.a.release(&cq);
        pair.a.nop(&mut qp);
    }
    assert_eq!(pair.a.cq_context(&cq).log_cq_size(), 4);
}

/// Whoever has overrun ignored need not say what it has taken.
#[test]
fn a_queue_that_ignores_overrun_is_resized_whatever_its_record_says() {
    let (mut pair, cq, mut qp) = pair_on(2, true);
    let ignore = |input: &mut ModifyCqIn| {
        input.set_modify_field_select(1 << 2);
        input.cq_context.set_oi(true);
    };
    assert_eq!(modify(&pair.a, &cq, ignore), Ok(()));
    let mut last = Cq { consumed: 6, ..cq };
    for _ in 0..7 {
        pair.a.nop(&mut qp);
    }
    assert_eq!(pair.a.next(&mut last).wqe_counter(), 6);
    let (_, ring) = pair.a.cq_command(4, false);
    assert_eq!(resize(&pair.a, &cq, 4, ring), Ok(()));
    assert_eq!(pair.a.next(&mut last).opcode(), Ok(CqeOpcode::Resize));
    pair.a.nop(&mut qp);
    let mut last = Cq {
        ring,
        log: 4,
        ..last
    };
    assert_eq!(pair.a.next(&mut last).wqe_counter(), 7);
}

#[test]
fn an_armed_queue_stays_armed_in_a_larger_ring() {
    const ARMED: u32 = 9;
    let (mut pair, cq, mut qp) = pair_on(2, true);
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(channel.subscribe(cq.object, &[EventType::Completion], 1), 0);
    let (_, ring) = pair.a.cq_command(4, false);
    pair.a.arm(&cq, 0, false);
    let until = Instant::now() + Duration::from_secs(10);
    while pair.a.cq_context(&cq).st() != ARMED {
        assert!(Instant::now() < until);
    }
    assert_eq!(resize(&pair.a, &cq, 4, ring), Ok(()));
    assert_eq!(pair.a.cq_context(&cq).st(), ARMED);
    channel.stays_quiet();
    pair.a.nop(&mut qp);
    assert_eq!(channel.next().1.number(), Some(cq.number));
    channel.stays_quiet();
}

#[test]
fn a_queue_armed_for_solicited_messages_ignores_others() {
    let mut a = Client::new(Config::default());
    let mut b = Client::new(Config::default());
    let cq_a = a.cq(4, false);
    let mut cq_b = b.strict_cq(4);
    let mut qp_a = a.qp(&cq_a, 4);
    let qp_b = b.qp_with_receives(&cq_b, 4);
    a.connect(&qp_a, 1, &b.end(&qp_b, 2, Mtu::Bytes1024));
    b.connect(&qp_b, 2, &a.end(&qp_a, 1, Mtu::Bytes1024));
    let channel = Channel::new(&b, 0);
    assert_eq!(
        channel.subscribe(cq_b.object, &[EventType::Completion], 1),
        0
    );
    let buffer = DataPtr {
        addr: b.address(),
        lkey: b.key(),
        len: 4096,
    };
    for index in 0..4 {
        b.post_receive(&qp_b, index, &[buffer]);
    }
    b.arm(&cq_b, 0, true);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(b.cq_context(&cq_b).st(), 6);
    let post = |qp: &Qp, solicited| Post {
        solicited,
        ..a.signalled(qp)
    };
    let plain = Wqe::send_inline(post(&qp_a, false), &[1], None).unwrap();
    a.post(&mut qp_a, &plain);
    assert_eq!(b.next(&mut cq_b).wqe_counter(), 0);
    channel.stays_quiet();
    let urgent = Wqe::send_inline(post(&qp_a, true), &[2], None).unwrap();
    a.post(&mut qp_a, &urgent);
    assert_eq!(channel.next().0, 1);
    assert_eq!(b.next(&mut cq_b).wqe_counter(), 1);
    let remote = Remote {
        addr: b.address(),
        rkey: b.key(),
    };
    b.arm(&cq_b, 1, true);
    let urgent = Wqe::rdma_write_inline(post(&qp_a, true), remote, &[3], Some(7)).unwrap();
    a.post(&mut qp_a, &urgent);
    assert_eq!(channel.next().0, 1);
    assert_eq!(b.next(&mut cq_b).wqe_counter(), 2);
    // So are errors.
    b.arm(&cq_b, 2, true);
    b.error(&qp_b);
    assert_eq!(channel.next().0, 1);
    assert_eq!(b.next(&mut cq_b).syndrome(), Syndrome::WrFlush);
}
