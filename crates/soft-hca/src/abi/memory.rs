//! Protection domains, memory regions, user memory, doorbell pages.

use core::ffi::{c_int, c_uint, c_void};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use mlx5gda_sys::doorbell::UAR_BLUEFLAME;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::CmdOpcode;
use rustix::io::Errno;

use super::errno::{number, pointer, refused, set};
use super::handle::{self, Kind, Owned};
use crate::cmd::Reason;
use crate::device::{ContextId, Device, Mr, Uar, Umem};
use crate::mem::{Region, UarPage};

/// Unit of translation.
const PAGE: u64 = 4096;
/// Access flags that change nothing here.
const HARMLESS: u32 = ffi::IBV_ACCESS_HUGETLB | ffi::IBV_ACCESS_RELAXED_ORDERING;
/// Access flags that a memory region understands.
const KNOWN: u32 = ffi::IBV_ACCESS_LOCAL_WRITE
    | ffi::IBV_ACCESS_REMOTE_WRITE
    | ffi::IBV_ACCESS_REMOTE_READ
    | ffi::IBV_ACCESS_REMOTE_ATOMIC
    | HARMLESS;
/// Optional access flags are ignored where they are not understood
/// (`IBV_ACCESS_OPTIONAL_RANGE`).
const OPTIONAL: u32 = 0x3ff0_0000;

/// Checks access flags; whether the device may write.
fn writable(access: u32) -> Result<bool, Errno> {
    if access & !(KNOWN | OPTIONAL) != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let local = access & ffi::IBV_ACCESS_LOCAL_WRITE != 0;
    let remote = access & (ffi::IBV_ACCESS_REMOTE_WRITE | ffi::IBV_ACCESS_REMOTE_ATOMIC) != 0;
    if remote && !local {
        return Err(Errno::INVAL);
    }
    Ok(local)
}

/// The client's memory as a region, checked to be mapped.
///
/// # Safety
/// The contract of [`Region::new`].
unsafe fn region(addr: *mut c_void, len: usize, writable: bool) -> Result<Region, Errno> {
    if addr.is_null() || len == 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: passed on to our caller.
    let region = unsafe { Region::new(addr.cast(), len, writable) };
    region.is_mapped().then_some(region).ok_or(Errno::FAULT)
}

/// Allocates a protection domain.
///
/// # Safety
/// None beyond C's: an unknown pointer is refused.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_alloc_pd(context: *mut ffi::ibv_context) -> *mut ffi::ibv_pd {
    pointer(handle::context(context).and_then(|(device, owner)| {
        let mut state = device.lock();
        state.begin(CmdOpcode::AllocPd).map_err(refused)?;
        let number = state.alloc_pd(owner).map_err(refused)?;
        drop(state);
        let value = Owned::new(ffi::ibv_pd {
            context,
            handle: number,
        });
        let pointer = value.as_ptr();
        handle::insert(&device, owner, Kind::Pd(value, number));
        Ok(pointer)
    }))
}

fn pd(pointer: *const ffi::ibv_pd) -> Result<(Arc<Device>, ContextId, u32), Errno> {
    handle::look(pointer, |kind| match kind {
        Kind::Pd(_, number) => Some(*number),
        _ => None,
    })
}

/// Frees a protection domain; `EBUSY` while something is in it.
///
/// # Safety
/// Nobody uses the domain any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_dealloc_pd(pointer: *mut ffi::ibv_pd) -> c_int {
    number(pd(pointer).and_then(|(device, _, number)| {
        // Address handles are the library's own, so the device knows of none.
        if handle::has_paths(pointer) {
            return Err(Errno::BUSY);
        }
        let mut state = device.lock();
        state.begin(CmdOpcode::DeallocPd).map_err(refused)?;
        state.dealloc_pd(number).map_err(|reason| match reason {
            Reason::Busy => Errno::BUSY,
            other => refused(other),
        })?;
        drop(state);
        handle::remove(pointer);
        Ok(())
    }))
}

/// Registers memory.
///
/// # Safety
/// The contract of [`Region::new`], until it is deregistered or the context is
/// closed. The memory may be unmapped before; what is mapped there then is the
/// device's as well.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_reg_mr(
    domain: *mut ffi::ibv_pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> *mut ffi::ibv_mr {
    // SAFETY: passed on to our caller. Flags are non-negative bits.
    unsafe { ibv_reg_mr_iova2(domain, addr, length, addr.addr() as u64, access as c_uint) }
}

/// Registers memory to appear at I/O address `iova`.
///
/// # Safety
/// As [`ibv_reg_mr`].
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_reg_mr_iova2(
    domain: *mut ffi::ibv_pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_uint,
) -> *mut ffi::ibv_mr {
    pointer(pd(domain).and_then(|(device, owner, number)| {
        // Translation is by pages, so the offset in the page is kept.
        if iova % PAGE != addr.addr() as u64 % PAGE || iova.checked_add(length as u64).is_none() {
            return Err(Errno::INVAL);
        }
        // SAFETY: by our contract.
        let region = unsafe { region(addr, length, writable(access)?) }?;
        let place = Place { addr, iova };
        register(&device, owner, (domain, number), place, region, access)
    }))
}

