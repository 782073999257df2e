//! Memory keys over user memory.

use std::sync::Arc;

use mlx5gda_sys::prm::{CreateMkeyIn, Mkc};

use super::{CmdResult, Reason, unreserved};
use crate::device::{ContextId, Mr, ObjectId, State};

/// Translation through the pages of a umem.
const PAGES: (u32, u32) = (0, 1);
/// `mkc.qpn`: any queue pair.
const ANY_QP: u32 = 0x00ff_ffff;

/// The smallest page that is translated, 4 KiB.
const LOG_PAGE: u32 = 12;

/// Whether the key has pages, a translation for each, and its start where the
/// memory starts within its page. Two translations take 16 bytes.
fn check_pages(mkc: &Mkc, offset: u64) -> CmdResult {
    let log = mkc.log_page_size();
    let within = mkc.start_addr() & ((1 << log) - 1);
    let pages = (within + (mkc.length() - 1)) / (1 << log) + 1;
    if log < LOG_PAGE || pages > u64::from(mkc.translations_octword_size()) * 2 {
        return Err(Reason::MkeyPages);
    }
    if within != offset & ((1 << log) - 1) {
        return Err(Reason::MkeyStart);
    }
    Ok(())
}

impl State {
    /// Bits 31:8 of the new key.
    pub(super) fn create_mkey(
        &mut self,
        owner: ContextId,
        command: &CreateMkeyIn,
    ) -> CmdResult<u32> {
        let mkc = &command.memory_key_mkey_entry;
        unreserved(mkc)?;
        if (mkc.access_mode_4_2(), mkc.access_mode_1_0()) != PAGES || mkc.length64() || mkc.free() {
            return Err(Reason::MkeyMode);
        }
        if mkc.qpn() != ANY_QP {
            return Err(Reason::MkeyQp);
        }
        let pd = self.pd_of(owner, mkc.pd())?;
        let (iova, len) = (mkc.start_addr(), mkc.length());
        if len == 0 || iova.checked_add(len).is_none() {
            return Err(Reason::MkeyRange);
        }
        let span = self.span(
            owner,
            command.mkey_umem_id(),
            command.mkey_umem_offset(),
            len,
            1,
        )?;
        check_pages(mkc, command.mkey_umem_offset())?;
        let writes = mkc.lw() || mkc.rw() || mkc.a();
        if writes && !span.region.is_writable() {
            return Err(Reason::ReadOnly);
        }
        let index = self.new_key()? >> 8;
        let mr = Mr {
            owner,
            pd,
            iova,
            len,
            base: span.offset,
            region: Arc::clone(&span.region),
            local_read: mkc.lr(),
            local_write: mkc.lw(),
            remote_write: mkc.rw(),
            remote_read: mkc.rr(),
            remote_atomic: mkc.a(),
            mkc: Some(Box::new(*mkc)),
        };
        self.mrs.insert(index << 8 | u32::from(mkc.mkey_7_0()), mr);
        Ok(index)
    }

    /// The key with these upper bits, if a command made it.
    fn mkey(&self, index: u32) -> CmdResult<(u32, &Mkc)> {
        let found = self.mrs.iter().find(|(key, _)| *key >> 8 == index);
        let (key, mr) = found.ok_or(Reason::NoMkey)?;
        Ok((*key, mr.mkc.as_ref().ok_or(Reason::NoMkey)?))
    }

    pub(super) fn query_mkey(&self, index: u32) -> CmdResult<Mkc> {
        self.mkey(index).map(|(_, mkc)| *mkc)
    }

    pub(super) fn destroy_mkey(&mut self, index: u32) -> CmdResult {
        let (key, _) = self.mkey(index)?;
        self.mrs.remove(&key);
        self.events.forget(ObjectId::Mkey(index));
        Ok(())
    }
}
