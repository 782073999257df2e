//! The function table: libibverbs and libmlx5, loaded at run time, or whoever stands in for them.

use core::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::os::unix::Library;

use crate::ffi;

/// File name of libibverbs.
pub const IBVERBS: &str = "libibverbs.so.1";

/// File name of libmlx5.
pub const MLX5: &str = "libmlx5.so.1";

/// The function type inside a nullable one, which is what the headers give.
pub trait Nullable {
    /// The type of a function that is there.
    type Fn;
}

impl<F> Nullable for Option<F> {
    type Fn = F;
}

macro_rules! functions {
    (
        $($library:ident {
            $($(#[$doc:meta])* $name:ident: $ty:ident,)*
        })*
    ) => {
        /// The functions of libibverbs and libmlx5 that this project calls, under their C names
        /// and with the types of the headers.
        ///
        /// # Safety
        /// Each is called under the rules of its manual page. A copy that came out of a
        /// [`FnTable`] must not be called after the last clone of that table is gone.
        #[derive(Clone, Copy, Debug)]
        pub struct Functions {
            $($($(#[$doc])* pub $name: <ffi::$ty as Nullable>::Fn,)*)*
        }

        impl Functions {
            /// The exported symbol of every field, and the library that exports it.
            pub const SYMBOLS: &'static [(&'static str, &'static str)] =
                &[$($((stringify!($name), $library),)*)*];

            fn look_up(libraries: &Libraries) -> Result<Self, LoadError> {
                Ok(Self {
                    // SAFETY: the field's type is the type of the symbol in the header of the
                    // library that carries this version in its file name.
                    $($($name: unsafe {
                        symbol(libraries, $library, stringify!($name))?
                    },)*)*
                })
            }
        }
    };
}

functions! {
    IBVERBS {
        /// Lists the devices; null with `errno` on failure.
        ibv_get_device_list: fn_ibv_get_device_list,
        /// Frees the list, and the devices that are not open.
        ibv_free_device_list: fn_ibv_free_device_list,
        /// Kernel name of a device.
        ibv_get_device_name: fn_ibv_get_device_name,
        /// Opens a device.
        ibv_open_device: fn_ibv_open_device,
        /// Closes a device.
        ibv_close_device: fn_ibv_close_device,
        /// Attributes of a device.
        ibv_query_device: fn_ibv_query_device,
        /// Attributes of a port. The exported function fills the fields of [`ffi::ibv_port_attr`]
        /// up to `flags` and no others: pass a zeroed one.
        ibv_query_port: fn_ibv_query_port,
        /// One entry of the GID table.
        ibv_query_gid: fn_ibv_query_gid,
        /// One entry of the GID table with its type; the last argument is the size of
        /// [`ffi::ibv_gid_entry`].
        _ibv_query_gid_ex: fn__ibv_query_gid_ex,
        /// Allocates a protection domain.
        ibv_alloc_pd: fn_ibv_alloc_pd,
        /// Frees a protection domain.
        ibv_dealloc_pd: fn_ibv_dealloc_pd,
        /// Registers memory.
        ibv_reg_mr: fn_ibv_reg_mr,
        /// Registers memory at a chosen I/O address, with optional access flags.
        ibv_reg_mr_iova2: fn_ibv_reg_mr_iova2,
        /// Registers memory behind a dmabuf descriptor.
        ibv_reg_dmabuf_mr: fn_ibv_reg_dmabuf_mr,
        /// Deregisters memory.
        ibv_dereg_mr: fn_ibv_dereg_mr,
        /// Resolves a path to a peer.
        ibv_create_ah: fn_ibv_create_ah,
        /// Frees a resolved path.
        ibv_destroy_ah: fn_ibv_destroy_ah,
        /// Reads one asynchronous event; blocks unless `async_fd` is set not to.
        ibv_get_async_event: fn_ibv_get_async_event,
        /// Acknowledges an asynchronous event.
        ibv_ack_async_event: fn_ibv_ack_async_event,
    }
    MLX5 {
        /// Whether a device is an mlx5 device.
        mlx5dv_is_supported: fn_mlx5dv_is_supported,
        /// Opens a device with attributes, devx among them.
        mlx5dv_open_device: fn_mlx5dv_open_device,
        /// Reads the device's numbers of verbs objects.
        mlx5dv_init_obj: fn_mlx5dv_init_obj,
        /// Runs a command that creates nothing.
        mlx5dv_devx_general_cmd: fn_mlx5dv_devx_general_cmd,
        /// Runs a command that creates an object.
        mlx5dv_devx_obj_create: fn_mlx5dv_devx_obj_create,
        /// Runs a command that reads an object.
        mlx5dv_devx_obj_query: fn_mlx5dv_devx_obj_query,
        /// Runs a command that changes an object.
        mlx5dv_devx_obj_modify: fn_mlx5dv_devx_obj_modify,
        /// Destroys an object.
        mlx5dv_devx_obj_destroy: fn_mlx5dv_devx_obj_destroy,
        /// Registers memory for queues and doorbell records.
        mlx5dv_devx_umem_reg: fn_mlx5dv_devx_umem_reg,
        /// Deregisters such memory.
        mlx5dv_devx_umem_dereg: fn_mlx5dv_devx_umem_dereg,
        /// Allocates and maps a UAR page.
        mlx5dv_devx_alloc_uar: fn_mlx5dv_devx_alloc_uar,
        /// Frees a UAR page.
        mlx5dv_devx_free_uar: fn_mlx5dv_devx_free_uar,
        /// Number of the event queue of a completion vector.
        mlx5dv_devx_query_eqn: fn_mlx5dv_devx_query_eqn,
        /// Makes a channel that events of the device arrive at.
        mlx5dv_devx_create_event_channel: fn_mlx5dv_devx_create_event_channel,
        /// Ends a channel and its subscriptions.
        mlx5dv_devx_destroy_event_channel: fn_mlx5dv_devx_destroy_event_channel,
        /// Has events of an object, or of the device, arrive at a channel.
        mlx5dv_devx_subscribe_devx_event: fn_mlx5dv_devx_subscribe_devx_event,
        /// Has one kind of event add 1 to an eventfd.
        mlx5dv_devx_subscribe_devx_event_fd: fn_mlx5dv_devx_subscribe_devx_event_fd,
        /// Reads one event from a channel; the number of bytes, or -1 with `errno`.
        mlx5dv_devx_get_event: fn_mlx5dv_devx_get_event,
    }
}

/// Why the libraries could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A library could not be opened.
    #[error("cannot load {}", path.display())]
    Library {
        /// The file, or its bare name where the system's search path was used.
        path: PathBuf,
        /// What the dynamic linker said.
        source: libloading::Error,
    },
    /// A library lacks a function.
    #[error("{library} has no function {symbol}")]
    Symbol {
        /// File name of the library.
        library: &'static str,
        /// Name of the function.
        symbol: &'static str,
        /// What the dynamic linker said; nothing where the function is there but null.
        source: Option<libloading::Error>,
    },
}

#[derive(Debug)]
struct Libraries {
    ibverbs: Library,
    mlx5: Library,
}

/// A set of [`Functions`] with what keeps them callable.
///
/// Clones share the loaded libraries, which are closed with the last of them.
#[derive(Clone, Debug)]
pub struct FnTable {
    functions: Functions,
    libraries: Option<Arc<Libraries>>,
}

impl FnTable {
    /// Loads the system's libraries.
    ///
    /// # Errors
    /// A library that is not found or does not load, a function that is missing.
    pub fn load() -> Result<Self, LoadError> {
        Self::open(Path::new(""))
    }

    /// Loads the libraries that lie in `dir`.
    ///
    /// # Errors
    /// As [`FnTable::load`].
    pub fn load_from(dir: &Path) -> Result<Self, LoadError> {
        // A path without a slash would be searched for on the system.
        Self::open(&Path::new(".").join(dir))
    }

    /// Takes functions that live as long as the process.
    #[must_use]
    pub const fn from_static(functions: Functions) -> Self {
        Self {
            functions,
            libraries: None,
        }
    }

    /// Whether the functions come from libraries that were loaded.
    #[must_use]
    pub const fn is_loaded(&self) -> bool {
        self.libraries.is_some()
    }

    fn open(dir: &Path) -> Result<Self, LoadError> {
        // libmlx5 depends on libibverbs and finds the one that is there already.
        let libraries = Libraries {
            ibverbs: library(dir, IBVERBS)?,
            mlx5: library(dir, MLX5)?,
        };
        Ok(Self {
            functions: Functions::look_up(&libraries)?,
            libraries: Some(Arc::new(libraries)),
        })
    }
}

impl Deref for FnTable {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

fn library(dir: &Path, name: &str) -> Result<Library, LoadError> {
    let path = dir.join(name);
    // SAFETY: the initialisers of rdma-core's libraries, and of libraries made to replace them,
    // set up their own state only and may run on any thread.
    unsafe { Library::new(&path) }.map_err(|source| LoadError::Library { path, source })
}

/// # Safety
/// `T` is the function pointer type of `name` in `library`.
unsafe fn symbol<T: Copy>(
    libraries: &Libraries,
    library: &'static str,
    name: &'static str,
) -> Result<T, LoadError> {
    let from = if library == IBVERBS {
        &libraries.ibverbs
    } else {
        &libraries.mlx5
    };
    let missing = |source| LoadError::Symbol {
        library,
        symbol: name,
        source,
    };
    // SAFETY: the caller vouches for the type, and null is a value of its `Option`.
    match unsafe { from.get::<Option<T>>(name) } {
        Ok(found) => found.ok_or_else(|| missing(None)),
        Err(source) => Err(missing(Some(source))),
    }
}
