//! What the inline functions of `verbs.h` look for in front of a context.

use core::ffi::{c_int, c_void};
use core::mem::{offset_of, size_of};
use core::ptr::null_mut;

use mlx5gda_sys::ffi;
use rustix::io::Errno;

use super::errno::number;
use super::handle;
use super::port::{device_attr, port_attr};

/// `__VERBS_ABI_IS_EXTENDED`: the context is part of a `struct verbs_context`.
const EXTENDED: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);

/// Offset of `phys_port_cnt_ex` in `struct ibv_device_attr_ex`.
const PORT_COUNT: usize = 396;

type QueryPort =
    unsafe extern "C" fn(*mut ffi::ibv_context, u8, *mut ffi::ibv_port_attr, usize) -> c_int;
type QueryDeviceEx =
    unsafe extern "C" fn(*mut ffi::ibv_context, *const c_void, *mut u8, usize) -> c_int;

/// `struct verbs_context` of `verbs.h`; what is null there is not supported.
#[repr(C)]
pub(super) struct VerbsContext {
    query_port: QueryPort,
    /// `advise_mr` to `priv`.
    absent: [*mut c_void; 26],
    query_device_ex: QueryDeviceEx,
    /// `ibv_destroy_flow` to `_ABI_placeholder3`.
    absent_too: [*mut c_void; 11],
    sz: usize,
    context: ffi::ibv_context,
}

const _: () = {
    assert!(offset_of!(VerbsContext, query_device_ex) == 216);
    assert!(offset_of!(VerbsContext, sz) == 312);
    assert!(offset_of!(VerbsContext, context) == 320);
    assert!(size_of::<VerbsContext>() == 648);
};

impl VerbsContext {
    pub(super) fn new(context: ffi::ibv_context) -> Self {
        Self {
            query_port,
            absent: [null_mut(); 26],
            query_device_ex,
            absent_too: [null_mut(); 11],
            sz: size_of::<Self>(),
            context: ffi::ibv_context {
                abi_compat: EXTENDED,
                ..context
            },
        }
    }

    /// The part that clients have a pointer to.
    pub(super) const fn context(this: *mut Self) -> *mut ffi::ibv_context {
        this.cast::<u8>()
            .wrapping_add(offset_of!(Self, context))
            .cast()
    }
}

/// `query_port`: all that the caller's `struct ibv_port_attr` has room for.
unsafe extern "C" fn query_port(
    context: *mut ffi::ibv_context,
    port: u8,
    out: *mut ffi::ibv_port_attr,
    size: usize,
) -> c_int {
    number(handle::context(context).and_then(|(device, _)| {
        if out.is_null() {
            return Err(Errno::INVAL);
        }
        let attr = port_attr(&device, port)?;
        let known = size.min(size_of::<ffi::ibv_port_attr>());
        // SAFETY: the header passes the size of the caller's own structure.
        unsafe {
            core::ptr::write_bytes(out.cast::<u8>(), 0, size);
            core::ptr::copy_nonoverlapping((&raw const attr).cast::<u8>(), out.cast(), known);
        }
        Ok(())
    }))
}

/// `query_device_ex`: the plain attributes and the number of ports; no offloads.
unsafe extern "C" fn query_device_ex(
    context: *mut ffi::ibv_context,
    _input: *const c_void,
    out: *mut u8,
    size: usize,
) -> c_int {
    number(handle::context(context).and_then(|(device, _)| {
        if out.is_null() || size < size_of::<ffi::ibv_device_attr>() {
            return Err(Errno::INVAL);
        }
        let attr = device_attr(&device);
        // SAFETY: the header passes the size of the caller's own structure,
        // which begins with the plain attributes.
        unsafe {
            core::ptr::write_bytes(out, 0, size);
            out.cast::<ffi::ibv_device_attr>().write_unaligned(attr);
            if size >= PORT_COUNT + size_of::<u32>() {
                let ports = u32::from(attr.phys_port_cnt);
                out.add(PORT_COUNT).cast::<u32>().write_unaligned(ports);
            }
        }
        Ok(())
    }))
}
