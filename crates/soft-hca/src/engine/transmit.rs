//! Datagrams that leave.

use std::time::Instant;

use super::Engine;
use super::memory::{Reach, gather};
use crate::device::{FaultState, Path, State};
use crate::net::Senders;
use crate::rc::Status;
use crate::stats::{DropReason, Stats};
use crate::wire::{Headers, encode, icrc};

/// Packets that one queue pair sends before the next has its turn.
const BURST: usize = 32;

/// The parts that sending one datagram takes.
struct Out<'a, 'b> {
    senders: &'a mut Senders<'b>,
    datagram: &'a mut Vec<u8>,
    path: Path,
    stats: &'a mut Stats,
    faults: &'a mut FaultState,
}

impl Out<'_, '_> {
    /// Encodes, seals and sends; `false` if the payload could not be had.
    fn send(&mut self, headers: &Headers, len: u32, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let Path {
            remote,
            src_port,
            traffic_class,
        } = self.path;
        self.datagram.clear();
        let filled = encode(headers, len as usize, self.datagram, |to| {
            fill(to).then_some(()).ok_or(())
        });
        if filled.is_err() {
            return false;
        }
        let flow = self.senders.flow(remote, src_port, traffic_class);
        icrc::seal(&flow, self.datagram);
        self.stats.packets_out += 1;
        self.stats.payload_out += u64::from(len);
        if self.faults.loses() {
            self.stats.drop_packet(DropReason::Injected);
        } else {
            let lost = self
                .senders
                .send(remote, src_port, traffic_class, self.datagram);
            self.stats.drop_packets(DropReason::Send, lost);
        }
        true
    }
}

impl Engine<'_> {
    /// Sends what a queue pair has to send, answers first; whether that was
    /// anything.
    pub(super) fn transmit(&mut self, state: &mut State, qpn: u32, now: Instant) -> bool {
        let State {
            qps,
            mrs,
            stats,
            faults,
            ..
        } = state;
        let Some(qp) = qps.get_mut(&qpn) else {
            return false;
        };
        let Some(path) = qp.path else {
            return false;
        };
        let mut out = Out {
            senders: &mut self.senders,
            datagram: &mut self.outbox,
            path,
            stats,
            faults,
        };
        let mut sent = 0;
        if let Some(responder) = &mut qp.responder {
            let reach = Reach {
                regions: mrs,
                pd: qp.pd,
                qpc: &qp.qpc,
            };
            while sent < BURST
                && let Some(reply) = responder.poll_tx()
            {
                sent += 1;
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
                qp.enter_error();
            }
        }
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
        sent > 0
    }
}
