//! Requests of the software NIC, which the kernel answers.

use std::time::Duration;

use mlx5gda_sys::cqe::CqeOpcode;
use mlx5gda_sys::wqe::Wqe;

use crate::ADDITIONS;
use crate::agent::Completion;
use crate::link::{FROM, Link, TO, WORD};

/// `IBV_WC_RECV` and `IBV_WC_RECV_RDMA_WITH_IMM`.
const RECEIVED: u64 = 128;
const RECEIVED_WRITE: u64 = 129;

const IMMEDIATE: u32 = 0xa1b2_c3d4;

impl Link {
    pub(crate) fn write(&mut self, len: u32) {
        self.write_with(len, None);
    }

    pub(crate) fn write_immediate(&mut self, len: u32) {
        self.agent.ask("receive 0 0");
        self.write_with(len, Some(IMMEDIATE));
        let expected = Completion {
            opcode: RECEIVED_WRITE,
            len: u64::from(len),
            immediate: u64::from(IMMEDIATE),
        };
        assert_eq!(self.agent.poll(), expected);
    }

    fn write_with(&mut self, len: u32, immediate: Option<u32>) {
        let (seed, data) = self.next_pattern(len);
        self.soft.store(FROM, &data);
        let post = self.soft.signalled(&self.qp);
        let list = self.list(FROM, len);
        let wqe = Wqe::rdma_write(post, self.theirs(TO), &list, immediate).unwrap();
        self.run(&wqe);
        self.agent.ask(&format!("check {TO} {len} {seed}"));
    }

    pub(crate) fn read(&mut self, len: u32) {
        let (seed, data) = self.next_pattern(len);
        self.agent.ask(&format!("fill {FROM} {len} {seed}"));
        let post = self.soft.signalled(&self.qp);
        let list = self.list(TO, len);
        let wqe = Wqe::rdma_read(post, self.theirs(FROM), &list).unwrap();
        self.run(&wqe);
        assert_eq!(self.soft.load(TO, data.len()), data);
    }

    pub(crate) fn send(&mut self, len: u32) {
        self.agent.ask(&format!("receive {TO} 65537"));
        let seed = self.post_send(len, None);
        self.sent(len, None, seed);
    }

    pub(crate) fn send_immediate(&mut self, len: u32) {
        self.agent.ask(&format!("receive {TO} 65537"));
        let seed = self.post_send(len, Some(IMMEDIATE));
        self.sent(len, Some(IMMEDIATE), seed);
    }

    /// The kernel has no buffer at first, and says so.
    pub(crate) fn send_too_early(&mut self, len: u32) {
        let seed = self.post_send(len, None);
        std::thread::sleep(Duration::from_millis(50));
        self.agent.ask(&format!("receive {TO} 65537"));
        self.sent(len, None, seed);
    }

    fn post_send(&mut self, len: u32, immediate: Option<u32>) -> u8 {
        let (seed, data) = self.next_pattern(len);
        self.soft.store(FROM, &data);
        let post = self.soft.signalled(&self.qp);
        let wqe = Wqe::send(post, &self.list(FROM, len), immediate).unwrap();
        self.soft.post(&mut self.qp, &wqe);
        seed
    }

    fn sent(&mut self, len: u32, immediate: Option<u32>, seed: u8) {
        self.finish(CqeOpcode::Req);
        let expected = Completion {
            opcode: RECEIVED,
            len: u64::from(len),
            immediate: immediate.map_or(0, u64::from),
        };
        assert_eq!(self.agent.poll(), expected);
        self.agent.ask(&format!("check {TO} {len} {seed}"));
    }

    /// Each addition is done once: each finds what the last one left.
    pub(crate) fn add(&mut self, len: u32) {
        let start = 1 << 40;
        self.agent.ask(&format!("set {WORD} {start}"));
        for n in 0..ADDITIONS {
            let post = self.soft.signalled(&self.qp);
            let local = self.list(FROM, len)[0];
            let wqe = Wqe::fetch_add(post, self.theirs(WORD), local, 3).unwrap();
            self.run(&wqe);
            assert_eq!(self.soft.load(FROM, 8), (start + 3 * n).to_ne_bytes());
        }
        let word = self.agent.ask(&format!("get {WORD}"));
        assert_eq!(word, [start + 3 * ADDITIONS]);
    }

    /// One that finds what it expects, and one that does not.
    pub(crate) fn swap(&mut self, len: u32) {
        self.agent.ask(&format!("set {WORD} 5"));
        for (compare, swap, found, left) in [(5, 77, 5, 77), (5, 99, 77, 77)] {
            let post = self.soft.signalled(&self.qp);
            let local = self.list(FROM, len)[0];
            let wqe = Wqe::compare_swap(post, self.theirs(WORD), local, compare, swap).unwrap();
            self.run(&wqe);
            assert_eq!(self.soft.load(FROM, 8), u64::to_ne_bytes(found));
            assert_eq!(self.agent.ask(&format!("get {WORD}")), [left]);
        }
    }
}
