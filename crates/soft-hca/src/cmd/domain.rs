//! Protection domains and transport domains.

use super::{CmdResult, Reason};
use crate::device::{ContextId, Pd, State};

impl State {
    pub(crate) fn alloc_pd(&mut self, owner: ContextId) -> CmdResult<u32> {
        let number = self.new_number(|state, n| !state.pds.contains_key(&n))?;
        self.pds.insert(number, Pd { owner, number });
        Ok(number)
    }

    /// The protection domain with this number, if it is `owner`'s.
    pub(super) fn pd_of(&self, owner: ContextId, number: u32) -> CmdResult<u32> {
        let pd = self.pds.get(&number).filter(|pd| pd.owner == owner);
        pd.map(|pd| pd.number).ok_or(Reason::NoPd)
    }

    /// Frees a protection domain that nothing is in.
    pub(crate) fn dealloc_pd(&mut self, number: u32) -> CmdResult {
        if !self.pds.contains_key(&number) {
            return Err(Reason::NoPd);
        }
        let used = self.mrs.values().any(|mr| mr.pd == number)
            || self.qps.values().any(|qp| qp.pd == number);
        if used {
            return Err(Reason::Busy);
        }
        self.pds.remove(&number);
        Ok(())
    }

    pub(super) fn alloc_transport_domain(&mut self, owner: ContextId) -> CmdResult<u32> {
        let number = self.new_number(|state, n| !state.transport_domains.contains_key(&n))?;
        self.transport_domains.insert(number, owner);
        Ok(number)
    }

    pub(super) fn dealloc_transport_domain(&mut self, number: u32) -> CmdResult {
        let removed = self.transport_domains.remove(&number);
        removed.map(|_| ()).ok_or(Reason::NoTransportDomain)
    }
}
