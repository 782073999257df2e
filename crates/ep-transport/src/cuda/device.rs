//! One GPU.

use super::copies::Copies;
use super::driver::Driver;
use super::error::CudaError;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use std::ffi::c_int;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`
const RELAXED: u32 = 2;

/// Which GPU it is, whatever number a process gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    /// As `nvidia-smi -L` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 0 | 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A GPU and its primary context, which the CUDA runtime and `cudarc` use too.
pub struct Device {
    driver: &'static Driver,
    ordinal: u32,
    handle: c_int,
    context: sys::CUcontext,
    uuid: Uuid,
    copies: OnceLock<Copies>,
}

// SAFETY: the driver's functions may be called from any thread, and a context may be
// current in many of them. The value itself is changed only through `OnceLock`.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("ordinal", &self.ordinal)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Opens the GPU that this process knows by this number, and keeps its primary context.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or its context cannot be made.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, CudaError> {
        let driver = Driver::get()?;
        let handle = handle(driver, ordinal)?;
        let uuid = uuid(driver, handle)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: `context` is written during the call.
        unsafe { driver.context_retain(&mut context, handle)? };
        Ok(Arc::new(Self {
            driver,
            ordinal,
            handle,
            context,
            uuid,
            copies: OnceLock::new(),
        }))
    }

    /// The driver.
    #[must_use]
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// The number by which this process knows the GPU.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The primary context.
    #[must_use]
    pub fn context(&self) -> sys::CUcontext {
        self.context
    }

    /// The GPU's identity.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The GPU's name, as in `NVIDIA H100 80GB HBM3`.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn name(&self) -> Result<String, CudaError> {
        let mut name = [0_u8; 128];
        // SAFETY: there is room for as many bytes as are named; the driver ends the name
        // with a 0.
        unsafe {
            let (to, room) = (name.as_mut_ptr().cast(), name.len() as c_int);
            self.driver.device_get_name(to, room, self.handle)?;
        };
        let end = name.iter().position(|byte| *byte == 0);
        let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// An attribute of the GPU.
    ///
    /// # Errors
    /// The driver does not know it.
    pub fn attribute(&self, attribute: Attribute) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: `value` is written during the call.
        unsafe {
            let driver = self.driver;
            driver.device_get_attribute(&mut value, attribute, self.handle)?;
        }
        Ok(value)
    }

    /// Streaming multiprocessors.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn sm_count(&self) -> Result<u32, CudaError> {
        let count = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(count.unsigned_abs())
    }

    /// Compute capability, as in (9, 0).
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn compute_capability(&self) -> Result<(u32, u32), CudaError> {
        let major = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// Shared memory in bytes that a thread block can ask for.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn shared_bytes_per_block(&self) -> Result<u32, CudaError> {
        let bytes = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        Ok(self.attribute(bytes)?.unsigned_abs())
    }

    /// Refuses a GPU without `attribute`.
    pub(super) fn require(
        &self,
        attribute: Attribute,
        what: &'static str,
    ) -> Result<(), CudaError> {
        if self.attribute(attribute)? != 0 {
            return Ok(());
        }
        Err(CudaError::Unsupported {
            ordinal: self.ordinal,
            uuid: self.uuid,
            what,
        })
    }

    /// Whether this GPU reaches the memory of the one that this process knows as `peer`.
    ///
    /// # Errors
    /// There is no such GPU, or the driver does not answer.
    pub fn can_access_peer(&self, peer: u32) -> Result<bool, CudaError> {
        let peer = handle(self.driver, peer)?;
        if peer == self.handle {
            return Ok(true);
        }
        let mut can = 0;
        // SAFETY: `can` is written during the call.
        unsafe {
            let driver = self.driver;
            driver.device_can_access_peer(&mut can, self.handle, peer)?;
        }
        Ok(can != 0)
    }

    /// The number by which this process knows the GPU with this identity, if it sees it.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn ordinal_of(&self, wanted: Uuid) -> Result<Option<u32>, CudaError> {
        for ordinal in 0..self.driver.device_count()? {
            if uuid(self.driver, handle(self.driver, ordinal)?)? == wanted {
                return Ok(Some(ordinal));
            }
        }
        Ok(None)
    }

    /// Makes the context current in this thread.
    ///
    /// # Errors
    /// The context is gone.
    pub fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as this value lives, and the driver
        // itself refuses one that is gone.
        unsafe { self.driver.context_set_current(self.context) }
    }

    /// Makes the context current in this thread until the scope ends; then what was current
    /// before is so again. A capture in another thread is not disturbed by what is called
    /// meanwhile.
    ///
    /// # Errors
    /// The context is gone.
    pub fn scope(&self) -> Result<Scope<'_>, CudaError> {
        // SAFETY: as in `bind`; `Scope` takes it back, in the same thread since it cannot
        // be sent to another.
        unsafe { self.driver.context_push(self.context)? };
        let mut scope = Scope {
            device: self,
            capture_mode: None,
            thread: PhantomData,
        };
        scope.capture_mode = Some(exchange_capture_mode(self.driver, RELAXED)?);
        Ok(scope)
    }

    /// The stream and staging memory for small copies.
    pub(super) fn copies(&self) -> &Copies {
        self.copies.get_or_init(Copies::default)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut copies) = self.copies.take() {
            copies.close(self);
        }
        // SAFETY: retained once, by `open`. That the context is gone already is no concern.
        let _ = unsafe { self.driver.context_release(self.handle) };
    }
}

/// A stretch of code in which a GPU's context is current. See [`Device::scope`].
#[derive(Debug)]
pub struct Scope<'a> {
    device: &'a Device,
    capture_mode: Option<u32>,
    /// Contexts are current in one thread.
    thread: PhantomData<*const ()>,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let driver = self.device.driver;
        if let Some(mode) = self.capture_mode {
            let _ = exchange_capture_mode(driver, mode);
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: `popped` is written during the call; the context was pushed by this
        // thread. If it is gone, there is nothing to be done about it here.
        let _ = unsafe { driver.context_pop(&mut popped) };
    }
}

fn exchange_capture_mode(driver: &Driver, mode: u32) -> Result<u32, CudaError> {
    let mut mode = mode;
    // SAFETY: `mode` is read and written during the call.
    unsafe { driver.capture_mode(&mut mode)? };
    Ok(mode)
}

fn handle(driver: &Driver, ordinal: u32) -> Result<c_int, CudaError> {
    let count = driver.device_count()?;
    let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
    let number = number.ok_or(CudaError::NoSuchDevice { ordinal, count })?;
    let mut handle = 0;
    // SAFETY: `handle` is written during the call.
    unsafe { driver.device_get(&mut handle, number)? };
    Ok(handle)
}

fn uuid(driver: &Driver, handle: c_int) -> Result<Uuid, CudaError> {
    let mut uuid = Uuid([0; 16]);
    // SAFETY: the driver writes 16 bytes.
    unsafe { driver.device_get_uuid(uuid.0.as_mut_ptr(), handle)? };
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_named_as_the_tools_name_it() {
        let uuid = Uuid(std::array::from_fn(|i| i as u8 * 17));
        assert_eq!(uuid.to_string(), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
