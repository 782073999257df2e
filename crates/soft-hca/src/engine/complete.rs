//! Completions: from the requester into the completion queue.

use mlx5gda_sys::be::Be32;
use mlx5gda_sys::cqe::{Cqe64, CqeOpcode, CqeOrigin, Syndrome};
use mlx5gda_sys::prm::QpState;
use mlx5gda_sys::wqe::Opcode;

use crate::device::{Cqs, Qp, State};
use crate::rc::{Completion, Op, Status};
use crate::stats::Stats;

impl State {
    /// Writes the completions that are ready; whether there were any.
    pub(super) fn complete(&mut self, qpn: u32) -> bool {
        let Self {
            qps, cqs, stats, ..
        } = self;
        let Some(qp) = qps.get_mut(&qpn) else {
            return false;
        };
        let mut any = false;
        while let Some(completion) = qp
            .requester
            .as_mut()
            .and_then(|requester| requester.poll_completion())
        {
            any = true;
            write(qp, &completion, cqs, stats);
        }
        if qp.state == QpState::Rts && qp.requester.as_ref().is_some_and(|r| r.failed()) {
            qp.enter_error();
        }
        any
    }
}

/// Writes one completion.
pub(super) fn write(qp: &Qp, completion: &Completion, cqs: &mut Cqs, stats: &mut Stats) {
    let syndrome = syndrome(completion.status);
    // An error counts as solicited.
    let solicited = syndrome.is_some();
    cqs.complete(qp.qpc.cqn_snd(), solicited, stats, |owner| {
        let origin = CqeOrigin {
            qpn: qp.number,
            wqe_counter: completion.index,
            owner,
        };
        let opcode = opcode(completion.op) as u8;
        let mut cqe = match syndrome {
            None => Cqe64::requester(origin, opcode, completion.len),
            Some(syndrome) => Cqe64::error(origin, CqeOpcode::ReqErr, opcode, syndrome, 0),
        };
        cqe.srqn_uidx = Be32::new(qp.qpc.user_index());
        cqe
    });
}

/// The WQE opcode of an operation.
const fn opcode(op: Op) -> Opcode {
    match op {
        Op::Nop => Opcode::Nop,
        Op::Send { immediate: None } => Opcode::Send,
        Op::Send { immediate: Some(_) } => Opcode::SendImm,
        Op::Write {
            immediate: None, ..
        } => Opcode::RdmaWrite,
        Op::Write {
            immediate: Some(_), ..
        } => Opcode::RdmaWriteImm,
        Op::Read { .. } => Opcode::RdmaRead,
        Op::Atomic { op, .. } => op.opcode(),
    }
}

/// The syndrome of an error completion; `None` for success.
const fn syndrome(status: Status) -> Option<Syndrome> {
    Some(match status {
        Status::Success => return None,
        Status::LocalLength => Syndrome::LocalLength,
        Status::LocalOperation => Syndrome::LocalQpOperation,
        Status::LocalProtection => Syndrome::LocalProtection,
        Status::BadResponse => Syndrome::BadResponse,
        Status::RemoteInvalidRequest => Syndrome::RemoteInvalidRequest,
        Status::RemoteAccess => Syndrome::RemoteAccess,
        Status::RemoteOperation => Syndrome::RemoteOperation,
        Status::RetryExceeded => Syndrome::TransportRetryExceeded,
        Status::RnrRetryExceeded => Syndrome::RnrRetryExceeded,
        Status::Flushed => Syndrome::WrFlush,
    })
}
