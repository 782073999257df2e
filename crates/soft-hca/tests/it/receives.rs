//! Receive queues: SEND, WRITE with immediate, what happens without a buffer
//! and with one that is too short.

use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::eqe::EventType;
use mlx5gda_sys::prm::{Init2RtrQpIn, Mtu, Rts2RtsQpIn, opt_param};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::Config;

use crate::channel::Channel;
use crate::client::{Client, Cq, Qp, USER_INDEX};

/// A sender and a receiver with a receive queue.
struct Mail {
    a: Client,
    b: Client,
    cq_a: Cq,
    cq_b: Cq,
    qp_a: Qp,
    qp_b: Qp,
}

impl Mail {
    fn new() -> Self {
        let mut a = Client::new(Config::default());
        let mut b = Client::new(Config::default());
        let cq_a = a.cq(4, false);
        let cq_b = b.cq(4, false);
        let qp_a = a.qp(&cq_a, 4);
        let qp_b = b.qp_with_receives(&cq_b, 4);
        a.connect(&qp_a, 1, &b.end(&qp_b, 2, Mtu::Bytes1024));
        b.connect(&qp_b, 2, &a.end(&qp_a, 1, Mtu::Bytes1024));
        Self {
            a,
            b,
            cq_a,
            cq_b,
            qp_a,
            qp_b,
        }
    }

    fn buffer(&self, offset: u64, len: u32) -> DataPtr {
        DataPtr {
            addr: self.b.address() + offset,
            lkey: self.b.key(),
            len,
        }
    }

    fn send(&mut self, data: &[u8], imm: Option<u32>) {
        self.a.store(0, data);
        let local = DataPtr {
            addr: self.a.address(),
            lkey: self.a.key(),
            len: data.len() as u32,
        };
        let wqe = Wqe::send(self.a.signalled(&self.qp_a), &[local], imm).unwrap();
        self.a.post(&mut self.qp_a, &wqe);
    }
}

#[test]
fn messages_land_in_their_buffers_in_order() {
    let mut mail = Mail::new();
    for index in 0..40u16 {
        let len = 1 + usize::from(index) * 97;
        let at = 8192;
        // Two buffers; the second takes what the first has no room for.
        let buffers = [mail.buffer(at, 100), mail.buffer(at + 4096, 8000)];
        mail.b.post_receive(&mail.qp_b, index, &buffers);
        let data: Vec<u8> = (0..len).map(|i| (i as u16 ^ index) as u8).collect();
        let imm = (index % 2 == 1).then_some(0xabcd_0000 | u32::from(index));
        mail.send(&data, imm);
        let cqe = mail.b.next(&mut mail.cq_b);
        let opcode = if imm.is_some() {
            CqeOpcode::RespSendImm
        } else {
            CqeOpcode::RespSend
        };
        assert_eq!(cqe.opcode(), Ok(opcode));
        assert_eq!((cqe.wqe_counter(), cqe.byte_cnt()), (index, len as u32));
        assert_eq!(cqe.imm(), imm.unwrap_or(0));
        let first = len.min(100);
        assert_eq!(mail.b.load(8192, first), data[..first]);
        assert_eq!(mail.b.load(8192 + 4096, len - first), data[first..]);
        assert_eq!(mail.a.next(&mut mail.cq_a).wqe_counter(), index);
    }
}

#[test]
fn a_write_with_immediate_reports_after_its_data() {
    let mut mail = Mail::new();
    mail.b.post_receive(&mail.qp_b, 0, &[]);
    mail.a.store(0, &[7; 3000]);
    let local = DataPtr {
        addr: mail.a.address(),
        lkey: mail.a.key(),
        len: 3000,
    };
    let remote = Remote {
        addr: mail.b.address() + 5,
        rkey: mail.b.key(),
    };
    let post = mail.a.signalled(&mail.qp_a);
    let wqe = Wqe::rdma_write(post, remote, &[local], Some(99)).unwrap();
    mail.a.post(&mut mail.qp_a, &wqe);
    let cqe = mail.b.next(&mut mail.cq_b);
    assert_eq!(cqe.opcode(), Ok(CqeOpcode::RespWriteImm));
    assert_eq!((cqe.imm(), cqe.byte_cnt()), (99, 3000));
    assert_eq!(mail.b.load(5, 3000), [7; 3000]);
}

#[test]
fn a_sender_waits_for_a_buffer() {
    let mut mail = Mail::new();
    mail.send(&[5; 2500], None);
    std::thread::sleep(Duration::from_millis(20));
    let buffer = mail.buffer(0, 4096);
    mail.b.post_receive(&mail.qp_b, 0, &[buffer]);
    let cqe = mail.b.next(&mut mail.cq_b);
    assert_eq!(cqe.byte_cnt(), 2500);
    assert_eq!(mail.b.load(0, 2500), [5; 2500]);
    assert_eq!(mail.a.next(&mut mail.cq_a).opcode(), Ok(CqeOpcode::Req));
}

