//! Small copies between host and GPU, beside whatever runs there.
//!
//! They go over a stream of their own, which waits for no other, from and to pinned memory,
//! so that the driver has no reason to wait either.

use super::device::Device;
use super::error::CudaError;
use cudarc::driver::sys;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Staging memory; longer copies are made in pieces.
const STAGING: usize = 64 << 10;
/// How long a copy may take. Only a GPU that has stopped takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this long a copy is looked after less often.
const BRISK: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_micros(50);
/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;
/// `CUDA_ERROR_NOT_READY`
const NOT_READY: u32 = 600;

struct Lane {
    stream: sys::CUstream,
    staging: NonNull<u8>,
    /// Bytes of a copy that may still be under way.
    under_way: usize,
}

// SAFETY: a stream may be used by any thread, and the staging memory is the lane's own.
unsafe impl Send for Lane {}

/// The stream and the staging memory, made when they are first needed.
#[derive(Default)]
pub(super) struct Copies {
    lane: Mutex<Option<Lane>>,
}

impl Copies {
    fn lock(&self) -> MutexGuard<'_, Option<Lane>> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies `data` to the GPU's address `to` and waits until it is there.
    ///
    /// # Safety
    /// There is memory of the GPU, or mapped for it, for all of `data` at `to`.
    pub(super) unsafe fn write(
        &self,
        device: &Device,
        to: u64,
        data: &[u8],
    ) -> Result<(), CudaError> {
        let _scope = device.scope()?;
        let mut held = self.lock();
        let lane = Lane::ready(&mut held, device)?;
        for (i, piece) in data.chunks(STAGING).enumerate() {
            let to = to + (i * STAGING) as u64;
            // SAFETY: the staging memory has room for a piece and nothing uses it, since
            // the lane is at rest; our caller vouches for the other end.
            unsafe {
                let staging = lane.staging.as_ptr();
                std::ptr::copy_nonoverlapping(piece.as_ptr(), staging, piece.len());
                let driver = device.driver();
                driver.copy_in(to, staging.cast(), piece.len(), lane.stream)?;
            }
            lane.rest(device, piece.len())?;
        }
        Ok(())
    }

    /// Copies from the GPU's address `from` into `data`.
    ///
    /// # Safety
    /// There is memory of the GPU, or mapped for it, for all of `data` at `from`.
    pub(super) unsafe fn read(
        &self,
        device: &Device,
        from: u64,
        data: &mut [u8],
    ) -> Result<(), CudaError> {
        let _scope = device.scope()?;
        let mut held = self.lock();
        let lane = Lane::ready(&mut held, device)?;
        for (i, piece) in data.chunks_mut(STAGING).enumerate() {
            let from = from + (i * STAGING) as u64;
            let staging = lane.staging.as_ptr();
            // SAFETY: as in `write`.
            unsafe {
                let driver = device.driver();
                driver.copy_out(staging.cast(), from, piece.len(), lane.stream)?;
            }
            lane.rest(device, piece.len())?;
            // SAFETY: the copy is done; the staging memory has room for a piece.
            unsafe { std::ptr::copy_nonoverlapping(staging, piece.as_mut_ptr(), piece.len()) };
        }
        Ok(())
    }

    /// Fills memory with zeros and waits until that is done.
    ///
    /// # Safety
    /// There is memory of the GPU, or mapped for it, for `bytes` bytes at `to`.
    pub(super) unsafe fn clear(
        &self,
        device: &Device,
        to: u64,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let _scope = device.scope()?;
        let mut held = self.lock();
        let lane = Lane::ready(&mut held, device)?;
        // SAFETY: our caller vouches for the memory.
        unsafe { device.driver().fill(to, 0, bytes, lane.stream)? };
        lane.rest(device, bytes)
    }

    /// Gives back what there is.
    pub(super) fn close(&mut self, device: &Device) {
        let Some(mut lane) = self.lock().take() else {
            return;
        };
        let Ok(_scope) = device.scope() else {
            // The context is gone, and all of this with it.
            return;
        };
        // SAFETY: made by `Lane::ready` and not given back before. What a copy may still
        // be using is left alone.
        unsafe {
            if lane.rest(device, lane.under_way).is_ok() {
                let _ = device.driver().host_free(lane.staging.as_ptr().cast());
            }
            let _ = device.driver().stream_destroy(lane.stream);
        }
    }
}

impl Lane {
    fn open(device: &Device) -> Result<Self, CudaError> {
        let driver = device.driver();
        let mut staging = std::ptr::null_mut();
        // SAFETY: `staging` is written during the call; the context is current.
        unsafe { driver.host_alloc(&mut staging, STAGING, sys::CU_MEMHOSTALLOC_PORTABLE)? };
        let staging: NonNull<u8> = NonNull::new(staging.cast()).ok_or(CudaError::BadSize {
            what: "staging memory",
            bytes: STAGING as u64,
        })?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: `stream` is written during the call. If there is none, nothing uses the
        // staging memory.
        unsafe {
            driver
                .stream_create(&mut stream, NON_BLOCKING)
                .inspect_err(|_| {
                    let _ = driver.host_free(staging.as_ptr().cast());
                })?;
        }
        Ok(Self {
            stream,
            staging,
            under_way: 0,
        })
    }

    /// The lane, at rest.
    fn ready<'a>(held: &'a mut Option<Self>, device: &Device) -> Result<&'a mut Self, CudaError> {
        let lane = match held {
            Some(lane) => lane,
            None => held.insert(Self::open(device)?),
        };
        if lane.under_way > 0 {
            lane.rest(device, lane.under_way)?;
        }
        Ok(lane)
    }

    /// Waits until what was queued last is done.
    fn rest(&mut self, device: &Device, bytes: usize) -> Result<(), CudaError> {
        self.under_way = bytes;
        let begun = Instant::now();
        loop {
            // SAFETY: the stream is the lane's own.
            match unsafe { device.driver().stream_query(self.stream) } {
                Ok(()) => {
                    self.under_way = 0;
                    return Ok(());
                }
                Err(error) if error.code() == Some(NOT_READY) => {}
                Err(error) => return Err(error),
            }
            let waited = begun.elapsed();
            if waited >= PATIENCE {
                return Err(CudaError::TimedOut {
                    bytes: bytes as u64,
                    limit: PATIENCE,
                });
            }
            if waited >= BRISK {
                std::thread::sleep(PAUSE);
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
