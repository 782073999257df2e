//! Datagrams that arrive.

use std::net::IpAddr;
use std::time::Instant;

use mlx5gda_sys::eqe::EventType;
use mlx5gda_sys::prm::QpState;

use super::memory::{Reach, scatter};
use super::receive_queue::ResponderSide;
use crate::device::{Source, State};
use crate::stats::DropReason;
use crate::wire::icrc::{self, Verdict};
use crate::wire::{Bth, Flow, Grh, decode};

impl State {
    /// Takes a datagram, or counts why not.
    pub(super) fn receive(&mut self, now: Instant, from: (IpAddr, u16), datagram: &[u8]) {
        if self.faults.link_is_down() || self.faults.is_frozen() {
            self.stats.drop_packet(DropReason::Injected);
            return;
        }
        self.stats.packets_in += 1;
        if let Err(reason) = self.accept(now, from, datagram) {
            self.stats.drop_packet(reason);
            tracing::trace!(device = %self.name, ?from, ?reason, "datagram dropped");
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        from: (IpAddr, u16),
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let (source, src_port) = from;
        let (grh, inner) = Grh::split(datagram).ok_or(DropReason::Malformed)?;
        let packet = decode(inner).map_err(|_| DropReason::Malformed)?;
        let flow = Flow {
            src: source,
            dst: self.port.address,
            src_port,
        };
        if icrc::open(&flow, datagram) == Verdict::Bad {
            return Err(DropReason::Icrc);
        }
        if !inner.first_chunk().is_some_and(Bth::in_partition) {
            return Err(DropReason::Partition);
        }
        let bth = packet.headers.bth;
        let Self {
            qps,
            mrs,
            cqs,
            stats,
            events,
            ..
        } = self;
        let qp = qps.get_mut(&bth.dest_qpn).ok_or(DropReason::UnknownQp)?;
        let to_responder = bth.opcode.is_request();
        match qp.state {
            QpState::Rts => {}
            QpState::Rtr if to_responder => {}
            _ => return Err(DropReason::QpState),
        }
        if !qp
            .path
            .is_some_and(|path| path.admits(source, grh.as_ref()))
        {
            return Err(DropReason::WrongSource);
        }
        let pd = qp.pd;
        if to_responder {
            let responder = qp.responder.as_mut().ok_or(DropReason::QpState)?;
            let (duplicates, early) = responder.counts();
            let mut side = ResponderSide {
                qpn: qp.number,
                reach: Reach {
                    regions: mrs,
                    pd,
                    qpc: &qp.qpc,
                },
                buffers: &qp.buffers,
                queue: qp.has_rq.then_some(&mut qp.rq),
                cqs,
                stats,
            };
            responder.on_packet(&packet, &mut side);
            let (duplicates_now, early_now) = responder.counts();
            stats.duplicates += duplicates_now - duplicates;
            stats.out_of_order += early_now - early;
            if responder.failed() {
                events.refused(qp.number, responder.fault());
                qp.enter_refused();
            } else if !std::mem::replace(&mut qp.established, true) && qp.state == QpState::Rtr {
                events.queue_pair(qp.number, EventType::CommunicationEstablished);
            }
        } else {
            let requester = qp.requester.as_mut().ok_or(DropReason::QpState)?;
            requester.on_packet(now, &packet, &mut |source, offset, data| match source {
                Source::Gather(list) => scatter(mrs, pd, list, offset, data),
                Source::Inline(_) => false,
            });
        }
        self.make_hot(bth.dest_qpn);
        Ok(())
    }
}
