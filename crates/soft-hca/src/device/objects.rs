//! The simple objects: protection domains, memory, doorbell pages.

use std::sync::Arc;

use mlx5gda_sys::prm::Mkc;

use crate::mem::{Region, UarPage};
use crate::rc::Access;

/// Who opened the device.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContextId(pub(crate) u64);

/// An object made by a command.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ObjectId {
    Cq(u32),
    Qp(u32),
    /// By bits 31:8 of the key.
    Mkey(u32),
    Pd(u32),
    TransportDomain(u32),
}

/// A protection domain.
#[derive(Debug)]
pub(crate) struct Pd {
    pub(crate) owner: ContextId,
    pub(crate) number: u32,
}

/// A memory region: `len` bytes of `region`, from `base` on, appear at I/O
/// address `iova`.
#[derive(Debug)]
pub(crate) struct Mr {
    pub(crate) owner: ContextId,
    pub(crate) pd: u32,
    pub(crate) iova: u64,
    pub(crate) len: u64,
    pub(crate) base: u64,
    /// Shared with its umem, if it has one.
    pub(crate) region: Arc<Region>,
    pub(crate) local_read: bool,
    pub(crate) local_write: bool,
    pub(crate) remote_write: bool,
    pub(crate) remote_read: bool,
    pub(crate) remote_atomic: bool,
    /// As a command made it; `None` for a call of libibverbs.
    pub(crate) mkc: Option<Box<Mkc>>,
}

impl Mr {
    /// Where `len` bytes at I/O address `addr` lie in the region, if they do.
    pub(crate) fn offset(&self, addr: u64, len: u64) -> Option<u64> {
        let offset = addr.checked_sub(self.iova)?;
        let end = offset.checked_add(len)?;
        (end <= self.len).then_some(self.base + offset)
    }

    /// Whether a peer may do this.
    pub(crate) const fn allows(&self, access: Access) -> bool {
        match access {
            Access::Write => self.remote_write,
            Access::Read => self.remote_read,
            Access::Atomic => self.remote_atomic,
        }
    }
}

/// Memory for queues and doorbell records.
#[derive(Debug)]
pub(crate) struct Umem {
    pub(crate) owner: ContextId,
    /// Shared with the queues in it.
    pub(crate) region: Arc<Region>,
}

impl Umem {
    /// Whether a queue or doorbell record is in it.
    pub(crate) fn is_used(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }
}

/// A doorbell page.
#[derive(Debug)]
pub(crate) struct Uar {
    pub(crate) owner: ContextId,
    pub(crate) page: UarPage,
}

/// A part of a umem that a queue or doorbell record lies in.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) region: Arc<Region>,
    pub(crate) offset: u64,
}
