//! The memory of all ranks at addresses that never change.
//!
//! One range of addresses holds a window for each rank. Kernels, and graphs captured from
//! them, know the range; what is behind a window changes. A window without a peer shows a
//! small piece of this GPU's own memory again and again: a store that goes astray lands
//! where nobody reads, and is no fault, which would end the whole process's use of the GPU.

use super::device::Device;
use super::error::CudaError;
use super::memory::{DeviceRegion, Extent, POSIX_FD, location};
use crate::ids::Rank;
use cudarc::driver::sys;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a window shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// This many pieces of the sink, from the start.
    Sink { pieces: u64 },
    /// A rank's memory.
    Memory,
}

const NOTHING: View = View::Sink { pieces: 0 };

/// One window for each rank, one after the other.
///
/// # Invariants
/// `base` is the start of a reserved range of `views.len() * extent.bytes` bytes, and
/// `views` says what is mapped there.
#[derive(Debug)]
pub struct Windows {
    device: Arc<Device>,
    base: u64,
    extent: Extent,
    sink: DeviceRegion,
    views: Mutex<Vec<View>>,
}

impl Windows {
    /// Reserves windows for `capacity` regions of `bytes` bytes. None has a peer yet.
    ///
    /// # Errors
    /// No such range of addresses, or no memory for the sink.
    pub fn reserve(device: &Arc<Device>, capacity: u32, bytes: u64) -> Result<Self, CudaError> {
        let extent = Extent::of(device, bytes)?;
        let total = extent.bytes.checked_mul(capacity.into());
        let total = total.and_then(|total| usize::try_from(total).ok());
        let total = total.filter(|total| *total > 0).ok_or(CudaError::BadSize {
            what: "windows",
            bytes,
        })?;
        let sink = DeviceRegion::exact(device, extent.piece)?;
        let mut base = 0;
        {
            let _scope = device.scope()?;
            let alignment = extent.granularity as usize;
            // SAFETY: `base` is written during the call.
            unsafe {
                let driver = device.driver();
                driver.address_reserve(&mut base, total, alignment, 0, 0)?;
            }
        }
        let windows = Self {
            device: Arc::clone(device),
            base,
            extent,
            sink,
            views: Mutex::new(vec![NOTHING; capacity as usize]),
        };
        for view in 0..capacity {
            let mut views = windows.lock();
            windows.show_sink(&mut views, Rank(view))?;
        }
        Ok(windows)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The GPU.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// How many windows there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.lock().len() as u32
    }

