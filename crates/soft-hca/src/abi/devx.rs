//! Commands.

use core::ffi::{c_int, c_void};
use std::sync::Arc;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{CmdOpcode, DestroyCqIn, DestroyCqOut, InHeader};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::errno::{number, pointer, refused};
use super::handle::{self, Kind, Owned};
use crate::cmd::{Class, Effect, classify};
use crate::device::{ContextId, Device, ObjectId, limits};

/// Longest mailbox accepted, 1 MiB: page lists included, nothing is longer.
const MAX_MAILBOX: usize = 1 << 20;

/// A client's pair of mailboxes.
struct Mailboxes<'a> {
    input: &'a [u8],
    output: &'a mut [u8],
}

impl<'a> Mailboxes<'a> {
    /// # Safety
    /// Both are valid for their lengths, `output` for writing, and they do not
    /// overlap; for as long as the value lives.
    unsafe fn new(
        input: *const c_void,
        input_len: usize,
        output: *mut c_void,
        output_len: usize,
    ) -> Result<Self, Errno> {
        if input.is_null() || output.is_null() {
            return Err(Errno::FAULT);
        }
        if input_len > MAX_MAILBOX || output_len > MAX_MAILBOX {
            return Err(Errno::INVAL);
        }
        // SAFETY: by our contract; bytes need no alignment.
        Ok(unsafe {
            Self {
                input: core::slice::from_raw_parts(input.cast(), input_len),
                output: core::slice::from_raw_parts_mut(output.cast(), output_len),
            }
        })
    }

    /// Executes the command if it is of the class that the call is for. Any other
    /// is the kernel's to refuse, with `EINVAL`.
    fn execute(
        self,
        device: &Device,
        context: ContextId,
        fits: impl FnOnce(Class) -> bool,
    ) -> Result<Effect, Errno> {
        if !classify(self.input).is_some_and(fits) {
            return Err(Errno::INVAL);
        }
        let mut state = device.lock();
        state
            .execute(context, self.input, self.output)
            .map_err(refused)
    }
}

/// The object behind a pointer.
fn object(
    pointer: *const ffi::mlx5dv_devx_obj,
) -> Result<(Arc<Device>, ContextId, ObjectId), Errno> {
    handle::look(pointer, |kind| match kind {
        Kind::Object(_, id) => Some(*id),
        _ => None,
    })
}

/// Runs a command that creates nothing.
///
/// # Safety
/// The mailboxes are valid for their lengths.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_general_cmd(
    context: *mut ffi::ibv_context,
    input: *const c_void,
    input_len: usize,
    output: *mut c_void,
    output_len: usize,
) -> c_int {
    number(handle::context(context).and_then(|(device, context)| {
        // SAFETY: by our contract.
        let mailboxes = unsafe { Mailboxes::new(input, input_len, output, output_len) }?;
        mailboxes
            .execute(&device, context, |class| class == Class::General)
            .map(|_| ())
    }))
}

/// Runs a command that creates an object.
///
/// # Safety
/// The mailboxes are valid for their lengths.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_obj_create(
    context: *mut ffi::ibv_context,
    input: *const c_void,
    input_len: usize,
    output: *mut c_void,
    output_len: usize,
) -> *mut ffi::mlx5dv_devx_obj {
    pointer(handle::context(context).and_then(|(device, context)| {
        // SAFETY: by our contract.
        let mailboxes = unsafe { Mailboxes::new(input, input_len, output, output_len) }?;
        let effect = mailboxes.execute(&device, context, |class| class == Class::Create)?;
        let Effect::Created(id) = effect else {
            return Err(Errno::INVAL);
        };
        let value = Owned::new(0);
        let pointer = value.as_ptr().cast();
        handle::insert(&device, context, Kind::Object(value, id));
        Ok(pointer)
    }))
}

/// Runs a command that reads the object.
///
/// # Safety
/// The mailboxes are valid for their lengths.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_obj_query(
    of: *mut ffi::mlx5dv_devx_obj,
    input: *const c_void,
    input_len: usize,
    output: *mut c_void,
    output_len: usize,
) -> c_int {
    number(object(of).and_then(|(device, context, id)| {
        // SAFETY: by our contract.
        let mailboxes = unsafe { Mailboxes::new(input, input_len, output, output_len) }?;
        mailboxes
            .execute(&device, context, |class| class == Class::Query(id))
            .map(|_| ())
    }))
}

