//! An open device and the commands sent to it.

use super::VerbsError;
use super::leftover::{Leftovers, Object};
use super::nearest::nearest_nics;
use super::port::Port;
use crate::config::{GidChoice, Nic};
use crate::region::Region;
use mlx5gda_sys::ffi;
#[cfg(all(test, feature = "soft"))]
use mlx5gda_sys::prm::CommandIn;
use mlx5gda_sys::prm::{CmdStatus, Layout, Mailbox, OutHeader};
use mlx5gda_sys::table::FnTable;
use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open device context.
///
/// # Invariants
/// `context` is open until drop; every object made from it holds the `Device`.
pub(crate) struct Device {
    table: FnTable,
    context: NonNull<ffi::ibv_context>,
    name: String,
    port: Port,
    commands: AtomicU64,
    leftovers: Leftovers,
}

// SAFETY: verbs contexts may be used from any thread (ibv_open_device and the devx
// calls are thread-safe); the table holds plain function pointers.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Device {
    pub(crate) fn open(nic: &Nic, gid: GidChoice) -> Result<Arc<Self>, VerbsError> {
        match nic {
            #[cfg(feature = "soft")]
            Nic::Soft { address } => {
                let mut config = soft_hca::Config::from_env().map_err(soft_hca::Error::from)?;
                if let Some(address) = address {
                    config.addresses = vec![(*address).into()];
                }
                Self::from_table(soft_hca::fn_table(config)?, None, 1, gid)
            }
            #[cfg(feature = "soft")]
            Nic::SoftWith { config } => {
                Self::from_table(soft_hca::fn_table((**config).clone())?, None, 1, gid)
            }
            Nic::System { device, port } => {
                Self::from_table(FnTable::load()?, device.as_deref(), *port, gid)
            }
            Nic::Nearest { gpu, port } => {
                let names = nearest_nics(Path::new("/sys"), *gpu, 1)?;
                Self::from_table(
                    FnTable::load()?,
                    names.first().map(String::as_str),
                    *port,
                    gid,
                )
            }
        }
    }

    fn from_table(
        table: FnTable,
        wanted: Option<&str>,
        port: u8,
        gid: GidChoice,
    ) -> Result<Arc<Self>, VerbsError> {
        let (context, name) = open_context(&table, wanted)?;
        let mut device = Self {
            table,
            context,
            name,
            port: Port::default(),
            commands: AtomicU64::new(0),
            leftovers: Leftovers::default(),
        };
        // From here on an early return closes the context through drop.
        device.port = Port::query(&device, port, gid)?;
        Ok(Arc::new(device))
    }

    pub(crate) fn table(&self) -> &FnTable {
        &self.table
    }

    pub(crate) fn context(&self) -> *mut ffi::ibv_context {
        self.context.as_ptr()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn port(&self) -> &Port {
        &self.port
    }

    /// Commands sent so far.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    pub(super) fn count_command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// Destroys an object, now or when the context is closed; until then its memory stays.
    ///
    /// # Safety
    /// It is alive and of this context, and nobody uses it any more.
    pub(super) unsafe fn destroy(&self, object: Object, memory: Option<&Arc<Region>>) {
        // Whether a page was freed is not said: it is not while a queue is left that uses it.
        let later = matches!(object, Object::Uar(_)) && !self.leftovers.is_empty();
        // SAFETY: by our contract; the context is open (invariant).
        if later || !unsafe { object.destroy(&self.table) } {
            tracing::debug!(device = self.name, ?object, "not destroyed yet");
            self.leftovers.keep(object, memory.cloned());
        }
    }

    pub(super) fn call_failed(call: &'static str, object: &str) -> VerbsError {
        VerbsError::Call {
            call,
            object: object.to_owned(),
            source: io::Error::last_os_error(),
        }
    }

    /// Index of the event queue for completion vector 0.
    pub(super) fn event_queue(&self) -> Result<u32, VerbsError> {
        let mut eqn = 0;
        self.count_command();
        // SAFETY: the context is open (invariant) and `eqn` is writable.
        let status =
            unsafe { (self.table.mlx5dv_devx_query_eqn)(self.context.as_ptr(), 0, &mut eqn) };
        if status != 0 {
            return Err(VerbsError::Call {
                call: "mlx5dv_devx_query_eqn",
                object: self.name.clone(),
                source: io::Error::from_raw_os_error(status),
            });
        }
        Ok(eqn)
    }

    /// Creates a devx object by a command; destroyed when dropped.
    pub(super) fn create<I: Layout, O: Layout>(
        self: &Arc<Self>,
        command: &'static str,
        input: &Mailbox<I>,
        output: &mut Mailbox<O>,
    ) -> Result<DevxObject, VerbsError> {
        self.count_command();
        // SAFETY: the context is open (invariant); both mailboxes are as long as
        // said and aligned for the call.
        let object = unsafe {
            (self.table.mlx5dv_devx_obj_create)(
                self.context.as_ptr(),
                input.as_ptr(),
                input.size(),
                output.as_mut_ptr(),
                output.size(),
            )
        };
        match NonNull::new(object) {
            Some(object) => Ok(DevxObject {
                device: Arc::clone(self),
                object,
            }),
            None => Err(refused(
                command,
                &self.name,
                output,
                io::Error::last_os_error(),
            )),
        }
    }
}