    /// Bytes from one window to the next, which is what a region for it has.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.extent.bytes
    }

    /// Where the window of rank 0 begins; the same for the life of this value.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Where the window of `rank` begins; the same for the life of this value.
    ///
    /// # Errors
    /// There is none.
    pub fn address(&self, rank: Rank) -> Result<u64, CudaError> {
        let capacity = self.capacity();
        if rank.0 >= capacity {
            return Err(CudaError::NoSuchRank { rank, capacity });
        }
        Ok(self.base + u64::from(rank.0) * self.extent.bytes)
    }

    /// Shows this GPU's own region at `rank`'s window, zeroed.
    ///
    /// # Errors
    /// The sizes differ, or the driver refuses.
    ///
    /// # Safety
    /// Nothing that was launched touches this window.
    pub unsafe fn place_own(&self, rank: Rank, region: &DeviceRegion) -> Result<(), CudaError> {
        // SAFETY: passed on to our caller.
        unsafe { self.share_in_process(rank, region)? };
        let (at, bytes) = (self.address(rank)?, region.len() as usize);
        // SAFETY: the region has just been mapped there.
        unsafe { self.device.copies().clear(&self.device, at, bytes) }
    }

    /// Shows a region of this process, whatever GPU it is on, at `rank`'s window: for
    /// several ranks in one process. The region may be dropped before the window is cleared.
    ///
    /// # Errors
    /// The sizes differ, this GPU does not reach the other one, or the driver refuses; the
    /// window then shows what it showed or nothing but the sink.
    ///
    /// # Safety
    /// Nothing that was launched touches this window.
    pub unsafe fn share_in_process(
        &self,
        rank: Rank,
        region: &DeviceRegion,
    ) -> Result<(), CudaError> {
        self.check_size(rank, region.len())?;
        self.show(rank, region.handle())
    }

    /// Shows the memory behind `file`, a region of `bytes` bytes of another process, at
    /// `rank`'s window.
    ///
    /// # Errors
    /// The sizes differ, this GPU does not reach the other one, or the driver refuses; the
    /// window then shows what it showed or nothing but the sink.
    ///
    /// # Safety
    /// Nothing that was launched touches this window. `bytes` is the size of the region.
    pub unsafe fn replace(
        &self,
        rank: Rank,
        file: BorrowedFd<'_>,
        bytes: u64,
    ) -> Result<(), CudaError> {
        self.check_size(rank, bytes)?;
        let driver = self.device.driver();
        let mut handle = 0;
        {
            let _scope = self.device.scope()?;
            // For this kind of handle the driver takes the descriptor itself as pointer.
            let file = file.as_raw_fd() as usize as *mut c_void;
            // SAFETY: `handle` is written during the call; the descriptor stays open.
            unsafe { driver.mem_import(&mut handle, file, POSIX_FD)? };
        }
        let shown = self.show(rank, handle);
        let _scope = self.device.scope()?;
        // SAFETY: imported above. The mapping, if there is one, keeps the memory.
        unsafe { driver.mem_release(handle)? };
        shown
    }

    /// Takes what `rank`'s window shows away; the sink is there then.
    ///
    /// # Errors
    /// There is no such window, or the driver refuses.
    ///
    /// # Safety
    /// Nothing that was launched touches this window.
    pub unsafe fn clear(&self, rank: Rank) -> Result<(), CudaError> {
        let mut views = self.lock();
        self.take_away(&mut views, rank)?;
        self.show_sink(&mut views, rank)
    }

    /// Copies `data` into `rank`'s window at `offset`, as a kernel here would store it.
    ///
    /// # Errors
    /// The range is not inside the window, or the GPU does not answer.
    pub fn write(&self, rank: Rank, offset: u64, data: &[u8]) -> Result<(), CudaError> {
        let views = self.lock();
        let to = self.at(&views, rank, offset, data.len())?;
        // SAFETY: in range, and something is mapped there as long as the views are locked.
        unsafe { self.device.copies().write(&self.device, to, data) }
    }

    /// Copies what `rank`'s window shows at `offset` into `data`.
    ///
    /// # Errors
    /// The range is not inside the window, or the GPU does not answer.
    pub fn read(&self, rank: Rank, offset: u64, data: &mut [u8]) -> Result<(), CudaError> {
        let views = self.lock();
        let from = self.at(&views, rank, offset, data.len())?;
        // SAFETY: as in `write`.
        unsafe { self.device.copies().read(&self.device, from, data) }
    }

    /// The address of `len` bytes behind which there is memory.
    fn at(&self, views: &[View], rank: Rank, offset: u64, len: usize) -> Result<u64, CudaError> {
        let capacity = views.len() as u32;
        let bytes = match views.get(rank.index()) {
            None => return Err(CudaError::NoSuchRank { rank, capacity }),
            Some(View::Memory) => self.extent.bytes,
            Some(View::Sink { pieces }) => pieces * self.extent.piece,
        };
        let len = len as u64;
        match offset.checked_add(len) {
            Some(end) if end <= bytes => {
                Ok(self.base + u64::from(rank.0) * self.extent.bytes + offset)
            }
            _ => Err(CudaError::OutOfRange { offset, len, bytes }),
        }
    }

    fn check_size(&self, rank: Rank, theirs: u64) -> Result<(), CudaError> {
        let ours = self.extent.bytes;
        if theirs == ours {
            return Ok(());
        }
        Err(CudaError::WindowSize { rank, theirs, ours })
    }

    fn show(&self, rank: Rank, handle: u64) -> Result<(), CudaError> {
        let at = self.address(rank)?;
        let mut views = self.lock();
        self.take_away(&mut views, rank)?;
        self.map(at, self.extent.bytes, handle)
            .map(|()| set(&mut views, rank, View::Memory))
            .and_then(|()| self.open_access(at))
            .inspect_err(|_| {
                // The first error is the one to tell.
                let _ = self.take_away(&mut views, rank);
                let _ = self.show_sink(&mut views, rank);
            })
    }

    fn show_sink(&self, views: &mut [View], rank: Rank) -> Result<(), CudaError> {
        let at = self.base + u64::from(rank.0) * self.extent.bytes;
        for piece in 0..self.extent.bytes / self.extent.piece {
            let at = at + piece * self.extent.piece;
            self.map(at, self.extent.piece, self.sink.handle())?;
            set(views, rank, View::Sink { pieces: piece + 1 });
        }
        self.open_access(at)
    }

    fn take_away(&self, views: &mut [View], rank: Rank) -> Result<(), CudaError> {
        let at = self.base + u64::from(rank.0) * self.extent.bytes;
        let capacity = views.len() as u32;
        let view = views.get(rank.index()).copied();
        match view.ok_or(CudaError::NoSuchRank { rank, capacity })? {
            View::Memory => self.unmap(at, self.extent.bytes)?,
            View::Sink { pieces } => {
                for piece in (0..pieces).rev() {
                    self.unmap(at + piece * self.extent.piece, self.extent.piece)?;
                    set(views, rank, View::Sink { pieces: piece });
                }
            }
        }
        set(views, rank, NOTHING);
        Ok(())
    }

    fn map(&self, at: u64, bytes: u64, handle: u64) -> Result<(), CudaError> {
        let _scope = self.device.scope()?;
        // SAFETY: the range is ours (invariant), and nothing is mapped there: views are
        // taken away first.
        unsafe {
            let driver = self.device.driver();
            driver.mem_map(at, bytes as usize, 0, handle, 0)
        }
    }

    fn unmap(&self, at: u64, bytes: u64) -> Result<(), CudaError> {
        let _scope = self.device.scope()?;
        // SAFETY: mapped as one by `map`; nothing that was launched touches the window, as
        // all who take views away have promised.
        unsafe { self.device.driver().mem_unmap(at, bytes as usize) }
    }

    /// Lets this GPU read and write what was mapped at `at`.
    fn open_access(&self, at: u64) -> Result<(), CudaError> {
        let access = sys::CUmemAccessDesc {
            location: location(&self.device),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        let _scope = self.device.scope()?;
        // SAFETY: all of the window was mapped before; `access` is read during the call.
        unsafe {
            let driver = self.device.driver();
            driver.mem_set_access(at, self.extent.bytes as usize, &access, 1)
        }
    }
}

fn set(views: &mut [View], rank: Rank, view: View) {
    if let Some(entry) = views.get_mut(rank.index()) {
        *entry = view;
    }
}

impl Drop for Windows {
    /// Nothing that was launched may touch the windows any more.
    fn drop(&mut self) {
        let mut views = self.lock();
        let capacity = views.len() as u32;
        for rank in (0..capacity).map(Rank) {
            let _ = self.take_away(&mut views, rank);
        }
        let total = self.extent.bytes * u64::from(capacity);
        if let Ok(_scope) = self.device.scope() {
            // SAFETY: reserved by `reserve`; what was mapped there is unmapped, or the
            // driver refuses.
            let _ = unsafe { self.device.driver().address_free(self.base, total as usize) };
        }
    }
}
