//! The functions of `libcuda`, looked up at run time.

use super::error::CudaError;
use cudarc::driver::sys;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

/// An opaque pointer of the driver.
pub(super) type Handle = *mut c_void;

/// For each function of the driver its name, and a method that turns its result into one of
/// ours, and maybe holds a lock meanwhile.
macro_rules! functions {
    ($($method:ident = $name:literal ($($arg:ident: $type:ty),*) $(under $lock:ident)?;)*) => {
        #[derive(Clone, Copy)]
        struct Functions {
            $($method: unsafe extern "C" fn($($type),*) -> u32,)*
        }

        impl Functions {
            fn load() -> Result<Self, CudaError> {
                Ok(Self {
                    // SAFETY: the signatures below are those of the driver's header.
                    $($method: unsafe { lookup($name)? },)*
                })
            }
        }

        impl Driver {
            $(
                /// # Safety
                /// What the driver's documentation asks for.
                pub(super) unsafe fn $method(&self, $($arg: $type),*) -> Result<(), CudaError> {
                    $(let _held = self.$lock.lock().unwrap_or_else(PoisonError::into_inner);)?
                    // SAFETY: passed on to our caller.
                    self.check($name, unsafe { (self.functions.$method)($($arg),*) })
                }
            )*
        }
    };
}

