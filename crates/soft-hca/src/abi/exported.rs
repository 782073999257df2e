//! Functions that only programs linked against rdma-core call, not the function table.

use core::ffi::{c_int, c_void};
use core::mem::size_of;

use mlx5gda_sys::ffi;
use rustix::io::Errno;

use super::device::device;
use super::errno::{minus_one, number, set};
use super::handle;
use super::memory::ibv_reg_mr_iova2;
use super::port::{address_vector, gid_entry, guid};

/// The one partition key: full member of the default partition.
const PKEY: u16 = 0xffff;

/// `IBV_FORK_UNNEEDED`: a child does not share the device's view of memory.
const FORK_UNNEEDED: c_int = 2;

/// GUID of a device, big-endian; 0 for an unknown one.
///
/// # Safety
/// None beyond C's.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_get_device_guid(of: *mut ffi::ibv_device) -> u64 {
    device(of).map_or(0, |device| guid(&device))
}

/// Kernel index of a device: there is none.
///
/// # Safety
/// None beyond C's.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_get_device_index(_of: *mut ffi::ibv_device) -> c_int {
    -1
}

/// Registers memory to appear at I/O address `iova`.
///
/// # Safety
/// As [`ibv_reg_mr_iova2`].
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_reg_mr_iova(
    pd: *mut ffi::ibv_pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_int,
) -> *mut ffi::ibv_mr {
    // SAFETY: passed on to our caller. Flags are non-negative bits.
    unsafe { ibv_reg_mr_iova2(pd, addr, length, iova, access as u32) }
}

/// One entry of the partition key table, big-endian.
///
/// # Safety
/// `out` is writable.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_query_pkey(
    context: *mut ffi::ibv_context,
    port: u8,
    index: c_int,
    out: *mut u16,
) -> c_int {
    minus_one(handle::context(context).and_then(|_| {
        if port != 1 || index != 0 || out.is_null() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(PKEY.to_be()) };
        Ok(())
    }))
}

/// Index of a partition key (big-endian), -1 if it is not in the table.
///
/// # Safety
/// None beyond C's.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_get_pkey_index(
    context: *mut ffi::ibv_context,
    port: u8,
    pkey: u16,
) -> c_int {
    minus_one(handle::context(context).and_then(|_| {
        let found = port == 1 && pkey == PKEY.to_be();
        found.then_some(()).ok_or(Errno::INVAL)
    }))
}

/// All GIDs with their types; returns their number, or a negative error number.
///
/// # Safety
/// `entries` is writable, `max` entries of `size` bytes.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _ibv_query_gid_table(
    context: *mut ffi::ibv_context,
    entries: *mut ffi::ibv_gid_entry,
    max: usize,
    flags: u32,
    size: usize,
) -> isize {
    let result = handle::context(context).and_then(|(device, _)| {
        let count = device.port().gid_count();
        let short = max < count as usize;
        if flags != 0 || entries.is_null() || short || size < size_of::<ffi::ibv_gid_entry>() {
            return Err(Errno::INVAL);
        }
        for index in 0..count {
            let entry = gid_entry(&device, index);
            // SAFETY: the caller's array, writable by contract and long enough.
            unsafe {
                let to = entries.cast::<u8>().add(index as usize * size);
                to.cast::<ffi::ibv_gid_entry>().write_unaligned(entry);
            }
        }
        Ok(count as isize)
    });
    result.unwrap_or_else(|error| {
        set(error);
        -(error.raw_os_error() as isize)
    })
}

/// The first fields of `struct mlx5dv_context` of `mlx5dv.h`; the others are
/// there for bits of `comp_mask`.
#[repr(C)]
pub(super) struct DirectAttributes {
    version: u8,
    flags: u64,
    comp_mask: u64,
}

/// What is particular to mlx5: completions of version 1, and no offload that a
/// bit of `comp_mask` asks for.
///
/// # Safety
/// `out` is writable.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mlx5dv_query_device(
    context: *mut ffi::ibv_context,
    out: *mut DirectAttributes,
) -> c_int {
    /// `MLX5DV_CONTEXT_FLAGS_CQE_V1`.
    const CQE_V1: u64 = 1 << 0;
    number(handle::context(context).and_then(|_| {
        if out.is_null() {
            return Err(Errno::INVAL);
        }
        let attributes = DirectAttributes {
            version: 0,
            flags: CQE_V1,
            comp_mask: 0,
        };
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(attributes) };
        Ok(())
    }))
}

/// MAC address behind the GID of a path; no VLAN. Returns 0, or -1.
///
/// # Safety
/// `attr` is readable, `mac` is writable, 6 bytes of it, `vid` too.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ibv_resolve_eth_l2_from_gid(
    context: *mut ffi::ibv_context,
    attr: *const ffi::ibv_ah_attr,
    mac: *mut [u8; 6],
    vid: *mut u16,
) -> c_int {
    /// No VLAN.
    const NONE: u16 = 0xffff;
    minus_one(handle::context(context).and_then(|(device, _)| {
        // SAFETY: the caller's pointer, readable by contract if not null.
        let attr = unsafe { attr.as_ref() }.ok_or(Errno::INVAL)?;
        if mac.is_null() || vid.is_null() || device.port().is_infiniband() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointers, writable by contract.
        unsafe {
            mac.write(address_vector(device.port(), attr).rmac);
            vid.write(NONE);
        }
        Ok(())
    }))
}

/// Prepares for `fork`: there is nothing to prepare.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_fork_init() -> c_int {
    0
}

/// Whether `fork` was prepared for.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ibv_is_fork_initialized() -> c_int {
    FORK_UNNEEDED
}