/// Where a memory region is, for its client and for the device.
struct Place {
    addr: *mut c_void,
    iova: u64,
}

/// Makes a memory region of a client's protection domain.
fn register(
    device: &Arc<Device>,
    owner: ContextId,
    (domain, pd): (*mut ffi::ibv_pd, u32),
    place: Place,
    region: Region,
    access: u32,
) -> Result<*mut ffi::ibv_mr, Errno> {
    let length = region.len();
    let mut state = device.lock();
    state.begin(CmdOpcode::CreateMkey).map_err(refused)?;
    let key = state.new_key().map_err(refused)?;
    let mr = Mr {
        owner,
        pd,
        iova: place.iova,
        len: length as u64,
        base: 0,
        local_read: true,
        local_write: region.is_writable(),
        region: Arc::new(region),
        remote_write: access & ffi::IBV_ACCESS_REMOTE_WRITE != 0,
        remote_read: access & ffi::IBV_ACCESS_REMOTE_READ != 0,
        remote_atomic: access & ffi::IBV_ACCESS_REMOTE_ATOMIC != 0,
        mkc: None,
    };
    state.mrs.insert(key, mr);
    drop(state);
    let value = Owned::new(ffi::ibv_mr {
        // SAFETY: the domain is alive, it was just looked up.
        context: unsafe { (*domain).context },
        pd: domain,
        addr: place.addr,
        length,
        handle: key,
        lkey: key,
        rkey: key,
    });
    let pointer = value.as_ptr();
    handle::insert(device, owner, Kind::Mr(value, key));
    Ok(pointer)
}

/// What a descriptor stands for as a region.
///
/// # Safety
/// The contract of [`Region::map`]; `fd` is open.
unsafe fn mapped(fd: c_int, offset: u64, len: usize, writable: bool) -> Result<Region, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: open by our contract, and only for this call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: by our contract.
    let mapped = unsafe { Region::map(fd, offset, len, writable) };
    mapped.map_err(|error| match error {
        Errno::NODEV | Errno::NOTSUP | Errno::NOSYS => Errno::OPNOTSUPP,
        other => other,
    })
}

/// Registers memory behind a descriptor, to appear at I/O address `iova`. The
/// descriptor is mapped; memory that its owner does not let a program map, as
/// that of most GPUs, gives `EOPNOTSUPP`.
///
/// # Safety
/// The contract of [`Region::map`], until it is deregistered or the context is
/// closed; `fd` is open.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_reg_dmabuf_mr(
    domain: *mut ffi::ibv_pd,
    offset: u64,
    length: usize,
    iova: u64,
    fd: c_int,
    access: c_int,
) -> *mut ffi::ibv_mr {
    pointer(pd(domain).and_then(|(device, owner, number)| {
        if iova % PAGE != offset % PAGE || iova.checked_add(length as u64).is_none() {
            return Err(Errno::INVAL);
        }
        // Flags are non-negative bits.
        let access = access as c_uint;
        let writable = writable(access)?;
        // SAFETY: by our contract.
        let region = unsafe { mapped(fd, offset, length, writable) }?;
        let place = Place {
            addr: core::ptr::null_mut(),
            iova,
        };
        register(&device, owner, (domain, number), place, region, access)
    }))
}

/// Deregisters memory: it is not touched any more once this returns.
///
/// # Safety
/// Nobody uses the pointer any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_dereg_mr(mr: *mut ffi::ibv_mr) -> c_int {
    let found = handle::look(mr, |kind| match kind {
        Kind::Mr(_, key) => Some(*key),
        _ => None,
    });
    number(found.and_then(|(device, _, key)| {
        let mut state = device.lock();
        state.begin(CmdOpcode::DestroyMkey).map_err(refused)?;
        state.mrs.remove(&key);
        drop(state);
        handle::remove(mr);
        Ok(())
    }))
}

/// Registers memory for queues and doorbell records.
///
/// # Safety
/// As [`ibv_reg_mr`].
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_umem_reg(
    context: *mut ffi::ibv_context,
    addr: *mut c_void,
    size: usize,
    access: u32,
) -> *mut ffi::mlx5dv_devx_umem {
    pointer(handle::context(context).and_then(|(device, owner)| {
        // SAFETY: by our contract.
        let region = unsafe { region(addr, size, writable(access)?) }?;
        umem(&device, owner, region)
    }))
}

/// Makes such memory of a region.
fn umem(
    device: &Arc<Device>,
    owner: ContextId,
    region: Region,
) -> Result<*mut ffi::mlx5dv_devx_umem, Errno> {
    let mut state = device.lock();
    let id = state
        .new_number(|state, n| !state.umems.contains_key(&n))
        .map_err(refused)?;
    let region = Arc::new(region);
    state.umems.insert(id, Umem { owner, region });
    drop(state);
    let value = Owned::new(ffi::mlx5dv_devx_umem { umem_id: id });
    let pointer = value.as_ptr();
    handle::insert(device, owner, Kind::Umem(value, id));
    Ok(pointer)
}

