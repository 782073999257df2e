//! Datagrams that leave.

use std::time::Instant;

use super::Engine;
use super::memory::{Reach, gather};
use crate::device::{Fate, FaultState, State};
use crate::net::{DelayLine, Path, Senders};
use crate::rc::Status;
use crate::stats::{DropReason, Stats};
use crate::wire::{Flow, Grh, Headers, ICRC_BYTES, encode, icrc};

/// Requests, and answers, that one queue pair sends before the next has its
/// turn.
const BURST: usize = 32;

/// The parts that sending one datagram takes.
struct Out<'a, 'b> {
    senders: &'a mut Senders<'b>,
    delayed: &'a mut DelayLine,
    now: Instant,
    path: Path,
    flow: Flow,
    stats: &'a mut Stats,
    faults: &'a mut FaultState,
}

impl Out<'_, '_> {
    /// Encodes, seals and sends; `false` if the payload could not be had.
    fn send(&mut self, headers: &Headers, len: u32, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let buffer = self.senders.buffer();
        if self.path.grh.is_some() {
            buffer.extend_from_slice(&[0; Grh::BYTES]);
        }
        let filled = encode(headers, len as usize, buffer, |to| {
            fill(to).then_some(()).ok_or(())
        });
        if filled.is_err() {
            self.senders.discard();
            return false;
        }
        self.seal();
        self.stats.packets_out += 1;
        self.stats.payload_out += u64::from(len);
        self.dispatch();
        true
    }

    /// Completes the datagram that is being made: the header in front that
    /// says its length, the CRC behind it.
    fn seal(&mut self) {
        let datagram = self.senders.open();
        if let Some(grh) = self.path.grh
            && let Ok(len) = u16::try_from(datagram.len() - Grh::BYTES + ICRC_BYTES)
            && let Some(place) = datagram.first_chunk_mut()
        {
            *place = grh.to_bytes(len);
        }
        if let Some(crc) = icrc::checksum(&self.flow, datagram) {
            self.senders.buffer().extend_from_slice(&crc);
        }
    }

    /// Lets the datagram go, now or later, whole or not, once or twice.
    fn dispatch(&mut self) {
        let datagram = self.senders.open();
        let Fate::Sent { flip, hold, again } = self.faults.fate(datagram.len()) else {
            self.senders.discard();
            self.stats.drop_packet(DropReason::Injected);
            return;
        };
        if let Some(bit) = flip
            && let Some(byte) = datagram.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        let later = |hold| self.now.checked_add(hold).unwrap_or(self.now);
        if let Some(hold) = again {
            self.delayed.push(later(hold), self.path, datagram);
        }
        if hold.is_zero() {
            let lost = self.senders.finish(&self.path);
            self.stats.drop_packets(DropReason::Send, lost);
        } else {
            self.delayed.push(later(hold), self.path, datagram);
            self.senders.discard();
        }
    }
}

impl Engine<'_> {
    /// Sends what has been under way for long enough; whether that was
    /// anything.
    pub(super) fn release(&mut self, state: &mut State, now: Instant) -> bool {
        let mut any = false;
        while let Some((path, datagram)) = self.delayed.pop(now) {
            any = true;
            let lost = self.senders.send(&path, &datagram);
            state.stats.drop_packets(DropReason::Send, lost);
        }
        if any {
            let lost = self.senders.flush();
            state.stats.drop_packets(DropReason::Send, lost);
        }
        any
    }

    /// Sends what a queue pair has to send; whether that was anything. Requests
    /// go first: whoever waits for them waits longer than whoever waits for an
    /// acknowledgement, and a short one can go in one piece with it.
    pub(super) fn transmit(&mut self, state: &mut State, qpn: u32, now: Instant) -> bool {
        let State {
            qps,
            mrs,
            stats,
            faults,
            events,
            ..
        } = state;
        let Some(qp) = qps.get_mut(&qpn) else {
            return false;
        };
        let Some(path) = qp.path else {
            return false;
        };
        let flow = self.senders.flow(&path);
        let mut out = Out {
            senders: &mut self.senders,
            delayed: &mut self.delayed,
            now,
            path,
            flow,
            stats,
            faults,
        };
        let mut sent = 0;
        if let Some(requester) = &mut qp.requester {
            requester.on_timer(now);
            let before = requester.retransmitted();
            while sent < BURST
                && let Some(packet) = requester.poll_tx(now)
            {
                sent += 1;
                let (offset, payload) = (packet.offset, packet.payload);
                let whole = out.send(&packet.headers, packet.len, |to| {
                    gather(mrs, qp.pd, payload, offset, to)
                });
                if !whole {
                    requester.fail_polled(Status::LocalProtection);
                }
            }
            out.stats.retransmits += requester.retransmitted() - before;
        }
        // A burst of their own: requests must not keep answers back for ever.
        let mut answered = 0;
        if let Some(responder) = &mut qp.responder {
            let reach = Reach {
                regions: mrs,
                pd: qp.pd,
                qpc: &qp.qpc,
            };
            while answered < BURST
                && let Some(reply) = responder.poll_tx()
            {
                answered += 1;
                let len = reply.source.map_or(0, |source| source.len);
                let whole = out.send(&reply.headers, len, |to| {
                    reply
                        .source
                        .is_none_or(|source| reach.read(source.rkey, source.addr, to).is_ok())
                });
                if !whole {
                    responder.fail_polled(&reply);
                }
            }
            if responder.failed() && qp.state != mlx5gda_sys::prm::QpState::Err {
                events.refused(qp.number, responder.fault());
                qp.enter_refused();
            }
        }
        sent + answered > 0
    }
}
