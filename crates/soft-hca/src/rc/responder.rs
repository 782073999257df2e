//! The responder half of a reliable connection: executes the peer's requests
//! in order, exactly once, and answers.

use std::collections::VecDeque;

use crate::psn::{Psn, Seq};
use crate::wire::{
    AckCode, Aeth, AtomicEth, Bth, Headers, NakCode, Opcode, Packet, Position, Reth,
};

/// Answers that may wait to be sent; requests that need a further one are
/// dropped and come again.
const MAX_ANSWERS: usize = 64;
/// Results of atomics that are kept for requests that come again.
const ATOMIC_HISTORY: usize = 128;

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
}

/// The right that a request needs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// Atomic operations.
    Atomic,
}

/// Why a request cannot be executed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Key, range, protection domain or access right.
    Access,
    /// The queue pair does not do this.
    Unsupported,
    /// No receive buffer at the moment.
    NotReady,
    /// The receive buffer is too short.
    Length,
    /// The receive buffer is not accessible.
    Operation,
}

impl Fault {
    const fn code(self, min_rnr_nak: u8) -> AckCode {
        match self {
            Self::Access => AckCode::Nak(NakCode::RemoteAccess),
            Self::Unsupported | Self::Length => AckCode::Nak(NakCode::InvalidRequest),
            Self::NotReady => AckCode::RnrNak { timer: min_rnr_nak },
            Self::Operation => AckCode::Nak(NakCode::RemoteOperational),
        }
    }
}

/// An operation on 8 bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Adds.
    FetchAdd {
        /// Addend.
        add: u64,
    },
    /// Stores `swap` where `compare` is found.
    CompareSwap {
        /// Value to compare with.
        compare: u64,
        /// Value to store.
        swap: u64,
    },
}

/// The memory and receive queue behind a responder.
pub trait Target {
    /// Whether `len` bytes at `addr` may be accessed so.
    ///
    /// # Errors
    /// The reason why not.
    fn check(&mut self, rkey: u32, addr: u64, len: u32, access: Access) -> Result<(), Fault>;

    /// Writes `data` at `addr`.
    ///
    /// # Errors
    /// The reason why not; then nothing was written.
    fn write(&mut self, rkey: u32, addr: u64, data: &[u8]) -> Result<(), Fault>;

    /// Executes an atomic at `addr` and returns the value found.
    ///
    /// # Errors
    /// The reason why not; then nothing was changed.
    fn atomic(&mut self, rkey: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault>;

    /// Takes a receive buffer for the message that starts.
    ///
    /// # Errors
    /// [`Fault::NotReady`] when there is none, [`Fault::Unsupported`] when
    /// there is no receive queue.
    fn receive_begin(&mut self) -> Result<(), Fault>;

    /// Stores `data` at `offset` of the receive buffer taken.
    ///
    /// # Errors
    /// The reason why not.
    fn receive_data(&mut self, offset: u32, data: &[u8]) -> Result<(), Fault>;

    /// The message that took the receive buffer is complete.
    fn receive_end(&mut self, len: u32, immediate: Option<u32>, is_write: bool);
}

/// Which memory a READ response carries.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReadSource {
    /// Remote key of the request.
    pub rkey: u32,
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// An answer to send.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// All headers.
    pub headers: Headers,
    /// Memory to append, for a READ response.
    pub source: Option<ReadSource>,
}

