//! Commands on completion queues.

use std::sync::Arc;

use mlx5gda_sys::prm::{Cqc, CreateCqIn, ModifyCqIn};

use super::{CmdResult, Reason, unreserved};
use crate::device::{ContextId, Cq, Health, ObjectId, Span, State, limits};

/// Operation modifier of MODIFY_CQ: another ring.
const RESIZE: u16 = 1;

/// Fields that MODIFY_CQ changes (`MLX5_CQ_MODIFY_*`).
const PERIOD: u32 = 1 << 0;
const COUNT: u32 = 1 << 1;
const OVERRUN: u32 = 1 << 2;

/// Fields that a resize names (`MLX5_MODIFY_CQ_MASK_*`).
const LOG_SIZE: u32 = 1 << 0;
const PAGE_OFFSET: u32 = 1 << 1;
const PAGE_SIZE: u32 = 1 << 2;

/// Bytes that a `page_offset` stands for: it counts 64ths of a page of
/// `2^log_page_size` times 4 KiB.
pub(super) fn page_offset(count: u32, log_page_size: u32) -> u64 {
    u64::from(count) * (64 << log_page_size)
}

/// Whether a context has no reserved bit and asks for nothing that this device does not have.
///
/// Some fields are not in the kernel's header, in Linux 6.1 or after, but in what firmware prints
/// of its queues, and some in DPDK's header:
///
/// | field | here |
/// | --- | --- |
/// | `mini_cqe_res_format_ext` | taken, as all about compressed completions is: a device may always write a whole one, and this one does |
/// | `cq_timestamp_format` | 0: completions carry no time, of no clock |
/// | `always_armed_cq` | 0: a queue tells once each time it is armed |
/// | `apu_cq` (in the kernel's header), `apu_element_type` | 0: events go to event queues |
/// | `as_notify`, `local_partition_id`, `process_id` | 0: no thread is woken |
/// | `initiator_src_dct` | 0: there are no dynamic connections |
fn served(cqc: &Cqc) -> CmdResult {
    unreserved(cqc)?;
    let others = cqc.cq_timestamp_format() != 0
        || cqc.always_armed_cq()
        || cqc.apu_cq()
        || cqc.apu_element_type() != 0
        || cqc.as_notify()
        || cqc.local_partition_id() != 0
        || cqc.process_id() != 0
        || cqc.initiator_src_dct();
    if others {
        return Err(Reason::CqFeature);
    }
    Ok(())
}

