//! The responder half of a reliable connection: executes the peer's requests
//! in order, exactly once, and answers.

use std::collections::VecDeque;

use mlx5gda_sys::wqe::AtomicOp;

use super::answer::{Answers, Reply};
use super::target::{Access, Fault, MessageEnd, Target};
use crate::psn::{Psn, Seq};
use crate::wire::{AckCode, Headers, NakCode, Opcode, Packet, Position, Reth};

/// Results of atomics that are kept for requests that come again.
const ATOMIC_HISTORY: usize = 128;

/// Bytes of the longest message, 2^31 (chapter 9.2.8 of the specification).
const MAX_MESSAGE: u32 = 1 << 31;

/// What a connection is set up with (fields of `qpc`).
#[derive(Copy, Clone, Debug)]
pub struct ResponderConfig {
    /// Queue pair number at the peer.
    pub dest_qpn: u32,
    /// Path MTU in bytes.
    pub mtu: u32,
    /// First PSN expected.
    pub start_psn: Psn,
    /// Encoded RNR delay to ask for.
    pub min_rnr_nak: u8,
    /// READs and atomics that the peer may have in flight.
    pub max_reads: u32,
}

/// A message of which more packets are to come.
#[derive(Copy, Clone, Debug)]
enum Message {
    Write {
        rkey: u32,
        addr: u64,
        left: u32,
        len: u32,
    },
    Send {
        received: u32,
    },
}

/// What the peer has been told of a packet that has not been executed.
#[derive(Copy, Clone, Debug)]
enum Gap {
    /// Nothing.
    None,
    /// One is missing; the furthest packet seen since.
    Reported(Seq),
    /// It shall come again later; what was sent behind it is not looked at.
    NotReady,
}

/// The responder state of one queue pair.
#[derive(Debug)]
pub struct Responder {
    config: ResponderConfig,
    expected: Seq,
    msn: u32,
    message: Option<Message>,
    answers: Answers,
    atomics: VecDeque<(Seq, u64)>,
    gap: Gap,
    failed: Option<Fault>,
    duplicates: u64,
    out_of_order: u64,
}

impl Responder {
    /// A responder that expects the configured PSN.
    pub fn new(config: ResponderConfig) -> Self {
        Self {
            config,
            expected: Seq::start(config.start_psn),
            msn: 0,
            message: None,
            answers: Answers::default(),
            atomics: VecDeque::new(),
            gap: Gap::None,
            failed: None,
            duplicates: 0,
            out_of_order: 0,
        }
    }

    /// Asks for another RNR delay from now on.
    pub const fn set_min_rnr_nak(&mut self, encoded: u8) {
        self.config.min_rnr_nak = encoded;
    }

    /// Whether a request was refused for good: the queue pair is in error.
    pub const fn failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Why a request was refused for good.
    pub const fn fault(&self) -> Option<Fault> {
        self.failed
    }

    /// PSN of the next request expected.
    pub const fn expected(&self) -> Psn {
        self.expected.psn()
    }

    /// Requests seen before, and requests that came too early, so far.
    pub const fn counts(&self) -> (u64, u64) {
        (self.duplicates, self.out_of_order)
    }

    /// Whether [`Responder::poll_tx`] has something.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Takes a request from the peer.
    pub fn on_packet(&mut self, packet: &Packet<'_>, target: &mut dyn Target) {
        if self.failed() || !packet.headers.bth.opcode.is_request() {
            return;
        }
        let seq = packet.headers.bth.psn.nearest(self.expected);
        if seq < self.expected {
            self.duplicates += 1;
            self.repeat(seq, packet, target);
        } else if seq > self.expected {
            self.out_of_order += 1;
            self.report_gap(seq);
        } else {
            self.gap = Gap::None;
            if let Err(fault) = self.execute(packet, target) {
                self.refuse(fault);
            }
        }
    }

    /// Reports a missing packet once, and again when the peer goes back and it
    /// is still missing.
    fn report_gap(&mut self, seq: Seq) {
        let again = match self.gap {
            Gap::None => true,
            Gap::Reported(furthest) => seq <= furthest,
            Gap::NotReady => return,
        };
        // Not said, so not noted: the next early packet finds it again.
        if again && self.answers.is_full() {
            return;
        }
        self.gap = Gap::Reported(seq);
        if again {
            self.acknowledge(self.expected.psn(), AckCode::Nak(NakCode::SequenceError));
        }
    }

