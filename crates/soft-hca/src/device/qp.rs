//! Queue pairs.

use std::net::Ipv4Addr;

use mlx5gda_sys::prm::{QpState, Qpc};
use mlx5gda_sys::wqe::DataPtr;

use super::{ContextId, Span};
use crate::rc::{Requester, Responder};

/// Where a work request's local data is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In registered memory.
    Gather(Box<[DataPtr]>),
    /// Taken from the WQE.
    Inline(Box<[u8]>),
}

/// The way to the peer.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Path {
    pub(crate) remote: Ipv4Addr,
    /// UDP source port asked for.
    pub(crate) src_port: u16,
    pub(crate) traffic_class: u8,
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
    pub(crate) path: Option<Path>,
    pub(crate) requester: Option<Requester<Source>>,
    pub(crate) responder: Option<Responder>,
    /// It is in the engine's list of queue pairs with work.
    pub(crate) hot: bool,
}

impl Qp {
    pub(crate) const fn new(
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
            path: None,
            requester: None,
            responder: None,
            hot: false,
        }
    }

    /// The completion queues it uses, one entry per use.
    pub(crate) fn cqs(&self) -> impl Iterator<Item = u32> + use<> {
        let send = (!self.qpc.no_sq()).then(|| self.qpc.cqn_snd());
        let receive = self.has_rq.then(|| self.qpc.cqn_rcv());
        send.into_iter().chain(receive)
    }

    /// Send blocks posted so far by the doorbell record, modulo 65536.
    pub(crate) fn posted(&self) -> u16 {
        /// The send counter is the second of the record's two.
        const SEND: u64 = 4;
        let doorbell = &self.buffers.doorbell;
        let counter = doorbell.region.load_be32(doorbell.offset + SEND);
        counter.map_or(self.sq_head, |counter| counter as u16)
    }

    /// Whether posted work is to be fetched: executed, or flushed.
    pub(crate) fn fetches(&self) -> bool {
        !self.qpc.no_sq() && matches!(self.state, QpState::Rts | QpState::Err)
    }

    /// 2ERR_QP, or a fatal error: everything posted is flushed.
    pub(crate) fn enter_error(&mut self) {
        self.state = QpState::Err;
        if let Some(requester) = &mut self.requester
            && !requester.failed()
        {
            requester.flush();
        }
    }

    /// 2RST_QP: forgets everything but how it was created.
    pub(crate) fn reset(&mut self) {
        self.state = QpState::Rst;
        self.sq_head = 0;
        self.path = None;
        self.requester = None;
        self.responder = None;
        self.qpc.set_rwe(false);
        self.qpc.set_rre(false);
        self.qpc.set_rae(false);
    }
}
