//! Event channels: events of completion queues, queue pairs and the port.
//!
//! A channel's descriptor is one end of a pair of sockets that keep messages
//! apart, so it can be polled, made non-blocking, and read directly, each read
//! giving one event, as with the kernel's.

use core::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mlx5gda_sys::eqe::{Eqe, EventType};
use mlx5gda_sys::ffi;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::errno::{number, pointer, set};
use super::handle::{self, Kind, Owned};
use crate::device::{Channel, ContextId, Device, ObjectId, Sink, eventfd_of, has_event};

/// A channel as its client has it.
pub(super) struct ClientChannel {
    pub(super) value: Owned<ffi::mlx5dv_devx_event_channel>,
    number: u32,
    socket: Arc<OwnedFd>,
    omit_data: bool,
}

/// Makes an event channel.
///
/// # Safety
/// None beyond C's: an unknown pointer is refused.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_create_event_channel(
    context: *mut ffi::ibv_context,
    flags: ffi::mlx5_ib_uapi_devx_create_event_channel_flags,
) -> *mut ffi::mlx5dv_devx_event_channel {
    const OMIT: u32 = ffi::MLX5_IB_UAPI_DEVX_CR_EV_CH_FLAGS_OMIT_DATA;
    pointer(handle::context(context).and_then(|(device, owner)| {
        if flags & !OMIT != 0 {
            return Err(Errno::INVAL);
        }
        let omit_data = flags & OMIT != 0;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut state = device.lock();
        let free = |n| !state.events.channels.contains_key(&n);
        let number = (0..u32::MAX).find(|n| free(*n)).ok_or(Errno::NOMEM)?;
        let channel = Channel::new(owner, ours, omit_data);
        state.events.channels.insert(number, channel);
        drop(state);
        let value = Owned::new(ffi::mlx5dv_devx_event_channel {
            fd: theirs.as_raw_fd(),
        });
        let pointer = value.as_ptr();
        let channel = ClientChannel {
            value,
            number,
            socket: Arc::new(theirs),
            omit_data,
        };
        handle::insert(&device, owner, Kind::Channel(channel));
        Ok(pointer)
    }))
}

fn channel(
    pointer: *const ffi::mlx5dv_devx_event_channel,
) -> Result<(Arc<Device>, ContextId, u32), Errno> {
    handle::look(pointer, |kind| match kind {
        Kind::Channel(channel) => Some(channel.number),
        _ => None,
    })
}

/// Ends an event channel, its subscriptions and its descriptor.
///
/// # Safety
/// Nobody uses the channel any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_destroy_event_channel(
    of: *mut ffi::mlx5dv_devx_event_channel,
) {
    match channel(of) {
        Ok((device, _, number)) => {
            device.lock().events.close(number);
            handle::remove(of);
        }
        Err(error) => set(error),
    }
}

/// The object that a subscription is for; null is the device.
fn object(
    pointer: *const ffi::mlx5dv_devx_obj,
    owner: ContextId,
) -> Result<Option<ObjectId>, Errno> {
    if pointer.is_null() {
        return Ok(None);
    }
    let (_, context, id) = handle::look(pointer, |kind| match kind {
        Kind::Object(_, id) => Some(*id),
        _ => None,
    })?;
    (context == owner).then_some(Some(id)).ok_or(Errno::INVAL)
}

fn event(object: Option<ObjectId>, number: u16) -> Result<EventType, Errno> {
    let known = u8::try_from(number).ok().and_then(EventType::from_code);
    known
        .filter(|event| has_event(object, *event))
        .ok_or(Errno::INVAL)
}

/// Has events arrive at a channel. All of them or, on failure, none.
///
/// # Safety
/// `events` is readable, `size` bytes of it.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_subscribe_devx_event(
    to: *mut ffi::mlx5dv_devx_event_channel,
    of: *mut ffi::mlx5dv_devx_obj,
    size: u16,
    events: *mut u16,
    cookie: u64,
) -> c_int {
    number(channel(to).and_then(|(device, owner, channel)| {
        let object = object(of, owner)?;
        let count = usize::from(size) / size_of::<u16>();
        if events.is_null() || count == 0 || !usize::from(size).is_multiple_of(size_of::<u16>()) {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's array, readable by contract.
        let numbers = unsafe { core::slice::from_raw_parts(events, count) };
        let wanted: Result<Vec<EventType>, Errno> = numbers
            .iter()
            .map(|number| event(object, *number))
            .collect();
        let mut state = device.lock();
        for event in wanted? {
            let sink = Sink::Cookie(cookie);
            state.events.subscribe(channel, object, event, sink);
        }
        Ok(())
    }))
}

/// Has one kind of event add 1 to an eventfd, for as long as the channel is
/// there. What is no eventfd is refused with `EINVAL`.
///
/// # Safety
/// `fd` is an open descriptor.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_subscribe_devx_event_fd(
    to: *mut ffi::mlx5dv_devx_event_channel,
    fd: c_int,
    of: *mut ffi::mlx5dv_devx_obj,
    event_num: u16,
) -> c_int {
    number(channel(to).and_then(|(device, owner, channel)| {
        let object = object(of, owner)?;
        let event = event(object, event_num)?;
        if fd < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: open by contract, and only for this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let sink = Sink::Counter(eventfd_of(fd)?);
        let mut state = device.lock();
        state.events.subscribe(channel, object, event, sink);
        Ok(())
    }))
}

/// Reads one event; waits for it unless the descriptor was made non-blocking. Fails with
/// `EOVERFLOW`, once, if there were more events than a channel keeps.
/// Returns the number of bytes: the cookie, and the entry unless it is left
/// out.
///
/// # Safety
/// `out` is writable, `size` bytes of it.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn mlx5dv_devx_get_event(
    from: *mut ffi::mlx5dv_devx_event_channel,
    out: *mut ffi::mlx5_ib_uapi_devx_async_event_hdr,
    size: usize,
) -> isize {
    let found = handle::look(from, |kind| match kind {
        Kind::Channel(channel) => {
            let socket = Arc::clone(&channel.socket);
            Some((channel.number, socket, channel.omit_data))
        }
        _ => None,
    });
    let result = found.and_then(|(device, _, (number, socket, omit_data))| {
        let data = if omit_data { 0 } else { size_of::<Eqe>() };
        let need = size_of::<u64>() + data;
        if out.is_null() || size < need {
            return Err(Errno::INVAL);
        }
        device.lock().events.prepare(number)?;
        let mut message = vec![0; need];
        let len = rustix::io::read(&*socket, &mut message)?;
        // SAFETY: the caller's memory, writable by contract and long enough.
        unsafe { core::ptr::copy_nonoverlapping(message.as_ptr(), out.cast(), len) };
        Ok(len as isize)
    });
    result.unwrap_or_else(|error| {
        set(error);
        -1
    })
}