    fn refuse(&mut self, fault: Fault) {
        let code = fault.code(self.config.min_rnr_nak);
        self.acknowledge(self.expected.psn(), code);
        if fault == Fault::NotReady {
            self.gap = Gap::NotReady;
        } else {
            self.failed = Some(fault);
        }
    }

    fn acknowledge(&mut self, psn: Psn, code: AckCode) {
        self.answers.acknowledge(psn, code, self.msn);
    }

    fn execute(&mut self, packet: &Packet<'_>, target: &mut dyn Target) -> Result<(), Fault> {
        let headers = &packet.headers;
        let opcode = headers.bth.opcode;
        let position = opcode.position();
        if position.is_start() != self.message.is_none() {
            return Err(Fault::Unsupported);
        }
        if self.answers.is_full() {
            return Ok(());
        }
        if opcode.is_send() {
            self.send(packet, target)
        } else if opcode.is_write() {
            self.write(packet, target)
        } else if let (Opcode::ReadRequest, Some(reth)) = (opcode, headers.reth) {
            self.read(&reth, target)
        } else if let Some((addr, rkey, op)) = atomic_of(headers) {
            self.atomic(addr, rkey, op, target)
        } else {
            Err(Fault::Unsupported)
        }
    }

    /// Whether a payload of `len` bytes may stand at `position` of a message.
    fn fits(&self, position: Position, len: usize) -> bool {
        let mtu = self.config.mtu as usize;
        match position {
            Position::First | Position::Middle => len == mtu,
            Position::Last => (1..=mtu).contains(&len),
            Position::Only => len <= mtu,
        }
    }

    fn write(&mut self, packet: &Packet<'_>, target: &mut dyn Target) -> Result<(), Fault> {
        let opcode = packet.headers.bth.opcode;
        let position = opcode.position();
        let data = packet.payload;
        let bytes = data.len() as u32;
        let (rkey, addr, left, len) = match (self.message, packet.headers.reth) {
            (None, Some(Reth { addr, rkey, len })) => {
                if len > MAX_MESSAGE {
                    return Err(Fault::Unsupported);
                }
                target.check(rkey, addr, len, Access::Write)?;
                (rkey, addr, len, len)
            }
            (
                Some(Message::Write {
                    rkey,
                    addr,
                    left,
                    len,
                }),
                None,
            ) => (rkey, addr, left, len),
            _ => return Err(Fault::Unsupported),
        };
        let rest = left.checked_sub(bytes).ok_or(Fault::Unsupported)?;
        if !self.fits(position, data.len()) || (rest == 0) != position.is_end() {
            return Err(Fault::Unsupported);
        }
        if opcode.has_immediate() {
            target.receive_begin()?;
        }
        if bytes > 0 {
            target.write(rkey, addr, data)?;
        }
        self.message = (!position.is_end()).then_some(Message::Write {
            rkey,
            addr: addr.wrapping_add(u64::from(bytes)),
            left: rest,
            len,
        });
        if opcode.has_immediate() {
            target.receive_end(end_of(packet, len));
        }
        self.accept(packet);
        Ok(())
    }

    fn send(&mut self, packet: &Packet<'_>, target: &mut dyn Target) -> Result<(), Fault> {
        let position = packet.headers.bth.opcode.position();
        let received = match self.message {
            None => {
                target.receive_begin()?;
                0
            }
            Some(Message::Send { received }) => received,
            Some(Message::Write { .. }) => return Err(Fault::Unsupported),
        };
        if !self.fits(position, packet.payload.len()) {
            return Err(Fault::Unsupported);
        }
        target.receive_data(received, packet.payload)?;
        let received = received
            .checked_add(packet.payload.len() as u32)
            .ok_or(Fault::Unsupported)?;
        self.message = (!position.is_end()).then_some(Message::Send { received });
        if position.is_end() {
            target.receive_end(end_of(packet, received));
        }
        self.accept(packet);
        Ok(())
    }

    /// A packet of a WRITE or SEND is done: counts and acknowledges it.
    fn accept(&mut self, packet: &Packet<'_>) {
        let psn = self.expected.psn();
        let is_end = packet.headers.bth.opcode.position().is_end();
        self.expected = self.expected.plus(1);
        if is_end {
            self.msn = (self.msn + 1) & 0x00ff_ffff;
        }
        if packet.headers.bth.ack_request || is_end {
            self.acknowledge(psn, AckCode::Ack);
        }
    }

