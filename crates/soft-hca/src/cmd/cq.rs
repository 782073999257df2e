//! Commands on completion queues.

use std::sync::Arc;

use mlx5gda_sys::prm::{Cqc, CreateCqIn};

use super::{CmdResult, Reason};
use crate::device::{ContextId, Cq, Span, State, limits};

impl State {
    /// `len` bytes at `offset` of a umem, `offset` a multiple of `align`.
    pub(super) fn span(
        &self,
        valid: bool,
        umem: u32,
        offset: u64,
        len: u64,
        align: u64,
    ) -> CmdResult<Span> {
        if !valid {
            return Err(Reason::UmemRequired);
        }
        let umem = self.umems.get(&umem).ok_or(Reason::NoUmem)?;
        if !offset.is_multiple_of(align) {
            return Err(Reason::Alignment);
        }
        let end = offset.checked_add(len).ok_or(Reason::UmemRange)?;
        if end > umem.region.len() as u64 {
            return Err(Reason::UmemRange);
        }
        Ok(Span {
            region: Arc::clone(&umem.region),
            offset,
        })
    }

    pub(super) fn create_cq(&mut self, context: ContextId, command: &CreateCqIn) -> CmdResult<u32> {
        let cqc = &command.cq_context;
        if cqc.cqe_sz() != 0 {
            return Err(Reason::CqeSize);
        }
        if cqc.log_cq_size() > limits::LOG_CQ {
            return Err(Reason::QueueDepth);
        }
        if cqc.c_eqn() != limits::EQN {
            return Err(Reason::NoEq);
        }
        if !self.uars.contains_key(&cqc.uar_page()) {
            return Err(Reason::NoUar);
        }
        let entries = if cqc.cc() { 1 } else { 1 << cqc.log_cq_size() };
        let offset = command
            .cq_umem_offset()
            .checked_add(u64::from(cqc.page_offset()) * 64)
            .ok_or(Reason::UmemRange)?;
        let ring = self.span(
            command.cq_umem_valid(),
            command.cq_umem_id(),
            offset,
            entries * 64,
            64,
        )?;
        if !ring.region.is_writable() {
            return Err(Reason::ReadOnly);
        }
        let doorbell = self.span(
            cqc.dbr_umem_valid(),
            cqc.dbr_umem_id(),
            cqc.dbr_addr(),
            8,
            8,
        )?;
        let cqn = self.new_number(|state, n| !state.cqs.contains_key(&n))?;
        self.cqs.insert(
            cqn,
            Cq {
                owner: context,
                cqc: *cqc,
                ring,
                doorbell,
                produced: 0,
                overrun: false,
                users: 0,
            },
        );
        Ok(cqn)
    }

    pub(super) fn destroy_cq(&mut self, cqn: u32) -> CmdResult {
        let cq = self.cqs.get(&cqn).ok_or(Reason::NoCq)?;
        if cq.users > 0 {
            return Err(Reason::Busy);
        }
        self.cqs.remove(&cqn);
        Ok(())
    }

    pub(super) fn query_cq(&self, cqn: u32) -> CmdResult<Cqc> {
        /// `cqc.status` of a queue that overflowed.
        const OVERFLOW: u32 = 9;
        let cq = self.cqs.get(&cqn).ok_or(Reason::NoCq)?;
        let mut cqc = cq.cqc;
        let fits = [
            cqc.set_producer_counter(cq.produced & 0x00ff_ffff),
            cqc.set_consumer_counter(cq.consumed()),
            cqc.set_status(if cq.overrun { OVERFLOW } else { 0 }),
        ];
        debug_assert!(fits.iter().all(Result::is_ok));
        Ok(cqc)
    }
}
