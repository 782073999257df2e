//! Access to memory regions by key.

use std::collections::HashMap;

use mlx5gda_sys::prm::{AtomicMode, Qpc};
use mlx5gda_sys::wqe::DataPtr;

use crate::device::{Mr, Source};
use crate::rc::{Access, AtomicOp, Fault};

/// The memory regions of a device.
pub(super) type Regions = HashMap<u32, Mr>;

/// Copies `to.len()` bytes of a work request's data, from `offset` on.
pub(super) fn gather(
    regions: &Regions,
    pd: u32,
    source: &Source,
    offset: u32,
    to: &mut [u8],
) -> bool {
    match source {
        Source::Inline(data) => {
            let start = offset as usize;
            let part = data.get(start..start + to.len());
            part.is_some_and(|part| {
                to.copy_from_slice(part);
                true
            })
        }
        Source::Gather(list) => walk(list, offset, to.len(), |segment, skip, at, len| {
            let part = &mut to[at..at + len];
            local(regions, pd, segment, skip, len)
                .is_some_and(|(mr, offset)| mr.local_read && mr.region.read(offset, part))
        }),
    }
}

/// Stores `data` at `offset` of a work request's local buffers.
pub(super) fn scatter(
    regions: &Regions,
    pd: u32,
    list: &[DataPtr],
    offset: u32,
    data: &[u8],
) -> bool {
    walk(list, offset, data.len(), |segment, skip, at, len| {
        local(regions, pd, segment, skip, len).is_some_and(|(mr, offset)| {
            mr.local_write && mr.region.write(offset, &data[at..at + len])
        })
    })
}

/// Whether all of a work request's local buffers are covered by their keys.
pub(super) fn covered(regions: &Regions, pd: u32, list: &[DataPtr]) -> bool {
    list.iter()
        .all(|segment| local(regions, pd, segment, 0, segment.len as usize).is_some())
}

/// Where `len` bytes, `skip` bytes into a segment, lie.
fn local<'a>(
    regions: &'a Regions,
    pd: u32,
    segment: &DataPtr,
    skip: u64,
    len: usize,
) -> Option<(&'a Mr, u64)> {
    let mr = regions.get(&segment.lkey).filter(|mr| mr.pd == pd)?;
    let offset = mr.offset(segment.addr.checked_add(skip)?, len as u64)?;
    Some((mr, offset))
}

/// Visits the pieces of `len` bytes from `offset` on: segment, bytes to skip in
/// it, position in the whole, length. Stops at the first failure.
fn walk(
    list: &[DataPtr],
    offset: u32,
    len: usize,
    mut visit: impl FnMut(&DataPtr, u64, usize, usize) -> bool,
) -> bool {
    let mut skip = u64::from(offset);
    let mut done = 0;
    for segment in list {
        if done == len {
            break;
        }
        let size = u64::from(segment.len);
        if skip >= size {
            skip -= size;
            continue;
        }
        let piece = usize::try_from(size - skip)
            .unwrap_or(usize::MAX)
            .min(len - done);
        if !visit(segment, skip, done, piece) {
            return false;
        }
        done += piece;
        skip = 0;
    }
    done == len
}

/// The memory that a queue pair's peer can reach.
#[derive(Copy, Clone)]
pub(super) struct Reach<'a> {
    pub(super) regions: &'a Regions,
    pub(super) pd: u32,
    pub(super) qpc: &'a Qpc,
}

impl<'a> Reach<'a> {
    fn find(&self, rkey: u32, addr: u64, len: u64, access: Access) -> Result<(&'a Mr, u64), Fault> {
        let enabled = match access {
            Access::Write => self.qpc.rwe(),
            Access::Read => self.qpc.rre(),
            Access::Atomic => self.qpc.rae(),
        };
        if !enabled {
            return Err(Fault::Unsupported);
        }
        let mr = self
            .regions
            .get(&rkey)
            .filter(|mr| mr.pd == self.pd && mr.allows(access))
            .ok_or(Fault::Access)?;
        let offset = mr.offset(addr, len).ok_or(Fault::Access)?;
        Ok((mr, offset))
    }

    /// Whether `len` bytes may be accessed so. The key of an empty message is
    /// not looked at (compliance statement C9-88).
    pub(super) fn check(
        &self,
        rkey: u32,
        addr: u64,
        len: u32,
        access: Access,
    ) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        self.find(rkey, addr, u64::from(len), access).map(|_| ())
    }

    /// Reads memory for a READ response.
    pub(super) fn read(&self, rkey: u32, addr: u64, to: &mut [u8]) -> Result<(), Fault> {
        if to.is_empty() {
            return Ok(());
        }
        let (mr, offset) = self.find(rkey, addr, to.len() as u64, Access::Read)?;
        mr.region
            .read(offset, to)
            .then_some(())
            .ok_or(Fault::Access)
    }

    /// Writes memory for a WRITE.
    pub(super) fn write(&self, rkey: u32, addr: u64, data: &[u8]) -> Result<(), Fault> {
        let (mr, offset) = self.find(rkey, addr, data.len() as u64, Access::Write)?;
        mr.region
            .write(offset, data)
            .then_some(())
            .ok_or(Fault::Access)
    }

    /// Executes an atomic, if the queue pair's mode has it.
    pub(super) fn atomic(&self, rkey: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault> {
        let plain = matches!(op, AtomicOp::FetchAdd { .. } | AtomicOp::CompareSwap { .. });
        match AtomicMode::try_from(self.qpc.atomic_mode()) {
            Ok(AtomicMode::IbSpec | AtomicMode::Only8Bytes) if plain => {}
            Ok(AtomicMode::UpTo8Bytes) => {}
            _ => return Err(Fault::Unsupported),
        }
        let (mr, offset) = self.find(rkey, addr, u64::from(op.bytes()), Access::Atomic)?;
        mr.region.atomic(offset, op).ok_or(Fault::Access)
    }
}