/// `struct mlx5dv_devx_umem_in` of `mlx5dv.h`.
#[cfg(feature = "export")]
#[derive(Copy, Clone)]
#[repr(C)]
pub(super) struct UmemIn {
    /// Where it is; behind a descriptor, the offset there.
    addr: *mut c_void,
    size: usize,
    access: u32,
    /// Page sizes that will do.
    pgsz_bitmap: u64,
    comp_mask: u64,
    dmabuf_fd: c_int,
}

/// Registers memory for queues and doorbell records, by address or descriptor.
///
/// # Safety
/// `input` is readable; as [`ibv_reg_mr`] or [`ibv_reg_dmabuf_mr`].
#[cfg(feature = "export")]
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mlx5dv_devx_umem_reg_ex(
    context: *mut ffi::ibv_context,
    input: *const UmemIn,
) -> *mut ffi::mlx5dv_devx_umem {
    /// `MLX5DV_UMEM_MASK_DMABUF`.
    const DMABUF: u64 = 1 << 0;
    pointer(handle::context(context).and_then(|(device, owner)| {
        // SAFETY: the caller's pointer, readable by contract if not null.
        let input = unsafe { input.as_ref() }.ok_or(Errno::INVAL)?;
        if input.comp_mask & !DMABUF != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        // Pages of other sizes would have to lie together, which nobody sees to.
        if input.pgsz_bitmap & PAGE == 0 {
            return Err(Errno::INVAL);
        }
        let writable = writable(input.access)?;
        let region = if input.comp_mask & DMABUF == 0 {
            // SAFETY: by our contract.
            unsafe { region(input.addr, input.size, writable) }?
        } else {
            let offset = input.addr.addr() as u64;
            // SAFETY: by our contract.
            unsafe { mapped(input.dmabuf_fd, offset, input.size, writable) }?
        };
        umem(&device, owner, region)
    }))
}

/// Deregisters such memory; `EBUSY` while a queue is in it.
///
/// # Safety
/// Nobody uses the pointer any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_umem_dereg(umem: *mut ffi::mlx5dv_devx_umem) -> c_int {
    let found = handle::look(umem, |kind| match kind {
        Kind::Umem(_, id) => Some(*id),
        _ => None,
    });
    number(found.and_then(|(device, _, id)| {
        let mut state = device.lock();
        if state.umems.get(&id).is_some_and(Umem::is_used) {
            return Err(Errno::BUSY);
        }
        state.umems.remove(&id);
        drop(state);
        handle::remove(umem);
        Ok(())
    }))
}

/// Allocates a doorbell page. `reg_addr` is its first BlueFlame register.
///
/// # Safety
/// None beyond C's: an unknown pointer is refused.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_alloc_uar(
    context: *mut ffi::ibv_context,
    flags: u32,
) -> *mut ffi::mlx5dv_devx_uar {
    /// `MLX5_IB_UAPI_UAR_ALLOC_TYPE_NC_DEDICATED`, the highest of the types.
    const LAST_TYPE: u32 = 1 << 31;
    pointer(handle::context(context).and_then(|(device, owner)| {
        let types = ffi::MLX5_IB_UAPI_UAR_ALLOC_TYPE_BF | ffi::MLX5_IB_UAPI_UAR_ALLOC_TYPE_NC;
        if flags & !(types | LAST_TYPE) != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let page = UarPage::new()?;
        let base = page.address();
        let mut state = device.lock();
        state.begin(CmdOpcode::AllocUar).map_err(refused)?;
        let id = state
            .new_number(|state, n| !state.uars.contains_key(&n))
            .map_err(refused)?;
        state.uars.insert(id, Uar { owner, page });
        drop(state);
        let value = Owned::new(ffi::mlx5dv_devx_uar {
            reg_addr: base.wrapping_add(UAR_BLUEFLAME).cast(),
            base_addr: base.cast(),
            page_id: id,
            mmap_off: 0,
            comp_mask: 0,
        });
        let pointer = value.as_ptr();
        handle::insert(&device, owner, Kind::Uar(value, id));
        Ok(pointer)
    }))
}

/// Frees a doorbell page. One that a queue still uses stays, with `errno` set
/// to `EBUSY`.
///
/// # Safety
/// Nobody writes to the page any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_free_uar(uar: *mut ffi::mlx5dv_devx_uar) {
    let found = handle::look(uar, |kind| match kind {
        Kind::Uar(_, id) => Some(*id),
        _ => None,
    });
    let result = found.and_then(|(device, _, id)| {
        let mut state = device.lock();
        state.begin(CmdOpcode::DeallocUar).map_err(refused)?;
        let used = state.qps.values().any(|qp| qp.qpc.uar_page() == id)
            || state.cqs.queues.values().any(|cq| cq.cqc.uar_page() == id);
        if used {
            return Err(Errno::BUSY);
        }
        state.uars.remove(&id);
        drop(state);
        handle::remove(uar);
        Ok(())
    });
    if let Err(error) = result {
        set(error);
    }
}