/// Runs a command that changes the object.
///
/// # Safety
/// The mailboxes are valid for their lengths.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_obj_modify(
    of: *mut ffi::mlx5dv_devx_obj,
    input: *const c_void,
    input_len: usize,
    output: *mut c_void,
    output_len: usize,
) -> c_int {
    number(object(of).and_then(|(device, context, id)| {
        // SAFETY: by our contract.
        let mailboxes = unsafe { Mailboxes::new(input, input_len, output, output_len) }?;
        mailboxes
            .execute(&device, context, |class| class == Class::Modify(id))
            .map(|_| ())
    }))
}

fn destroy(device: &Device, context: ContextId, id: ObjectId) -> Result<(), Errno> {
    let (opcode, number) = match id {
        ObjectId::Cq(cqn) => (CmdOpcode::DestroyCq, cqn),
        ObjectId::Qp(qpn) => (CmdOpcode::DestroyQp, qpn),
        ObjectId::Mkey(index) => (CmdOpcode::DestroyMkey, index),
        ObjectId::Pd(pd) => (CmdOpcode::DeallocPd, pd),
        ObjectId::TransportDomain(domain) => (CmdOpcode::DeallocTransportDomain, domain),
    };
    // All of these commands have the object's number in the same place.
    let mut input = DestroyCqIn::new();
    input.header = InHeader::new(opcode);
    input.set_cqn(number).map_err(|_| Errno::INVAL)?;
    let mut output = DestroyCqOut::zeroed();
    let mut state = device.lock();
    let result = state.execute(context, input.as_bytes(), output.as_mut_bytes());
    result.map(|_| ()).map_err(refused)
}

/// Destroys an object; refused while another uses it.
///
/// # Safety
/// Nobody uses the pointer any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_obj_destroy(of: *mut ffi::mlx5dv_devx_obj) -> c_int {
    number(object(of).and_then(|(device, context, id)| {
        destroy(&device, context, id)?;
        handle::remove(of);
        Ok(())
    }))
}

/// The event queue of a completion vector; there is one vector.
///
/// # Safety
/// `eqn` is writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_query_eqn(
    context: *mut ffi::ibv_context,
    vector: u32,
    eqn: *mut u32,
) -> c_int {
    number(handle::context(context).and_then(|_| {
        if vector != 0 || eqn.is_null() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { *eqn = limits::EQN };
        Ok(())
    }))
}

/// What the device knows of protection domains (their number) and paths (their
/// address vector); other objects are not made by verbs here.
///
/// # Safety
/// `obj` and each `out` in it are valid.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_init_obj(obj: *mut ffi::mlx5dv_obj, types: u64) -> c_int {
    const PD: u64 = ffi::MLX5DV_OBJ_PD as u64;
    const AH: u64 = ffi::MLX5DV_OBJ_AH as u64;
    let result = || {
        if types == 0 || types & !(PD | AH) != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        if obj.is_null() {
            return Err(Errno::INVAL);
        }
        if types & PD != 0 {
            // SAFETY: the caller's pointer, readable by contract.
            let pd = unsafe { (*obj).pd };
            let (_, _, pdn) = handle::look(pd.in_, |kind| match kind {
                Kind::Pd(_, number) => Some(*number),
                _ => None,
            })?;
            // SAFETY: the caller's pointer, writable by contract.
            let out = unsafe { pd.out.as_mut() }.ok_or(Errno::INVAL)?;
            *out = ffi::mlx5dv_pd { pdn, comp_mask: 0 };
        }
        if types & AH != 0 {
            // SAFETY: the caller's pointer, readable by contract.
            let ah = unsafe { (*obj).ah };
            let (_, _, av) = handle::look(ah.in_, |kind| match kind {
                Kind::Ah(_, vector, _) => Some(vector.as_ptr()),
                _ => None,
            })?;
            // SAFETY: the caller's pointer, writable by contract.
            let out = unsafe { ah.out.as_mut() }.ok_or(Errno::INVAL)?;
            *out = ffi::mlx5dv_ah { av, comp_mask: 0 };
        }
        Ok(())
    };
    number(result())
}
