//! Asynchronous events: what happens to the port.

use core::ffi::c_int;
use std::sync::Arc;

use mlx5gda_sys::ffi;
use rustix::io::Errno;

use super::errno::minus_one;
use super::handle::{self, Kind};
use crate::device::Event;

/// Fetches the oldest event of a context. Waits for one unless the context's
/// `async_fd` was made non-blocking, as with a real device.
///
/// # Safety
/// `out` is writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_get_async_event(
    context: *mut ffi::ibv_context,
    out: *mut ffi::ibv_async_event,
) -> c_int {
    let found = handle::look(context, |kind| match kind {
        Kind::Context(context) => Some(Arc::clone(&context.events)),
        _ => None,
    });
    minus_one(found.and_then(|(device, id, counter)| {
        if out.is_null() {
            return Err(Errno::INVAL);
        }
        rustix::io::read(&counter, &mut [0u8; 8])?;
        let mut state = device.lock();
        let listener = state.listeners.get_mut(&id).ok_or(Errno::IO)?;
        let event_type = match listener.fetch().ok_or(Errno::IO)? {
            Event::PortActive => ffi::IBV_EVENT_PORT_ACTIVE,
            Event::PortError => ffi::IBV_EVENT_PORT_ERR,
        };
        let element = ffi::ibv_async_event__bindgen_ty_1 { port_num: 1 };
        let event = ffi::ibv_async_event {
            element,
            event_type,
        };
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(event) };
        Ok(())
    }))
}

/// Acknowledges an event. Events of the port hold nothing up.
///
/// # Safety
/// None beyond C's.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_ack_async_event(_event: *mut ffi::ibv_async_event) {}