#[test]
fn a_connected_receiver_asks_for_another_delay() {
    let mut mail = Mail::new();
    let end = mail.a.end(&mail.qp_a, 1, Mtu::Bytes1024);
    mail.b.reset(&mut mail.qp_b);
    mail.b.rst2init(&mail.qp_b).unwrap();
    let mut input = Init2RtrQpIn::new();
    mail.b.fill_rtr(&mut input, &mail.qp_b, &end);
    // 0.01 ms.
    input.qpc.set_min_rnr_nak(1).unwrap();
    mail.b.modify(mail.qp_b.object, input).unwrap();
    mail.b.rtr2rts(&mail.qp_b, 2, 7).unwrap();
    let mut change = Rts2RtsQpIn::new();
    change.set_qpn(mail.qp_b.number).unwrap();
    change.set_opt_param_mask(opt_param::RNR_TIMEOUT);
    // 491.52 ms.
    change.qpc.set_min_rnr_nak(31).unwrap();
    mail.b.modify(mail.qp_b.object, change).unwrap();
    let started = Instant::now();
    mail.send(&[5; 8], None);
    let until = started + Duration::from_secs(10);
    while soft_hca::stats(&mail.b.name).unwrap().packets_out == 0 {
        assert!(Instant::now() < until, "no answer");
    }
    let buffer = mail.buffer(0, 8);
    mail.b.post_receive(&mail.qp_b, 0, &[buffer]);
    assert_eq!(mail.b.next(&mut mail.cq_b).byte_cnt(), 8);
    assert!(started.elapsed() >= Duration::from_millis(491));
}

#[test]
fn a_buffer_of_length_0_takes_the_longest_message() {
    let mut mail = Mail::new();
    let buffer = mail.buffer(64, 0);
    mail.b.post_receive(&mail.qp_b, 0, &[buffer]);
    mail.send(&[9; 100], None);
    let cqe = mail.b.next(&mut mail.cq_b);
    assert_eq!(cqe.opcode(), Ok(CqeOpcode::RespSend));
    assert_eq!(mail.b.load(64, 100), [9; 100]);
}

#[test]
fn a_message_too_long_fails_both_ends_and_flushes_the_buffers() {
    let mut mail = Mail::new();
    for index in 0..2 {
        let buffer = mail.buffer(0, 1500);
        mail.b.post_receive(&mail.qp_b, index, &[buffer]);
    }
    mail.send(&[5; 1501], None);
    for (index, syndrome) in [(0, Syndrome::LocalLength), (1, Syndrome::WrFlush)] {
        let cqe = mail.b.next(&mut mail.cq_b);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::RespErr));
        assert_eq!((cqe.wqe_counter(), cqe.syndrome()), (index, syndrome));
        assert_eq!(cqe.srqn_uidx.get(), USER_INDEX);
    }
    let cqe = mail.a.next(&mut mail.cq_a);
    assert_eq!(cqe.syndrome(), Syndrome::RemoteInvalidRequest);
}

#[test]
fn buffers_posted_to_a_queue_pair_in_error_come_back() {
    let mut mail = Mail::new();
    mail.b.error(&mail.qp_b);
    // No register is written for a receive, so there is nothing but the record.
    for index in 0..20 {
        mail.b.post_receive(&mail.qp_b, index, &[]);
        let cqe = mail.b.next(&mut mail.cq_b);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::RespErr));
        let flushed = (index, Syndrome::WrFlush);
        assert_eq!((cqe.wqe_counter(), cqe.syndrome()), flushed);
    }
}

#[test]
fn a_queue_pair_without_receive_queue_refuses_messages() {
    let mut mail = Mail::new();
    let wqe = Wqe::send_inline(mail.b.signalled(&mail.qp_b), &[1; 4], None).unwrap();
    mail.b.post(&mut mail.qp_b, &wqe);
    let cqe = mail.b.next(&mut mail.cq_b);
    assert_eq!(cqe.syndrome(), Syndrome::RemoteInvalidRequest);
}

#[test]
fn a_record_that_counts_more_than_the_queue_holds_flushes_nothing() {
    let mut mail = Mail::new();
    for index in 0..3 {
        mail.b.post_receive(&mail.qp_b, index, &[]);
    }
    mail.b.error(&mail.qp_b);
    for _ in 0..3 {
        mail.b.next(&mut mail.cq_b);
    }
    // The record is cleared before the queue pair is reset: 65,533 entries
    // ahead of the queue. Then it is one entry too far ahead, then full.
    for (posted, flushed) in [(0, 3), (20, 3), (19, 19)] {
        mail.b
            .post_receive(&mail.qp_b, u16::wrapping_sub(posted, 1), &[]);
        std::thread::sleep(Duration::from_millis(20));
        let context = mail.b.cq_context(&mail.cq_b);
        assert_eq!(context.producer_counter(), flushed, "{posted} posted");
    }
}

#[test]
fn a_message_to_a_queue_that_was_run_over_fails_both_ends() {
    let mut mail = Mail::new();
    let channel = Channel::new(&mail.b, 0);
    let fatal = [EventType::WqCatastrophic];
    assert_eq!(channel.subscribe(mail.qp_b.object, &fatal, 3), 0);
    mail.b.post_receive(&mail.qp_b, 16, &[]);
    mail.send(&[5; 8], None);
    let cqe = mail.a.next(&mut mail.cq_a);
    assert_eq!(cqe.syndrome(), Syndrome::RemoteOperation);
    assert_eq!(channel.next().0, 3);
}
