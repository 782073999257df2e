//! CREATE_QP, DESTROY_QP, QUERY_QP.

use mlx5gda_sys::prm::{CreateQpIn, QpState, Qpc, RqType, ServiceType};

use super::cq::page_offset;
use super::{CmdResult, Reason, unreserved};
use crate::device::{ContextId, ObjectId, Qp, QpBuffers, RECEIVE, State, limits};

impl State {
    pub(super) fn create_qp(&mut self, context: ContextId, command: &CreateQpIn) -> CmdResult<u32> {
        let qpc = &command.qpc;
        unreserved_qpc(qpc)?;
        if qpc.st() != ServiceType::Rc.code() as u8 {
            return Err(Reason::Service);
        }
        let pd = self.pd_of(context, qpc.pd())?;
        if !self.has_uar(context, qpc.uar_page()) {
            return Err(Reason::NoUar);
        }
        let sq_bytes = queue_bytes(qpc.no_sq(), qpc.log_sq_size(), 64)?;
        let no_rq = match RqType::try_from(qpc.rq_type()) {
            Ok(RqType::Regular) => false,
            Ok(RqType::ZeroLength) => true,
            _ => return Err(Reason::RqType),
        };
        let rq_stride = 16u64 << qpc.log_rq_stride();
        let rq_bytes = queue_bytes(no_rq, qpc.log_rq_size(), rq_stride)?;
        for (used, cqn) in [(!qpc.no_sq(), qpc.cqn_snd()), (!no_rq, qpc.cqn_rcv())] {
            let cq = self.cqs.queues.get(&cqn);
            if used && cq.is_none_or(|cq| cq.owner != context) {
                return Err(Reason::NoCq);
            }
        }
        let offset = command
            .wq_umem_offset()
            .checked_add(page_offset(qpc.page_offset(), qpc.log_page_size()))
            .ok_or(Reason::UmemRange)?;
        let work = self.span(
            context,
            command.wq_umem_id(),
            offset,
            rq_bytes + sq_bytes,
            64,
        )?;
        let doorbell = self.span(context, qpc.dbr_umem_id(), qpc.dbr_addr(), 8, 8)?;
        let qpn = self.new_number(|state, n| !state.qps.contains_key(&n))?;
        let mut kept = Qpc::zeroed();
        kept.clone_from(qpc);
        let buffers = QpBuffers {
            work,
            doorbell,
            rq_bytes,
        };
        let qp = Qp::new(qpn, context, pd, kept, buffers, no_rq);
        for cqn in qp.cqs() {
            if let Some(cq) = self.cqs.queues.get_mut(&cqn) {
                cq.users += 1;
            }
        }
        self.qps.insert(qpn, qp);
        Ok(qpn)
    }

    pub(crate) fn destroy_qp(&mut self, qpn: u32) -> CmdResult {
        let qp = self.qps.remove(&qpn).ok_or(Reason::NoQp)?;
        self.events.forget(ObjectId::Qp(qpn));
        for cqn in qp.cqs() {
            if let Some(cq) = self.cqs.queues.get_mut(&cqn) {
                cq.users = cq.users.saturating_sub(1);
            }
        }
        Ok(())
    }

    pub(super) fn query_qp(&self, qpn: u32) -> CmdResult<Qpc> {
        let qp = self.qps.get(&qpn).ok_or(Reason::NoQp)?;
        let mut qpc = qp.qpc;
        qpc.set_hw_sq_wqebb_counter(qp.sq_head);
        qpc.set_sw_sq_wqebb_counter(qp.posted().unwrap_or(qp.sq_tail));
        qpc.set_hw_rq_counter(qp.rq.head.into());
        qpc.set_sw_rq_counter(qp.buffers.counter(RECEIVE).unwrap_or(0).into());
        let mut fits = vec![qpc.set_state(qp.state.code())];
        if let Some(requester) = &qp.requester {
            let (next, oldest) = requester.psns();
            let acked = oldest.get().wrapping_sub(1) & 0x00ff_ffff;
            fits.push(qpc.set_next_send_psn(next.get()));
            fits.push(qpc.set_last_acked_psn(acked));
        }
        if let Some(responder) = &qp.responder {
            fits.push(qpc.set_next_rcv_psn(responder.expected().get()));
        }
        debug_assert!(fits.iter().all(Result::is_ok));
        Ok(qpc)
    }

    pub(super) fn qp_2err(&mut self, qpn: u32) -> CmdResult {
        let qp = self.qps.get_mut(&qpn).ok_or(Reason::NoQp)?;
        qp.enter_error();
        self.make_hot(qpn);
        Ok(())
    }

    pub(super) fn qp_2rst(&mut self, qpn: u32) -> CmdResult {
        let qp = self.qps.get_mut(&qpn).ok_or(Reason::NoQp)?;
        qp.reset();
        debug_assert_eq!(qp.state, QpState::Rst);
        Ok(())
    }
}

/// Whether all bits that are set in the context and its paths have a meaning.
pub(super) fn unreserved_qpc(qpc: &Qpc) -> CmdResult {
    unreserved(qpc)?;
    unreserved(&qpc.primary_address_path)?;
    unreserved(&qpc.secondary_address_path)
}

/// Bytes of a queue of `2^log` entries of `stride` bytes, 0 if there is none.
fn queue_bytes(none: bool, log: u32, stride: u64) -> CmdResult<u64> {
    if none {
        return Ok(0);
    }
    if log > limits::LOG_QUEUE {
        return Err(Reason::QueueDepth);
    }
    Ok(stride << log)
}
