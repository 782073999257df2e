//! What the peer's answers mean.

use std::time::Instant;

use super::{PROBE_AFTER, RNR_FOREVER, Requester};
use crate::psn::Seq;
use crate::rc::Status;
use crate::wire::{AckCode, Aeth, NakCode, Opcode, Packet, rnr_timer};

/// What came back.
enum Answer<'a> {
    /// Part of a READ's data.
    Bytes(&'a [u8]),
    /// What an atomic found, 4 bytes in the low half.
    Word(u64),
}

impl<P> Requester<P> {
    /// Takes an answer from the peer. `place` stores `data` at an offset of a
    /// work request's local data, or says that it cannot.
    pub fn on_packet(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        place: &mut dyn FnMut(&P, u32, &[u8]) -> bool,
    ) {
        if self.failed {
            return;
        }
        let headers = &packet.headers;
        let seq = headers.bth.psn.nearest(self.una);
        if seq >= self.sent || seq.plus(1) < self.una {
            return;
        }
        match headers.bth.opcode {
            Opcode::Acknowledge => {
                if let Some(Aeth { code, .. }) = headers.aeth {
                    self.on_ack(now, seq, code);
                }
            }
            Opcode::AtomicAcknowledge => {
                let original = headers.atomic_original.unwrap_or(0);
                self.on_data(now, seq, Answer::Word(original), place);
            }
            opcode if opcode.is_read_response() => {
                self.on_data(now, seq, Answer::Bytes(packet.payload), place);
            }
            _ => {}
        }
    }

    fn on_ack(&mut self, now: Instant, seq: Seq, code: AckCode) {
        match code {
            AckCode::Ack => {
                if !self.acknowledge(now, seq.plus(1)) {
                    self.lost_answer(now);
                }
            }
            AckCode::RnrNak { timer } => {
                if seq < self.una || !self.acknowledge(now, seq) {
                    return;
                }
                // A copy: the peer has not been asked again since.
                if self.rnr_until.is_some() || self.una == self.next {
                    return;
                }
                if self.config.rnr_retry != RNR_FOREVER {
                    if self.rnr_left == 0 {
                        self.fail_first(Status::RnrRetryExceeded);
                        return;
                    }
                    self.rnr_left -= 1;
                }
                self.rewind();
                self.deadline = None;
                self.probe_at = None;
                self.rnr_until = now.checked_add(rnr_timer(timer));
            }
            AckCode::Nak(code) => {
                if seq < self.una {
                    return;
                }
                if !self.acknowledge(now, seq) {
                    self.lost_answer(now);
                    return;
                }
                match code {
                    NakCode::SequenceError => self.lost_request(now),
                    NakCode::InvalidRequest => self.fail_first(Status::RemoteInvalidRequest),
                    NakCode::RemoteAccess => self.fail_first(Status::RemoteAccess),
                    NakCode::RemoteOperational => self.fail_first(Status::RemoteOperation),
                }
            }
        }
    }

    /// Data of a READ or an atomic has come for packet `seq`.
    fn on_data(
        &mut self,
        now: Instant,
        seq: Seq,
        answer: Answer<'_>,
        place: &mut dyn FnMut(&P, u32, &[u8]) -> bool,
    ) {
        if seq < self.una {
            return;
        }
        if !self.acknowledge(now, seq) {
            self.lost_answer(now);
            return;
        }
        let Some(entry) = self.queue.front() else {
            return;
        };
        if !entry.wr.op.wants_data() {
            self.fail_first(Status::BadResponse);
            return;
        }
        let done = seq.since(entry.first) * u64::from(self.config.mtu);
        let offset = u32::try_from(done).unwrap_or(u32::MAX);
        let expected = entry.wr.len.saturating_sub(offset).min(self.config.mtu);
        let wide;
        let narrow;
        let data = match answer {
            Answer::Bytes(data) => data,
            Answer::Word(original) if expected == 4 => {
                narrow = (original as u32).to_ne_bytes();
                &narrow[..]
            }
            Answer::Word(original) => {
                wide = original.to_ne_bytes();
                &wide[..]
            }
        };
        if data.len() != expected as usize {
            self.fail_first(Status::BadResponse);
        } else if !place(&entry.wr.payload, offset, data) {
            self.fail_first(Status::LocalProtection);
        } else {
            self.advance(now, seq.plus(1));
        }
    }

    /// Moves `una` up to `to`, but not past a READ or atomic whose data is
    /// missing: then `una` stops there and the answer is `false`.
    pub(super) fn acknowledge(&mut self, now: Instant, to: Seq) -> bool {
        let blocked = self
            .queue
            .iter()
            .take_while(|entry| entry.first < to)
            .find(|entry| entry.wr.op.wants_data() && self.una < entry.end)
            .map(|entry| entry.first.max(self.una));
        match blocked {
            Some(stop) if stop < to => {
                self.advance(now, stop);
                false
            }
            _ => {
                self.advance(now, to);
                true
            }
        }
    }

    pub(super) fn advance(&mut self, now: Instant, to: Seq) {
        let count = to.since(self.una);
        if count == 0 {
            return;
        }
        self.una = to;
        self.next = self.next.max(to);
        self.retries_left = self.config.retry_count;
        self.rnr_left = self.config.rnr_retry;
        self.probe_delay = PROBE_AFTER;
        self.went_back_at = None;
        self.grow(count);
        self.retire();
        self.arm(now);
    }
}