/// An answer that waits to be sent.
#[derive(Copy, Clone, Debug)]
enum Answer {
    Ack {
        psn: Psn,
        code: AckCode,
        msn: u32,
    },
    Read {
        first: Seq,
        sent: u32,
        total: u32,
        msn: u32,
        rkey: u32,
        addr: u64,
    },
    Atomic {
        psn: Psn,
        msn: u32,
        original: u64,
    },
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
    answers: VecDeque<Answer>,
    atomics: VecDeque<(Seq, u64)>,
    gap: Gap,
    failed: bool,
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
            answers: VecDeque::new(),
            atomics: VecDeque::new(),
            gap: Gap::None,
            failed: false,
            duplicates: 0,
            out_of_order: 0,
        }
    }

    /// Whether a request was refused for good: the queue pair is in error.
    pub const fn failed(&self) -> bool {
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
        if self.failed || !packet.headers.bth.opcode.is_request() {
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
            self.failed = true;
        }
    }

    /// Queues an acknowledgement. One that directly follows another positive
    /// one replaces it, as acknowledgements are cumulative.
    fn acknowledge(&mut self, psn: Psn, code: AckCode) {
        let ack = Answer::Ack {
            psn,
            code,
            msn: self.msn,
        };
        match self.answers.back_mut() {
            Some(
                last @ Answer::Ack {
                    code: AckCode::Ack, ..
                },
            ) => *last = ack,
            _ => self.answers.push_back(ack),
        }
    }

    fn execute(&mut self, packet: &Packet<'_>, target: &mut dyn Target) -> Result<(), Fault> {
        let headers = &packet.headers;
        let opcode = headers.bth.opcode;
        let position = opcode.position();
        if position.is_start() != self.message.is_none() {
            return Err(Fault::Unsupported);
        }
        if self.answers.len() >= MAX_ANSWERS {
            return Ok(());
        }
        if opcode.is_send() {
            self.send(packet, target)
        } else if opcode.is_write() {
            self.write(packet, target)
        } else if let (Opcode::ReadRequest, Some(reth)) = (opcode, headers.reth) {
            self.read(&reth, target)
        } else if let Some(atomic) = headers.atomic {
            self.atomic(opcode, &atomic, target)
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
            target.receive_end(len, packet.headers.immediate, true);
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
            target.receive_end(received, packet.headers.immediate, false);
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

    fn read(&mut self, reth: &Reth, target: &mut dyn Target) -> Result<(), Fault> {
        target.check(reth.rkey, reth.addr, reth.len, Access::Read)?;
        self.msn = (self.msn + 1) & 0x00ff_ffff;
        let first = self.expected;
        self.expected = first.plus(super::queue::packets(reth.len, self.config.mtu));
        self.queue_read(first, reth);
        Ok(())
    }

    fn queue_read(&mut self, first: Seq, reth: &Reth) {
        self.answers.push_back(Answer::Read {
            first,
            sent: 0,
            total: reth.len,
            msn: self.msn,
            rkey: reth.rkey,
            addr: reth.addr,
        });
    }

    fn atomic(
        &mut self,
        opcode: Opcode,
        eth: &AtomicEth,
        target: &mut dyn Target,
    ) -> Result<(), Fault> {
        if !eth.addr.is_multiple_of(8) {
            return Err(Fault::Unsupported);
        }
        target.check(eth.rkey, eth.addr, 8, Access::Atomic)?;
        let op = if opcode == Opcode::FetchAdd {
            AtomicOp::FetchAdd {
                add: eth.swap_or_add,
            }
        } else {
            AtomicOp::CompareSwap {
                compare: eth.compare,
                swap: eth.swap_or_add,
            }
        };
        let original = target.atomic(eth.rkey, eth.addr, op)?;
        self.msn = (self.msn + 1) & 0x00ff_ffff;
        let seq = self.expected;
        self.expected = seq.plus(1);
        if self.atomics.len() == ATOMIC_HISTORY {
            self.atomics.pop_front();
        }
        self.atomics.push_back((seq, original));
        self.queue_atomic(seq, original);
        Ok(())
    }

    fn queue_atomic(&mut self, seq: Seq, original: u64) {
        self.answers.push_back(Answer::Atomic {
            psn: seq.psn(),
            msn: self.msn,
            original,
        });
    }

    /// Answers a request that was executed before, without executing it again:
    /// WRITE and SEND are acknowledged, READ is read again, an atomic's result
    /// is remembered.
    fn repeat(&mut self, seq: Seq, packet: &Packet<'_>, target: &mut dyn Target) {
        if self.answers.len() >= MAX_ANSWERS {
            return;
        }
        let opcode = packet.headers.bth.opcode;
        if let (Opcode::ReadRequest, Some(reth)) = (opcode, packet.headers.reth) {
            let end = seq.plus(super::queue::packets(reth.len, self.config.mtu));
            let allowed = target.check(reth.rkey, reth.addr, reth.len, Access::Read);
            if end <= self.expected && allowed.is_ok() {
                self.queue_read(seq, &reth);
            }
        } else if opcode.is_atomic() {
            let known = self.atomics.iter().find(|(at, _)| *at == seq).copied();
            if let Some((seq, original)) = known {
                self.queue_atomic(seq, original);
            }
        } else if packet.headers.bth.ack_request || opcode.position().is_end() {
            let last = self.expected.plus(0x00ff_ffff).psn();
            self.acknowledge(last, AckCode::Ack);
        }
    }

    /// The next answer to send, if any.
    pub fn poll_tx(&mut self) -> Option<Reply> {
        let answer = self.answers.front_mut()?;
        let mut headers = Headers::new(Bth {
            opcode: Opcode::Acknowledge,
            solicited: false,
            pad: 0,
            dest_qpn: self.config.dest_qpn,
            ack_request: false,
            psn: Psn::new(0),
        });
        let mut source = None;
        let mut done = true;
        match answer {
            Answer::Ack { psn, code, msn } => {
                headers.bth.psn = *psn;
                headers.aeth = Some(Aeth {
                    code: *code,
                    msn: *msn,
                });
            }
            Answer::Atomic { psn, msn, original } => {
                headers.bth.opcode = Opcode::AtomicAcknowledge;
                headers.bth.psn = *psn;
                headers.aeth = Some(Aeth {
                    code: AckCode::Ack,
                    msn: *msn,
                });
                headers.atomic_original = Some(*original);
            }
            Answer::Read {
                first,
                sent,
                total,
                msn,
                rkey,
                addr,
            } => {
                let len = (*total - *sent).min(self.config.mtu);
                done = *sent + len == *total;
                let position = match (*sent == 0, done) {
                    (true, true) => Position::Only,
                    (true, false) => Position::First,
                    (false, true) => Position::Last,
                    (false, false) => Position::Middle,
                };
                headers.bth.opcode = Opcode::read_response(position);
                headers.bth.psn = first.psn();
                headers.aeth = headers.bth.opcode.has_aeth().then_some(Aeth {
                    code: AckCode::Ack,
                    msn: *msn,
                });
                source = Some(ReadSource {
                    rkey: *rkey,
                    addr: addr.wrapping_add(u64::from(*sent)),
                    len,
                });
                *first = first.plus(1);
                *sent += len;
            }
        }
        if done {
            self.answers.pop_front();
        }
        Some(Reply { headers, source })
    }

    /// The memory of the READ response polled last is gone: the request is
    /// refused and the queue pair is in error.
    pub fn fail_polled(&mut self, reply: &Reply) {
        self.answers.clear();
        let code = Fault::Access.code(self.config.min_rnr_nak);
        self.acknowledge(reply.headers.bth.psn, code);
        self.failed = true;
    }
}