functions! {
    init = "cuInit" (flags: c_uint);
    device_get_count = "cuDeviceGetCount" (count: *mut c_int);
    device_get = "cuDeviceGet" (device: *mut c_int, ordinal: c_int);
    device_get_name = "cuDeviceGetName" (name: *mut c_char, len: c_int, device: c_int);
    device_get_uuid = "cuDeviceGetUuid_v2" (uuid: *mut u8, device: c_int);
    device_get_attribute = "cuDeviceGetAttribute"
        (value: *mut c_int, attribute: sys::CUdevice_attribute, device: c_int);
    device_can_access_peer = "cuDeviceCanAccessPeer" (can: *mut c_int, device: c_int, peer: c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (context: *mut sys::CUcontext, device: c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (device: c_int);
    context_set_current = "cuCtxSetCurrent" (context: sys::CUcontext);
    context_push = "cuCtxPushCurrent_v2" (context: sys::CUcontext);
    context_pop = "cuCtxPopCurrent_v2" (context: *mut sys::CUcontext);
    capture_mode = "cuThreadExchangeStreamCaptureMode" (mode: *mut u32);
    stream_create = "cuStreamCreate" (stream: *mut sys::CUstream, flags: c_uint);
    stream_destroy = "cuStreamDestroy_v2" (stream: sys::CUstream);
    stream_query = "cuStreamQuery" (stream: sys::CUstream);
    copy_in = "cuMemcpyHtoDAsync_v2"
        (to: u64, from: *const c_void, bytes: usize, stream: sys::CUstream);
    copy_out = "cuMemcpyDtoHAsync_v2"
        (to: *mut c_void, from: u64, bytes: usize, stream: sys::CUstream);
    fill = "cuMemsetD8Async" (to: u64, value: u8, bytes: usize, stream: sys::CUstream);
    host_alloc = "cuMemHostAlloc" (memory: *mut Handle, bytes: usize, flags: c_uint);
    host_free = "cuMemFreeHost" (memory: Handle);
    mem_alloc = "cuMemAlloc_v2" (address: *mut u64, bytes: usize);
    mem_free = "cuMemFree_v2" (address: u64);
    mem_granularity = "cuMemGetAllocationGranularity"
        (bytes: *mut usize, of: *const sys::CUmemAllocationProp, which: c_uint);
    mem_create = "cuMemCreate"
        (handle: *mut u64, bytes: usize, of: *const sys::CUmemAllocationProp, flags: u64) under mappings;
    mem_release = "cuMemRelease" (handle: u64) under mappings;
    mem_export = "cuMemExportToShareableHandle"
        (file: *mut c_void, handle: u64, kind: sys::CUmemAllocationHandleType, flags: u64) under mappings;
    mem_import = "cuMemImportFromShareableHandle"
        (handle: *mut u64, file: *mut c_void, kind: sys::CUmemAllocationHandleType) under mappings;
    address_reserve = "cuMemAddressReserve"
        (address: *mut u64, bytes: usize, alignment: usize, hint: u64, flags: u64) under mappings;
    address_free = "cuMemAddressFree" (address: u64, bytes: usize) under mappings;
    mem_map = "cuMemMap" (address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) under mappings;
    mem_unmap = "cuMemUnmap" (address: u64, bytes: usize) under mappings;
    mem_set_access = "cuMemSetAccess"
        (address: u64, bytes: usize, of: *const sys::CUmemAccessDesc, count: usize) under mappings;
}

/// # Safety
/// `F` is a pointer to a function with the signature that `name` has in the driver, with
/// the result as a number.
unsafe fn lookup<F: Copy>(name: &'static str) -> Result<F, CudaError> {
    // SAFETY: loading the driver runs its initialisers, which is what it is made for. The
    // library is there, as `Driver::load` has seen, and stays loaded.
    let symbol = unsafe { sys::culib().get::<F>(name.as_bytes()) };
    symbol
        .map(|symbol| *symbol)
        .map_err(|_| CudaError::NoFunction { function: name })
}

/// The CUDA driver of this machine.
pub struct Driver {
    functions: Functions,
    error_name: unsafe extern "C" fn(u32, *mut *const c_char) -> u32,
    /// Held by whatever makes, passes on or maps memory that can be mapped: driver 580 corrupts
    /// its own memory when several threads take mappings of one allocation away at the same
    /// time. Mappings of allocations of their own, which is what others in the process have, are
    /// in nobody's way.
    mappings: Mutex<()>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// Loads and initialises the driver, once for the process.
    ///
    /// # Errors
    /// There is none, it is too old, or it does not work (no GPU, say).
    pub fn get() -> Result<&'static Self, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER
            .get_or_init(Self::load)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn load() -> Result<Self, CudaError> {
        // SAFETY: loading the driver runs its initialisers, which is what it is made for.
        // What comes after panics if it cannot be loaded.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let driver = Self {
            functions: Functions::load()?,
            // SAFETY: the signature is that of the driver's header.
            error_name: unsafe { lookup("cuGetErrorName")? },
            mappings: Mutex::new(()),
        };
        // SAFETY: takes no pointers.
        unsafe { driver.init(0)? };
        Ok(driver)
    }

    /// How many GPUs this process sees.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn device_count(&self) -> Result<u32, CudaError> {
        let mut count = 0;
        // SAFETY: `count` is written during the call.
        unsafe { self.device_get_count(&mut count)? };
        Ok(count.try_into().unwrap_or(0))
    }

    /// Turns a result code of the driver's function `call` into a result.
    ///
    /// # Errors
    /// The code is not 0.
    pub fn check(&self, call: &'static str, code: u32) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: `name` is written during the call.
        let known = unsafe { (self.error_name)(code, &mut name) } == 0 && !name.is_null();
        let name = if known {
            // SAFETY: the driver's own string, which is never freed.
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned()
        } else {
            "a result without a name".to_owned()
        };
        Err(CudaError::Call { call, code, name })
    }

    /// Looks up another function of the driver, for callers that need more than this module
    /// has. Its result goes through [`Driver::check`].
    ///
    /// # Errors
    /// The driver has no function of this name.
    ///
    /// # Safety
    /// `F` is a pointer to a function with the signature that the driver's header has for
    /// `name`, with the result as `u32`.
    pub unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F, CudaError> {
        // SAFETY: passed on to our caller.
        unsafe { lookup(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes on any machine: what must not happen is a panic.
    #[test]
    fn a_machine_without_a_driver_is_an_error_value() {
        match Driver::get() {
            Ok(driver) => assert!(driver.device_count().is_ok()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert_eq!(Driver::get().is_ok(), Driver::get().is_ok());
    }
}
