//! Everything that a client holds a pointer to.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx5gda_sys::ffi;
use rustix::io::Errno;

use super::channel::ClientChannel;
use super::extended::VerbsContext;
use crate::device::{ContextId, Device, ObjectId};
use crate::process::PerProcess;

/// A heap value that a client has a pointer to.
///
/// # Invariants
/// The pointer came from a `Box` and is freed by this value only.
#[derive(Debug)]
pub(super) struct Owned<T>(NonNull<T>);

// SAFETY: this side only frees the value; clients synchronise their own use.
unsafe impl<T> Send for Owned<T> {}

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    pub(super) const fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by the invariant; the client was told that the object is gone.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// An open context.
pub(super) struct Context {
    pub(super) value: Owned<VerbsContext>,
    /// Where asynchronous events are announced.
    pub(super) events: Arc<OwnedFd>,
}

/// What a pointer stands for.
pub(super) enum Kind {
    Context(Context),
    Pd(Owned<ffi::ibv_pd>, u32),
    Mr(Owned<ffi::ibv_mr>, u32),
    Umem(Owned<ffi::mlx5dv_devx_umem>, u32),
    Uar(Owned<ffi::mlx5dv_devx_uar>, u32),
    Object(Owned<u64>, ObjectId),
    /// A path, the address vector of the device for it, and the address of its
    /// protection domain.
    Ah(Owned<ffi::ibv_ah>, Owned<ffi::mlx5_wqe_av>, usize),
    Channel(ClientChannel),
}

impl Kind {
    fn address(&self) -> usize {
        match self {
            Self::Context(context) => VerbsContext::context(context.value.as_ptr()).addr(),
            Self::Pd(value, _) => value.as_ptr().addr(),
            Self::Mr(value, _) => value.as_ptr().addr(),
            Self::Umem(value, _) => value.as_ptr().addr(),
            Self::Uar(value, _) => value.as_ptr().addr(),
            Self::Object(value, _) => value.as_ptr().addr(),
            Self::Ah(value, ..) => value.as_ptr().addr(),
            Self::Channel(channel) => channel.value.as_ptr().addr(),
        }
    }
}

/// An entry of the table of pointers.
pub(super) struct Handle {
    pub(super) device: Arc<Device>,
    pub(super) context: ContextId,
    pub(super) kind: Kind,
}

static HANDLES: PerProcess<Mutex<HashMap<usize, Handle>>> = PerProcess::new();

fn handles() -> MutexGuard<'static, HashMap<usize, Handle>> {
    HANDLES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a handle.
pub(super) fn insert(device: &Arc<Device>, context: ContextId, kind: Kind) {
    let handle = Handle {
        device: Arc::clone(device),
        context,
        kind,
    };
    handles().insert(handle.kind.address(), handle);
}

/// Looks a pointer up; `pick` says whether it is of the kind wanted.
pub(super) fn look<T, R>(
    pointer: *const T,
    pick: impl FnOnce(&Kind) -> Option<R>,
) -> Result<(Arc<Device>, ContextId, R), Errno> {
    let handles = handles();
    let handle = handles.get(&pointer.addr()).ok_or(Errno::INVAL)?;
    let picked = pick(&handle.kind).ok_or(Errno::INVAL)?;
    Ok((Arc::clone(&handle.device), handle.context, picked))
}

/// The context behind a pointer.
pub(super) fn context(pointer: *const ffi::ibv_context) -> Result<(Arc<Device>, ContextId), Errno> {
    look(pointer, |kind| {
        matches!(kind, Kind::Context(_)).then_some(())
    })
    .map(|(device, context, ())| (device, context))
}

/// Whether there are address handles of a protection domain.
pub(super) fn has_paths(pd: *const ffi::ibv_pd) -> bool {
    handles()
        .values()
        .any(|handle| matches!(&handle.kind, Kind::Ah(_, _, of) if *of == pd.addr()))
}

/// Forgets a pointer and frees what it points to.
pub(super) fn remove<T>(pointer: *const T) {
    handles().remove(&pointer.addr());
}

/// Forgets all pointers of a context, itself included.
pub(super) fn remove_context(context: ContextId) {
    handles().retain(|_, handle| handle.context != context);
}