fn refused<O: Layout>(
    command: &'static str,
    object: &str,
    output: &Mailbox<O>,
    source: io::Error,
) -> VerbsError {
    let object = object.to_owned();
    let header = OutHeader::from_slice(output.as_bytes()).copied();
    match header.map(|header| (CmdStatus::from_code(header.status()), header.syndrome())) {
        Some((status, syndrome)) if status != CmdStatus::Ok => VerbsError::Command {
            command,
            object,
            status,
            syndrome,
        },
        _ => VerbsError::Call {
            call: command,
            object,
            source,
        },
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the context is open (invariant).
        let (refused, memory) = unsafe { self.leftovers.destroy(&self.table) };
        if refused > 0 {
            tracing::warn!(
                device = self.name,
                refused,
                "objects are left to be freed with their context"
            );
        }
        // SAFETY: the context is open (invariant) and nothing uses it any more:
        // every object made from it held this device.
        unsafe { (self.table.ibv_close_device)(self.context.as_ptr()) };
        // Now nothing reaches it.
        drop(memory);
    }
}

fn open_context(
    table: &FnTable,
    wanted: Option<&str>,
) -> Result<(NonNull<ffi::ibv_context>, String), VerbsError> {
    let mut count = 0;
    // SAFETY: `count` is writable; the list is freed below.
    let list = unsafe { (table.ibv_get_device_list)(&mut count) };
    let Some(list) = NonNull::new(list) else {
        return Err(Device::call_failed("ibv_get_device_list", "this machine"));
    };
    let mut found = Vec::new();
    let mut opened = None;
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the list has `count` entries.
        let device = unsafe { *list.as_ptr().add(i) };
        // SAFETY: `device` comes from the list; the name is a C string that lives
        // as long as the list.
        let name = unsafe { CStr::from_ptr((table.ibv_get_device_name)(device)) };
        let name = name.to_string_lossy().into_owned();
        if opened.is_none() && wanted.is_none_or(|wanted| wanted == name) {
            let mut attributes = ffi::mlx5dv_context_attr {
                flags: ffi::MLX5DV_CONTEXT_FLAGS_DEVX,
                comp_mask: 0,
            };
            // SAFETY: `device` comes from the list and `attributes` is filled in.
            let context = unsafe { (table.mlx5dv_open_device)(device, &mut attributes) };
            opened = Some((context, name.clone()));
            if context.is_null() {
                break;
            }
        }
        found.push(name);
    }
    let error = io::Error::last_os_error();
    // SAFETY: the list came from ibv_get_device_list; open contexts outlive it.
    unsafe { (table.ibv_free_device_list)(list.as_ptr()) };
    match opened {
        Some((context, name)) => match NonNull::new(context) {
            Some(context) => Ok((context, name)),
            None => Err(VerbsError::Call {
                call: "mlx5dv_open_device",
                object: name,
                source: error,
            }),
        },
        None => Err(VerbsError::NoDevice {
            wanted: wanted.unwrap_or("of any name").to_owned(),
            found: if found.is_empty() {
                "none".into()
            } else {
                found.join(", ")
            },
        }),
    }
}

/// A firmware object.
///
/// # Invariants
/// `object` was returned by devx object creation and is destroyed only by drop.
#[derive(Debug)]
pub(super) struct DevxObject {
    device: Arc<Device>,
    object: NonNull<ffi::mlx5dv_devx_obj>,
}

// SAFETY: devx objects may be used from any thread.
unsafe impl Send for DevxObject {}
// SAFETY: as above.
unsafe impl Sync for DevxObject {}

impl DevxObject {
    /// Changes the object by a command.
    pub(super) fn modify<I: Layout, O: Layout>(
        &self,
        command: &'static str,
        name: &str,
        input: &Mailbox<I>,
        output: &mut Mailbox<O>,
    ) -> Result<(), VerbsError> {
        self.device.count_command();
        // SAFETY: the object lives (invariant); both mailboxes are as long as said
        // and aligned for the call.
        let status = unsafe {
            (self.device.table.mlx5dv_devx_obj_modify)(
                self.object.as_ptr(),
                input.as_ptr(),
                input.size(),
                output.as_mut_ptr(),
                output.size(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let source = if status > 0 {
            io::Error::from_raw_os_error(status)
        } else {
            io::Error::last_os_error()
        };
        Err(refused(command, name, output, source))
    }

    /// What the device says of the object.
    #[cfg(all(test, feature = "soft"))]
    pub(super) fn query<I: CommandIn>(&self, input: &Mailbox<I>) -> Mailbox<I::Out> {
        let mut output = Mailbox::<I::Out>::zeroed();
        // SAFETY: as for `modify`.
        let status = unsafe {
            (self.device.table.mlx5dv_devx_obj_query)(
                self.object.as_ptr(),
                input.as_ptr(),
                input.size(),
                output.as_mut_ptr(),
                output.size(),
            )
        };
        assert_eq!(status, 0);
        output
    }
}

impl Drop for DevxObject {
    fn drop(&mut self) {
        self.device.count_command();
        // SAFETY: the object lives (invariant) and nothing uses it any more.
        unsafe { self.device.destroy(Object::Devx(self.object), None) };
    }
}