    /// Whether one more READ or atomic may be in flight (more
    /// than agreed upon is an invalid request, chapter 9.7.5 of the specification).
    fn admit(&self) -> Result<(), Fault> {
        if self.answers.outstanding() >= self.config.max_reads as usize {
            return Err(Fault::Unsupported);
        }
        Ok(())
    }

    fn read(&mut self, reth: &Reth, target: &mut dyn Target) -> Result<(), Fault> {
        self.admit()?;
        if reth.len > MAX_MESSAGE {
            return Err(Fault::Unsupported);
        }
        target.check(reth.rkey, reth.addr, reth.len, Access::Read)?;
        self.msn = (self.msn + 1) & 0x00ff_ffff;
        let first = self.expected;
        self.expected = first.plus(super::queue::packets(reth.len, self.config.mtu));
        self.answers.read(first, reth, self.msn, false);
        Ok(())
    }

    fn atomic(
        &mut self,
        addr: u64,
        rkey: u32,
        op: AtomicOp,
        target: &mut dyn Target,
    ) -> Result<(), Fault> {
        if !addr.is_multiple_of(u64::from(op.bytes())) {
            return Err(Fault::Unsupported);
        }
        self.admit()?;
        target.check(rkey, addr, op.bytes(), Access::Atomic)?;
        let original = target.atomic(rkey, addr, op)?;
        self.msn = (self.msn + 1) & 0x00ff_ffff;
        let seq = self.expected;
        self.expected = seq.plus(1);
        if self.atomics.len() == ATOMIC_HISTORY {
            self.atomics.pop_front();
        }
        self.atomics.push_back((seq, original));
        self.answers.atomic(seq, original, self.msn, false);
        Ok(())
    }

    /// Answers a request that was executed before, without executing it again:
    /// WRITE and SEND are acknowledged, READ is read again, an atomic's result
    /// is remembered.
    fn repeat(&mut self, seq: Seq, packet: &Packet<'_>, target: &mut dyn Target) {
        if self.answers.is_full() {
            return;
        }
        let opcode = packet.headers.bth.opcode;
        if let (Opcode::ReadRequest, Some(reth)) = (opcode, packet.headers.reth) {
            let end = seq.plus(super::queue::packets(reth.len, self.config.mtu));
            let allowed = target.check(reth.rkey, reth.addr, reth.len, Access::Read);
            if end <= self.expected && allowed.is_ok() {
                self.answers.read(seq, &reth, self.msn, true);
            }
        } else if opcode.is_atomic() {
            let known = self.atomics.iter().find(|(at, _)| *at == seq).copied();
            if let Some((seq, original)) = known {
                self.answers.atomic(seq, original, self.msn, true);
            }
        } else if packet.headers.bth.ack_request || opcode.position().is_end() {
            let last = self.expected.plus(0x00ff_ffff).psn();
            self.acknowledge(last, AckCode::Ack);
        }
    }

    /// The next answer to send, if any.
    pub fn poll_tx(&mut self) -> Option<Reply> {
        self.answers.next(self.config.dest_qpn, self.config.mtu)
    }

    /// Answers nothing any more. That a request was refused is still said.
    pub fn fall_silent(&mut self) {
        self.answers.keep_refusal();
    }

    /// The memory of the READ response polled last is gone: the request is
    /// refused and the queue pair is in error.
    pub fn fail_polled(&mut self, reply: &Reply) {
        self.answers.clear();
        let code = Fault::Access.code(self.config.min_rnr_nak);
        self.acknowledge(reply.headers.bth.psn, code);
        self.failed = Some(Fault::Access);
    }
}

/// Address, remote key and operation of an atomic request.
fn atomic_of(headers: &Headers) -> Option<(u64, u32, AtomicOp)> {
    if let Some(masked) = headers.masked {
        return Some((masked.addr, masked.rkey, masked.op));
    }
    let eth = headers.atomic?;
    let op = if headers.bth.opcode == Opcode::FetchAdd {
        AtomicOp::FetchAdd {
            add: eth.swap_or_add,
        }
    } else {
        AtomicOp::CompareSwap {
            compare: eth.compare,
            swap: eth.swap_or_add,
        }
    };
    Some((eth.addr, eth.rkey, op))
}

/// What the last packet says of a message of `len` bytes.
fn end_of(packet: &Packet<'_>, len: u32) -> MessageEnd {
    let bth = &packet.headers.bth;
    MessageEnd {
        len,
        immediate: packet.headers.immediate,
        is_write: bth.opcode.is_write(),
        solicited: bth.solicited,
    }
}
