//! Queue pairs.

use mlx5gda_sys::prm::{QpState, Qpc};
use mlx5gda_sys::wqe::DataPtr;

use super::{ContextId, Span};
use crate::net::Path;
use crate::rc::{Requester, Responder};

/// Where a work request's local data is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In registered memory.
    Gather(Box<[DataPtr]>),
    /// Taken from the WQE.
    Inline(Box<[u8]>),
}

/// Where a queue pair's queues are.
#[derive(Debug)]
pub(crate) struct QpBuffers {
    /// Receive queue, then send queue.
    pub(crate) work: Span,
    pub(crate) doorbell: Span,
    /// Bytes of the receive queue.
    pub(crate) rq_bytes: u64,
}

/// Place of the receive counter in the doorbell record.
pub(crate) const RECEIVE: u64 = 0;
/// Place of the send counter in the doorbell record.
const SEND: u64 = 4;

impl QpBuffers {
    /// A counter of the doorbell record, modulo 65536; `None` if that is gone.
    pub(crate) fn counter(&self, place: u64) -> Option<u16> {
        let counter = self.doorbell.region.load_be32(self.doorbell.offset + place);
        // Only the low 16 bits count.
        counter.map(|counter| counter as u16)
    }
}

/// A receive buffer that the message under way goes to.
#[derive(Clone, Debug)]
pub(crate) struct Landing {
    pub(crate) buffers: Box<[DataPtr]>,
    /// Bytes that fit.
    pub(crate) capacity: u64,
}

/// Progress of a receive queue.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    /// Receive WQEs completed so far, modulo 65536.
    pub(crate) head: u16,
    /// The message under way has taken the WQE at the head.
    pub(crate) landing: Option<Landing>,
}

impl ReceiveQueue {
    /// Receive WQEs posted and not completed; `None` if the doorbell record is
    /// gone, or counts more than the queue holds.
    pub(crate) fn waiting(&self, buffers: &QpBuffers, qpc: &Qpc) -> Option<u16> {
        let waiting = buffers.counter(RECEIVE)?.wrapping_sub(self.head);
        (u32::from(waiting) <= 1 << qpc.log_rq_size()).then_some(waiting)
    }
}

/// A queue pair.
#[derive(Debug)]
pub(crate) struct Qp {
    pub(crate) number: u32,
    pub(crate) owner: ContextId,
    pub(crate) pd: u32,
    pub(crate) state: QpState,
    /// As it was created and modified.
    pub(crate) qpc: Qpc,
    pub(crate) buffers: QpBuffers,
    pub(crate) has_rq: bool,
    /// Send blocks fetched so far, modulo 65536.
    pub(crate) sq_head: u16,
    /// Send blocks posted when the doorbell was rung last.
    pub(crate) sq_tail: u16,
    pub(crate) rq: ReceiveQueue,
    pub(crate) path: Option<Path>,
    pub(crate) requester: Option<Requester<Source>>,
    pub(crate) responder: Option<Responder>,
    /// A request has arrived since it was reset.
    pub(crate) established: bool,
    /// It is in the engine's list of queue pairs with work.
    pub(crate) hot: bool,
}

impl Qp {
    pub(crate) fn new(
        number: u32,
        owner: ContextId,
        pd: u32,
        qpc: Qpc,
        buffers: QpBuffers,
        no_rq: bool,
    ) -> Self {
        Self {
            number,
            owner,
            pd,
            state: QpState::Rst,
            qpc,
            buffers,
            has_rq: !no_rq,
            sq_head: 0,
            sq_tail: 0,
            rq: ReceiveQueue::default(),
            path: None,
            requester: None,
            responder: None,
            established: false,
            hot: false,
        }
    }

    /// The completion queues it uses, one entry per use.
    pub(crate) fn cqs(&self) -> impl Iterator<Item = u32> + use<> {
        let send = (!self.qpc.no_sq()).then(|| self.qpc.cqn_snd());
        let receive = self.has_rq.then(|| self.qpc.cqn_rcv());
        send.into_iter().chain(receive)
    }

    /// Send blocks posted so far by the doorbell record, modulo 65536; `None` if
    /// that is gone.
    pub(crate) fn posted(&self) -> Option<u16> {
        self.buffers.counter(SEND)
    }

    /// The doorbell was rung: what is posted by now may start, once the state
    /// allows it. In Reset there is no queue to post to. `false` if work was to
    /// start and the doorbell record is gone.
    pub(crate) fn ring(&mut self) -> bool {
        if self.state == QpState::Rst {
            return true;
        }
        let posted = self.posted();
        self.sq_tail = posted.unwrap_or(self.sq_tail);
        posted.is_some() || self.state != QpState::Rts
    }

    /// Whether send WQEs wait to be executed, or WQEs to be flushed.
    pub(crate) fn has_posted(&self) -> bool {
        let sends = !self.qpc.no_sq() && self.sq_tail != self.sq_head;
        match self.state {
            QpState::Rts => sends,
            QpState::Err => sends || self.has_receives(),
            _ => false,
        }
    }

    /// Whether receive WQEs are posted. A record that counts more than the
    /// queue holds, as one that is cleared too early may, posts none.
    pub(crate) fn has_receives(&self) -> bool {
        let waiting = self.rq.waiting(&self.buffers, &self.qpc);
        self.has_rq && waiting.is_some_and(|waiting| waiting > 0)
    }

    /// The responder has refused a request: everything posted is flushed. What
    /// was asked for before that request is still answered, as the peer takes
    /// the refusal only behind it.
    pub(crate) fn enter_refused(&mut self) {
        self.state = QpState::Err;
        if let Some(requester) = &mut self.requester
            && !requester.failed()
        {
            requester.flush();
        }
    }

    /// 2ERR_QP, or a fatal error on this side: everything posted is flushed, and
    /// the memory is not read any more.
    pub(crate) fn enter_error(&mut self) {
        self.enter_refused();
        if let Some(responder) = &mut self.responder {
            responder.fall_silent();
        }
    }

    /// 2RST_QP: forgets everything but how it was created.
    pub(crate) fn reset(&mut self) {
        self.state = QpState::Rst;
        self.sq_head = 0;
        self.sq_tail = 0;
        self.rq = ReceiveQueue::default();
        self.path = None;
        self.requester = None;
        self.responder = None;
        self.established = false;
        self.qpc.set_rwe(false);
        self.qpc.set_rre(false);
        self.qpc.set_rae(false);
    }
}
