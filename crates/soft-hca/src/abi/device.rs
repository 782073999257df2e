//! Device list, opening, closing.

use core::ffi::{c_char, c_int};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx5gda_sys::ffi;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tracing::level_filters::LevelFilter;

use super::errno::{minus_one, pointer};
use super::extended::VerbsContext;
use super::handle::{self, Context, Kind, Owned};
use crate::device::{Device, Listener};
use crate::error::Error;
use crate::process::PerProcess;
use crate::registry;

/// A device as clients see it: a pointer that stays valid for ever.
struct Listed {
    device: Arc<Device>,
    value: NonNull<ffi::ibv_device>,
}

// SAFETY: the value behind the pointer is never written after it was made.
unsafe impl Send for Listed {}

static LISTED: PerProcess<Mutex<Vec<Listed>>> = PerProcess::new();

/// Device lists handed out: address, and entries with the null at the end.
static LISTS: PerProcess<Mutex<Vec<(usize, usize)>>> = PerProcess::new();

/// Copies as much text as fits, with a zero at the end.
pub(super) fn copy_text(to: &mut [c_char], text: &str) {
    // The last byte stays zero.
    let room = to.len().saturating_sub(1);
    for (to, from) in to[..room].iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}

fn listed_here() -> MutexGuard<'static, Vec<Listed>> {
    LISTED.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pointer that stands for a device.
fn listed(device: &Arc<Device>) -> *mut ffi::ibv_device {
    let mut all = listed_here();
    if let Some(found) = all.iter().find(|entry| Arc::ptr_eq(&entry.device, device)) {
        return found.value.as_ptr();
    }
    let mut value = Box::new(ffi::ibv_device {
        node_type: ffi::IBV_NODE_CA,
        transport_type: ffi::IBV_TRANSPORT_IB,
        ..Default::default()
    });
    copy_text(&mut value.name, device.name());
    copy_text(&mut value.dev_name, device.name());
    let value = NonNull::from(Box::leak(value));
    all.push(Listed {
        device: Arc::clone(device),
        value,
    });
    value.as_ptr()
}

/// The device behind a pointer. One that was listed before this process was
/// forked stands for the device of the same name.
pub(super) fn device(pointer: *const ffi::ibv_device) -> Result<Arc<Device>, Errno> {
    let is_meant = |entry: &&Listed| entry.value.as_ptr().cast_const() == pointer;
    if let Some(found) = listed_here().iter().find(is_meant) {
        return Ok(Arc::clone(&found.device));
    }
    // Who held a lock when the process was forked holds it for ever.
    let inherited = LISTED.inherited().find_map(|all| {
        let all = all.try_lock().ok()?;
        let found = all.iter().find(is_meant)?;
        Some(found.device.name().to_owned())
    });
    let name = inherited.ok_or(Errno::INVAL)?;
    let mut devices = registry::visible()
        .map_err(|error| errno_of(&error))?
        .into_iter();
    devices
        .find(|device| device.name() == name)
        .ok_or(Errno::INVAL)
}

fn errno_of(error: &Error) -> Errno {
    tracing::warn!(%error, "device not to be had");
    // A program in C has no subscriber, and its environment is all that it says.
    if let Error::Config(error) = error
        && LevelFilter::current() == LevelFilter::OFF
    {
        // Nobody is left to be told if that fails.
        let _ = writeln!(io::stderr(), "soft-hca: {error}");
    }
    let source = match error {
        Error::Bind { source, .. } | Error::NoAddress { source, .. } => source.raw_os_error(),
        Error::Thread { source, .. } => source.raw_os_error(),
        _ => None,
    };
    source.map_or(Errno::INVAL, Errno::from_raw_os_error)
}

/// Lists the devices that the calling thread sees, see [`crate::fn_table`].
///
/// # Safety
/// `count` is null or writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_get_device_list(
    count: *mut c_int,
) -> *mut *mut ffi::ibv_device {
    let devices = match registry::visible() {
        Ok(devices) => devices,
        Err(error) => return pointer(Err(errno_of(&error))),
    };
    if !count.is_null() {
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { *count = devices.len() as c_int };
    }
    let list: Box<[*mut ffi::ibv_device]> = devices
        .iter()
        .map(listed)
        .chain([core::ptr::null_mut()])
        .collect();
    let len = list.len();
    let list: *mut *mut ffi::ibv_device = Box::leak(list).as_mut_ptr();
    let mut lists = LISTS.get().lock().unwrap_or_else(PoisonError::into_inner);
    lists.push((list.addr(), len));
    list
}

/// Frees a list.
///
/// # Safety
/// Nobody uses the list any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_free_device_list(list: *mut *mut ffi::ibv_device) {
    let mut lists = LISTS.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(position) = lists.iter().position(|(at, _)| *at == list.addr()) {
        let (_, len) = lists.swap_remove(position);
        let whole = core::ptr::slice_from_raw_parts_mut(list, len);
        // SAFETY: made as a box of this length by `ibv_get_device_list`, and
        // taken off the record, so it is freed once.
        drop(unsafe { Box::from_raw(whole) });
    }
}

/// Name of a device.
///
/// # Safety
/// None beyond C's: an unknown pointer gives null.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_get_device_name(of: *mut ffi::ibv_device) -> *const c_char {
    match device(of) {
        // SAFETY: a listed device is valid for ever.
        Ok(_) => unsafe { (&raw const (*of).name).cast() },
        Err(error) => pointer::<c_char>(Err(error)),
    }
}

fn open(of: *mut ffi::ibv_device) -> Result<*mut ffi::ibv_context, Errno> {
    let device = device(of)?;
    let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE)?;
    let events = Arc::new(events);
    let context = device.open().map_err(|error| errno_of(&error))?;
    let listener = Listener::new(Arc::clone(&events));
    device.lock().listeners.insert(context, listener);
    let value = Owned::new(VerbsContext::new(ffi::ibv_context {
        device: of,
        cmd_fd: -1,
        async_fd: events.as_raw_fd(),
        num_comp_vectors: 1,
        ..Default::default()
    }));
    let pointer = VerbsContext::context(value.as_ptr());
    let kind = Kind::Context(Context { value, events });
    handle::insert(&device, context, kind);
    Ok(pointer)
}

/// Opens a device.
///
/// # Safety
/// None beyond C's: an unknown pointer is refused.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_open_device(of: *mut ffi::ibv_device) -> *mut ffi::ibv_context {
    pointer(open(of))
}

/// Opens a device; devx is always there.
///
/// # Safety
/// `attr` is null or readable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_open_device(
    of: *mut ffi::ibv_device,
    attr: *mut ffi::mlx5dv_context_attr,
) -> *mut ffi::ibv_context {
    if !attr.is_null() {
        // SAFETY: the caller's pointer, readable by contract.
        let attr = unsafe { *attr };
        if attr.flags & !ffi::MLX5DV_CONTEXT_FLAGS_DEVX != 0 || attr.comp_mask != 0 {
            return pointer(Err(Errno::OPNOTSUPP));
        }
    }
    pointer(open(of))
}

/// Whether the device is an mlx5 one: all of these are.
///
/// # Safety
/// None beyond C's: an unknown pointer gives false.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_is_supported(of: *mut ffi::ibv_device) -> bool {
    device(of).is_ok()
}

/// Closes a context and frees what it has left.
///
/// # Safety
/// Nothing made from the context is used afterwards.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_close_device(context: *mut ffi::ibv_context) -> c_int {
    minus_one(handle::context(context).map(|(device, id)| {
        handle::remove_context(id);
        device.close(id);
    }))
}
