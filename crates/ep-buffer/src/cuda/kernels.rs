//! The kernels, loaded into a GPU's context, and how they are launched.

use super::args::{Args, THREADS_COMBINE, THREADS_DISPATCH, THREADS_LARGE, THREADS_SMALL};
use cudarc::driver::sys;
use ep_transport::cuda::{CudaError, Device};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// Made by `cargo xtask kernels` from the sources beside it.
static BINARY: &[u8] = include_bytes!("../../kernels/ep.fatbin");

/// Shared memory that a block may ask for.
pub(super) const MAX_SHARED_BYTES: u32 = 200 << 10;
/// Batches of up to so many tokens run with fewer threads, which start sooner.
const SMALL_BATCH: u32 = 16;
/// Threads of a block in a dispatch. Larger batches than middling ones have kernels in which there
/// is work for each warp many times over.
pub(super) const DISPATCH_THREADS: BySize<u32> = BySize {
    small: THREADS_SMALL,
    middling: THREADS_DISPATCH,
    middling_batch: 128,
    large: THREADS_LARGE,
};
/// The same in a combine, whose middling kernel is the faster one for more tokens.
const COMBINE_THREADS: BySize<u32> = BySize {
    small: THREADS_SMALL,
    middling: THREADS_COMBINE,
    middling_batch: 256,
    large: THREADS_LARGE,
};

type Module = *mut c_void;
type Function = *mut c_void;
type LaunchKernel = unsafe extern "C" fn(
    *const sys::CUlaunchConfig,
    Function,
    *mut *mut c_void,
    *mut *mut c_void,
) -> u32;

/// How a kernel is put on a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) blocks: u32,
    pub(super) shared_bytes: u32,
    /// While the kernel before it is still running.
    pub(super) early: bool,
    pub(super) stream: sys::CUstream,
}

/// A kernel and the threads of its blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    function: Function,
    pub(super) threads: u32,
}

/// One each for small, middling and large batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct BySize<T> {
    small: T,
    middling: T,
    /// Tokens up to which `middling` is taken.
    middling_batch: u32,
    large: T,
}

impl<T: Copy> BySize<T> {
    /// The large one only where it `fits`.
    pub(super) fn of(&self, tokens: u32, fits: impl Fn(T) -> bool) -> T {
        match tokens {
            0..=SMALL_BATCH => self.small,
            _ if tokens > self.middling_batch && fits(self.large) => self.large,
            _ => self.middling,
        }
    }
}

/// A binary on a GPU, until this is dropped.
#[derive(Debug)]
struct Binary {
    device: Arc<Device>,
    module: Module,
}

/// The loaded kernels.
#[derive(Debug)]
pub(super) struct Kernels {
    binary: Binary,
    launch: LaunchKernel,
    dispatch_bf16: BySize<Kernel>,
    dispatch_fp8: BySize<Kernel>,
    combine: BySize<Kernel>,
    push: Kernel,
    nothing: Kernel,
}

// SAFETY: functions and modules of the driver may be used from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above; the value does not change.
unsafe impl Sync for Kernels {}

