//! Requests of the kernel, which the software NIC answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mlx5gda_sys::cqe::CqeOpcode;

use crate::ADDITIONS;
use crate::link::{FROM, Link, TO, WORD};

/// `IBV_WC_SEND`, `_RDMA_WRITE`, `_RDMA_READ`, `_COMP_SWAP` and `_FETCH_ADD`.
const SENT: u64 = 0;
const WRITTEN: u64 = 1;
const READ: u64 = 2;
const SWAPPED: u64 = 3;
const ADDED: u64 = 4;

const IMMEDIATE: u32 = 0x1a2b_3c4d;
/// Bytes of the longest message.
const LONGEST: u32 = 65_537;

impl Link {
    pub(crate) fn kernel_write(&mut self, len: u32) {
        self.kernel_moves("write", len, 0, WRITTEN);
    }

    pub(crate) fn kernel_write_immediate(&mut self, len: u32) {
        self.receive(0);
        self.kernel_moves("write-imm", len, IMMEDIATE, WRITTEN);
        let cqe = self.finish(CqeOpcode::RespWriteImm);
        assert_eq!((cqe.imm(), cqe.byte_cnt()), (IMMEDIATE, len));
    }

    pub(crate) fn kernel_send(&mut self, len: u32) {
        self.receive(LONGEST);
        self.kernel_moves("send", len, 0, SENT);
        let cqe = self.finish(CqeOpcode::RespSend);
        assert_eq!(cqe.byte_cnt(), len);
    }

    pub(crate) fn kernel_send_immediate(&mut self, len: u32) {
        self.receive(LONGEST);
        self.kernel_moves("send-imm", len, IMMEDIATE, SENT);
        let cqe = self.finish(CqeOpcode::RespSendImm);
        assert_eq!((cqe.imm(), cqe.byte_cnt()), (IMMEDIATE, len));
    }

    /// Nothing is posted to receive into at first, and the kernel is told so.
    pub(crate) fn kernel_send_too_early(&mut self, len: u32) {
        let (seed, data) = self.next_pattern(len);
        self.agent.ask(&format!("fill {FROM} {len} {seed}"));
        self.guest_posts("send", FROM, len, TO, (0, 0));
        std::thread::sleep(Duration::from_millis(50));
        self.receive(LONGEST);
        assert_eq!(self.agent.poll().opcode, SENT);
        assert_eq!(self.finish(CqeOpcode::RespSend).byte_cnt(), len);
        assert_eq!(self.soft.load(TO, data.len()), data);
    }

    /// Data of the kernel's lands here.
    fn kernel_moves(&mut self, operation: &str, len: u32, immediate: u32, done: u64) {
        let (seed, data) = self.next_pattern(len);
        self.agent.ask(&format!("fill {FROM} {len} {seed}"));
        self.guest_posts(operation, FROM, len, TO, (immediate.into(), 0));
        assert_eq!(self.agent.poll().opcode, done);
        assert_eq!(self.soft.load(TO, data.len()), data);
    }

    pub(crate) fn kernel_read(&mut self, len: u32) {
        let (seed, data) = self.next_pattern(len);
        self.soft.store(FROM, &data);
        self.guest_posts("read", TO, len, FROM, (0, 0));
        assert_eq!(self.agent.poll().opcode, READ);
        self.agent.ask(&format!("check {TO} {len} {seed}"));
    }

    /// Each addition is done once: each finds what the last one left.
    pub(crate) fn kernel_add(&mut self, len: u32) {
        let start = 1 << 40;
        self.soft.word(WORD).store(start, Ordering::Release);
        for n in 0..ADDITIONS {
            self.guest_posts("add", FROM, len, WORD, (3, 0));
            assert_eq!(self.agent.poll().opcode, ADDED);
            assert_eq!(self.agent.ask(&format!("get {FROM}")), [start + 3 * n]);
        }
        let word = self.soft.word(WORD).load(Ordering::Acquire);
        assert_eq!(word, start + 3 * ADDITIONS);
    }

    /// One that finds what it expects, and one that does not.
    pub(crate) fn kernel_swap(&mut self, len: u32) {
        self.soft.word(WORD).store(5, Ordering::Release);
        for (compare, swap, found, left) in [(5, 77, 5, 77), (5, 99, 77, 77)] {
            self.guest_posts("swap", FROM, len, WORD, (compare, swap));
            assert_eq!(self.agent.poll().opcode, SWAPPED);
            assert_eq!(self.agent.ask(&format!("get {FROM}")), [found]);
            assert_eq!(self.soft.word(WORD).load(Ordering::Acquire), left);
        }
    }
}
