//! Answers of a responder that wait to be sent.

use std::collections::VecDeque;

use crate::psn::{Psn, Seq};
use crate::wire::{AckCode, Aeth, Bth, Headers, NakCode, Opcode, Position, Reth};

/// Answers that may wait to be sent; requests that need a further one are
/// dropped and come again.
const MAX_ANSWERS: usize = 64;
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
        again: bool,
    },
    Atomic {
        psn: Psn,
        msn: u32,
        original: u64,
        again: bool,
    },
}

/// A queue of answers, in the order of their requests.
#[derive(Debug, Default)]
pub(super) struct Answers {
    queue: VecDeque<Answer>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_ANSWERS
    }

    /// READs and atomics that wait for the end of their answer, without those
    /// that came again: their requester counts them once.
    pub(super) fn outstanding(&self) -> usize {
        let first_time = |answer: &&Answer| {
            matches!(
                answer,
                Answer::Read { again: false, .. } | Answer::Atomic { again: false, .. }
            )
        };
        self.queue.iter().filter(first_time).count()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Drops all but the refusal of a request, if one was refused for good.
    pub(super) fn keep_refusal(&mut self) {
        self.queue.retain(|answer| {
            matches!(
                answer,
                Answer::Ack { code: AckCode::Nak(code), .. } if *code != NakCode::SequenceError
            )
        });
    }

    /// Queues an acknowledgement. One that directly follows a positive one
    /// replaces it, as acknowledgements are cumulative, and so does one that
    /// says the same again.
    pub(super) fn acknowledge(&mut self, psn: Psn, code: AckCode, msn: u32) {
        let ack = Answer::Ack { psn, code, msn };
        match self.queue.back_mut() {
            Some(Answer::Ack {
                psn: last_psn,
                code: last,
                ..
            }) if *last == AckCode::Ack || (*last, *last_psn) == (code, psn) => {
                self.queue.pop_back();
            }
            _ => {}
        }
        self.queue.push_back(ack);
    }

    /// Queues the answer to a READ request, which may have come `again`.
    pub(super) fn read(&mut self, first: Seq, reth: &Reth, msn: u32, again: bool) {
        self.queue.push_back(Answer::Read {
            first,
            sent: 0,
            total: reth.len,
            msn,
            rkey: reth.rkey,
            addr: reth.addr,
            again,
        });
    }

    /// Queues the answer to an atomic, which may have come `again`.
    pub(super) fn atomic(&mut self, seq: Seq, original: u64, msn: u32, again: bool) {
        self.queue.push_back(Answer::Atomic {
            psn: seq.psn(),
            msn,
            original,
            again,
        });
    }

    /// The next packet of answer.
    pub(super) fn next(&mut self, dest_qpn: u32, mtu: u32) -> Option<Reply> {
        let answer = self.queue.front_mut()?;
        let mut headers = Headers::new(Bth {
            opcode: Opcode::Acknowledge,
            solicited: false,
            pad: 0,
            dest_qpn,
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
            Answer::Atomic {
                psn, msn, original, ..
            } => {
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
                ..
            } => {
                let len = (*total - *sent).min(mtu);
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
            self.queue.pop_front();
        }
        Some(Reply { headers, source })
    }
}