impl Kernels {
    pub(super) fn load(device: &Arc<Device>) -> Result<Self, CudaError> {
        type Find = unsafe extern "C" fn(*mut Function, Module, *const c_char) -> u32;
        type Set = unsafe extern "C" fn(Function, c_int, c_int) -> u32;
        type Now = unsafe extern "C" fn(Function) -> u32;
        /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
        const MAX_DYNAMIC_SHARED: c_int = 8;
        let driver = device.driver();
        let _scope = device.scope()?;
        let binary = Binary::load(device)?;
        // SAFETY: the signatures are those of the driver's header.
        let (find, set, launch) = unsafe {
            let find: Find = driver.function("cuModuleGetFunction")?;
            let set: Set = driver.function("cuFuncSetAttribute")?;
            (find, set, driver.function("cuLaunchKernelEx")?)
        };
        // Loaded at its first launch, a kernel would wait for all that run, which may be
        // waiting for it. Drivers before 12.4 always load at once.
        // SAFETY: as above.
        let load_now = unsafe { driver.function::<Now>("cuFuncLoad") }.ok();
        let kernel = |name: &'static CStr, threads| {
            let mut function = std::ptr::null_mut();
            // SAFETY: the module is loaded; `function` is written during the call.
            unsafe {
                let found = find(&mut function, binary.module, name.as_ptr());
                driver.check("cuModuleGetFunction", found)?;
                let shared = MAX_SHARED_BYTES as c_int;
                let raised = set(function, MAX_DYNAMIC_SHARED, shared);
                driver.check("cuFuncSetAttribute", raised)?;
                if let Some(load_now) = load_now {
                    driver.check("cuFuncLoad", load_now(function))?;
                }
            }
            Ok(Kernel { function, threads })
        };
        let sizes = |[small, middling, large]: [&'static CStr; 3], threads: BySize<u32>| {
            Ok(BySize {
                small: kernel(small, threads.small)?,
                middling: kernel(middling, threads.middling)?,
                middling_batch: threads.middling_batch,
                large: kernel(large, threads.large)?,
            })
        };
        let dispatch = |names| sizes(names, DISPATCH_THREADS);
        let combine = |names| sizes(names, COMBINE_THREADS);
        Ok(Self {
            dispatch_bf16: dispatch([
                c"ep_dispatch_bf16_small",
                c"ep_dispatch_bf16_middling",
                c"ep_dispatch_bf16_large",
            ])?,
            dispatch_fp8: dispatch([
                c"ep_dispatch_fp8_small",
                c"ep_dispatch_fp8_middling",
                c"ep_dispatch_fp8_large",
            ])?,
            combine: combine([
                c"ep_combine_small",
                c"ep_combine_middling",
                c"ep_combine_large",
            ])?,
            push: kernel(c"ep_push", 512)?,
            nothing: kernel(c"ep_nothing", 512)?,
            launch,
            binary,
        })
    }

    /// `fits`: whether one of so many threads can be launched.
    pub(super) fn dispatch(&self, fp8: bool, tokens: u32, fits: impl Fn(u32) -> bool) -> Kernel {
        let by_size = match fp8 {
            true => &self.dispatch_fp8,
            false => &self.dispatch_bf16,
        };
        by_size.of(tokens, |kernel| fits(kernel.threads))
    }

    pub(super) fn combine(&self, tokens: u32) -> Kernel {
        self.combine.of(tokens, |_| true)
    }

    pub(super) fn push(&self) -> Kernel {
        self.push
    }

    pub(super) fn nothing(&self) -> Kernel {
        self.nothing
    }

    /// Puts a kernel on a stream.
    ///
    /// # Safety
    /// All addresses in `args` are those of memory that has the size that the kernel takes
    /// it to have, and stays until the kernel, and all graphs that hold it, are through.
    /// The stream is one of this device.
    pub(super) unsafe fn launch(
        &self,
        kernel: Kernel,
        launch: Launch,
        args: &Args,
        more: u64,
    ) -> Result<(), CudaError> {
        let device = &self.binary.device;
        let _scope = device.scope()?;
        let mut parameters = [
            std::ptr::from_ref(args).cast_mut().cast::<c_void>(),
            std::ptr::from_ref(&more).cast_mut().cast(),
        ];
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: launch.stream,
            attrs: &raw mut early,
            numAttrs: launch.early.into(),
        };
        // SAFETY: a kernel takes one or two parameters, of these types, which are copied
        // during the call, as the configuration is; our caller vouches for what they
        // point to.
        let code = unsafe {
            (self.launch)(
                &raw const config,
                kernel.function,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        device.driver().check("cuLaunchKernelEx", code)
    }
}

impl Binary {
    fn load(device: &Arc<Device>) -> Result<Self, CudaError> {
        type Load = unsafe extern "C" fn(*mut Module, *const c_void) -> u32;
        let driver = device.driver();
        let _scope = device.scope()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the signature is that of the driver's header; a fat binary says itself how
        // long it is.
        let code = unsafe {
            let load: Load = driver.function("cuModuleLoadData")?;
            load(&mut module, BINARY.as_ptr().cast())
        };
        driver.check("cuModuleLoadData", code)?;
        Ok(Self {
            device: Arc::clone(device),
            module,
        })
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        type Unload = unsafe extern "C" fn(Module) -> u32;
        let Ok(_scope) = self.device.scope() else {
            return;
        };
        // SAFETY: the signature is that of the driver's header; loaded by `load`. Whoever
        // drops a buffer has seen to it that nothing of it runs any more.
        unsafe {
            if let Ok(unload) = self.device.driver().function::<Unload>("cuModuleUnload") {
                let _ = unload(self.module);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_batches_have_their_kernel_where_it_fits() {
        for (threads, next) in [(DISPATCH_THREADS, 129), (COMBINE_THREADS, 257)] {
            let kernels = BySize {
                small: 1,
                middling: 2,
                middling_batch: threads.middling_batch,
                large: 3,
            };
            let chosen = |most: u32| {
                [0, 16, 17, next - 1, next, 65_535]
                    .map(|tokens| kernels.of(tokens, |kernel| kernel <= most))
            };
            assert_eq!(chosen(3), [1, 1, 2, 2, 3, 3]);
            assert_eq!(chosen(2), [1, 1, 2, 2, 2, 2]);
        }
    }
}