impl State {
    /// `len` bytes at `offset` of a umem of `owner`, `offset` a multiple of
    /// `align`. Other contexts' objects are as good as none, as firmware has it.
    ///
    /// The bits that say that a mailbox names a umem are not looked at: between a
    /// devx client and its device the kernel sets them.
    pub(super) fn span(
        &self,
        owner: ContextId,
        umem: u32,
        offset: u64,
        len: u64,
        align: u64,
    ) -> CmdResult<Span> {
        let umem = self.umems.get(&umem).filter(|umem| umem.owner == owner);
        let umem = umem.ok_or(Reason::NoUmem)?;
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

    /// Whether `owner` has this doorbell page.
    pub(super) fn has_uar(&self, owner: ContextId, page: u32) -> bool {
        self.uars.get(&page).is_some_and(|uar| uar.owner == owner)
    }

    pub(super) fn create_cq(&mut self, context: ContextId, command: &CreateCqIn) -> CmdResult<u32> {
        let cqc = &command.cq_context;
        served(cqc)?;
        if cqc.cqe_sz() != 0 {
            return Err(Reason::CqeSize);
        }
        if cqc.log_cq_size() > limits::LOG_CQ {
            return Err(Reason::QueueDepth);
        }
        if cqc.c_eqn() != limits::EQN {
            return Err(Reason::NoEq);
        }
        if !self.has_uar(context, cqc.uar_page()) {
            return Err(Reason::NoUar);
        }
        let entries = if cqc.cc() { 1 } else { 1 << cqc.log_cq_size() };
        let offset = command
            .cq_umem_offset()
            .checked_add(page_offset(cqc.page_offset(), cqc.log_page_size()))
            .ok_or(Reason::UmemRange)?;
        let ring = self.span(context, command.cq_umem_id(), offset, entries * 64, 64)?;
        if !ring.region.is_writable() {
            return Err(Reason::ReadOnly);
        }
        let doorbell = self.span(context, cqc.dbr_umem_id(), cqc.dbr_addr(), 8, 8)?;
        let cqn = self.new_number(|state, n| !state.cqs.queues.contains_key(&n))?;
        let cq = Cq::new(context, *cqc, ring, doorbell);
        self.cqs.queues.insert(cqn, cq);
        Ok(cqn)
    }

    pub(super) fn destroy_cq(&mut self, cqn: u32) -> CmdResult {
        let cq = self.cqs.queues.get(&cqn).ok_or(Reason::NoCq)?;
        if cq.users > 0 {
            return Err(Reason::Busy);
        }
        self.cqs.queues.remove(&cqn);
        self.events.forget(ObjectId::Cq(cqn));
        Ok(())
    }

    pub(super) fn query_cq(&self, cqn: u32) -> CmdResult<Cqc> {
        let cq = self.cqs.queues.get(&cqn).ok_or(Reason::NoCq)?;
        Ok(cq.context())
    }

    pub(super) fn modify_cq(&mut self, command: &ModifyCqIn) -> CmdResult {
        let op_mod = command.header.op_mod();
        if op_mod != 0 && op_mod != RESIZE {
            return Err(Reason::OpMod);
        }
        served(&command.cq_context)?;
        if op_mod == RESIZE {
            return self.resize_cq(command);
        }
        let select = command.modify_field_select();
        if select & !(PERIOD | COUNT | OVERRUN) != 0 {
            return Err(Reason::FieldSelect);
        }
        let cq = self.cqs.queues.get_mut(&command.cqn());
        let cq = cq.ok_or(Reason::NoCq)?;
        let wanted = &command.cq_context;
        if select & PERIOD != 0 {
            let fits = cq.cqc.set_cq_period(wanted.cq_period());
            debug_assert!(fits.is_ok());
        }
        if select & COUNT != 0 {
            cq.cqc.set_cq_max_count(wanted.cq_max_count());
        }
        if select & OVERRUN != 0 {
            cq.cqc.set_oi(wanted.oi());
        }
        Ok(())
    }

    fn resize_cq(&mut self, command: &ModifyCqIn) -> CmdResult {
        let select = command.modify_field_select();
        if select & LOG_SIZE == 0 || select & !(LOG_SIZE | PAGE_OFFSET | PAGE_SIZE) != 0 {
            return Err(Reason::FieldSelect);
        }
        let cqc = &command.cq_context;
        let log = cqc.log_cq_size();
        if log > limits::LOG_CQ {
            return Err(Reason::QueueDepth);
        }
        let cq = self.cqs.queues.get(&command.cqn()).ok_or(Reason::NoCq)?;
        if cq.cqc.cc() {
            return Err(Reason::Collapsed);
        }
        if cq.health != Health::Good {
            return Err(Reason::CqState);
        }
        // What waits, and the entry that ends the old ring. Who has overrun ignored need not
        // say what it has taken.
        if !cq.cqc.oi() {
            let waiting = cq.waiting().ok_or(Reason::CqState)?;
            if waiting >= 1 << log || waiting >= 1 << cq.cqc.log_cq_size() {
                return Err(Reason::Outstanding);
            }
        }
        let offset = command
            .cq_umem_offset()
            .checked_add(page_offset(cqc.page_offset(), cqc.log_page_size()))
            .ok_or(Reason::UmemRange)?;
        let ring = self.span(cq.owner, command.cq_umem_id(), offset, 64 << log, 64)?;
        if !ring.region.is_writable() {
            return Err(Reason::ReadOnly);
        }
        if !self.cqs.resize(command.cqn(), log, ring) {
            return Err(Reason::CqState);
        }
        Ok(())
    }
}
