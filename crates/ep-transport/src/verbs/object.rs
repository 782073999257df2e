//! Protection domain, memory registration, umem, UAR, completion queue.

use super::device::DevxObject;
use super::leftover::Object;
use super::ring::{DoorbellRegister, QueuePlaces};
use super::{Device, VerbsError};
use crate::region::Region;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{CreateCqIn, CreateCqOut, Mailbox};
use std::ptr::NonNull;
use std::sync::Arc;

/// `IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE`.
const WRITABLE: i32 = 1 | 2;

/// A protection domain.
///
/// # Invariants
/// `pd` is allocated until drop.
#[derive(Debug)]
pub(crate) struct ProtectionDomain {
    device: Arc<Device>,
    pd: NonNull<ffi::ibv_pd>,
    number: u32,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub(crate) fn allocate(device: &Arc<Device>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let pd = unsafe { (device.table().ibv_alloc_pd)(device.context()) };
        let pd =
            NonNull::new(pd).ok_or_else(|| Device::call_failed("ibv_alloc_pd", device.name()))?;
        let mut domain = Self {
            device: Arc::clone(device),
            pd,
            number: 0,
        };
        domain.number = domain.query_number()?;
        Ok(Arc::new(domain))
    }

    fn query_number(&self) -> Result<u32, VerbsError> {
        // SAFETY: all bits zero is a valid value of these structs.
        let mut out: ffi::mlx5dv_pd = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut object: ffi::mlx5dv_obj = unsafe { std::mem::zeroed() };
        object.pd.in_ = self.pd.as_ptr();
        object.pd.out = &mut out;
        // SAFETY: `object` names a live domain and a writable result.
        let status = unsafe {
            (self.device.table().mlx5dv_init_obj)(&mut object, ffi::MLX5DV_OBJ_PD.into())
        };
        if status != 0 {
            return Err(Device::call_failed("mlx5dv_init_obj", "protection domain"));
        }
        Ok(out.pdn)
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: the domain is allocated (invariant); what uses it holds it.
        unsafe { self.device.destroy(Object::Domain(self.pd), None) };
    }
}

/// A region registered for remote writes.
///
/// # Invariants
/// `mr` is registered until drop, and its memory is there at least as long: `region` sees
/// to it, or whoever registered memory that is not a [`Region`].
#[derive(Debug)]
pub(crate) struct MemoryRegion {
    mr: NonNull<ffi::ibv_mr>,
    lkey: u32,
    rkey: u32,
    domain: Arc<ProtectionDomain>,
    region: Option<Arc<Region>>,
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    pub(crate) fn register(
        domain: &Arc<ProtectionDomain>,
        region: &Arc<Region>,
    ) -> Result<Self, VerbsError> {
        // SAFETY: the range is mapped, and stays so while this object holds the
        // region; all access to it is through raw copies and atomics.
        let mut registered = unsafe { Self::register_at(domain, region.address(), region.len()) }?;
        registered.region = Some(Arc::clone(region));
        Ok(registered)
    }

    /// Registers memory that is not a [`Region`], by its address.
    ///
    /// # Safety
    /// It stays where it is until drop, and nothing refers to it by Rust references.
    pub(super) unsafe fn register_at(
        domain: &Arc<ProtectionDomain>,
        address: u64,
        len: u64,
    ) -> Result<Self, VerbsError> {
        // SAFETY: by our contract.
        let mr = unsafe {
            (domain.device.table().ibv_reg_mr)(
                domain.pd.as_ptr(),
                address as *mut _,
                len as usize,
                WRITABLE,
            )
        };
        Self::from_raw(domain, mr, "ibv_reg_mr", len)
    }

    /// Registers memory behind a descriptor, to be named by addresses from `address` on.
    ///
    /// # Safety
    /// It does not become shorter until drop, and nothing refers to it by Rust references.
    pub(super) unsafe fn register_dmabuf(
        domain: &Arc<ProtectionDomain>,
        file: i32,
        offset: u64,
        len: u64,
        address: u64,
    ) -> Result<Self, VerbsError> {
        // SAFETY: by our contract.
        let mr = unsafe {
            (domain.device.table().ibv_reg_dmabuf_mr)(
                domain.pd.as_ptr(),
                offset,
                len as usize,
                address,
                file,
                WRITABLE,
            )
        };
        Self::from_raw(domain, mr, "ibv_reg_dmabuf_mr", len)
    }

    fn from_raw(
        domain: &Arc<ProtectionDomain>,
        mr: *mut ffi::ibv_mr,
        call: &'static str,
        len: u64,
    ) -> Result<Self, VerbsError> {
        let mr = NonNull::new(mr)
            .ok_or_else(|| Device::call_failed(call, &format!("buffer of {len} bytes")))?;
        // SAFETY: a registration that was just returned is readable.
        let (lkey, rkey) = unsafe { ((*mr.as_ptr()).lkey, (*mr.as_ptr()).rkey) };
        Ok(Self {
            mr,
            lkey,
            rkey,
            domain: Arc::clone(domain),
            region: None,
        })
    }

    pub(crate) fn lkey(&self) -> u32 {
        self.lkey
    }

    pub(crate) fn rkey(&self) -> u32 {
        self.rkey
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: registered until now (invariant).
        unsafe {
            let device = &self.domain.device;
            device.destroy(Object::MemoryRegion(self.mr), self.region.as_ref());
        }
    }
}

/// Memory in which the device keeps queues.
///
/// # Invariants
/// `umem` is registered until drop and `memory` is mapped at least as long.
#[derive(Debug)]
pub(crate) struct Umem {
    umem: NonNull<ffi::mlx5dv_devx_umem>,
    id: u32,
    device: Arc<Device>,
    memory: Arc<Region>,
}

// SAFETY: devx objects may be used from any thread.
unsafe impl Send for Umem {}
// SAFETY: as above.
unsafe impl Sync for Umem {}

impl Umem {
    pub(crate) fn register(
        device: &Arc<Device>,
        memory: &Arc<Region>,
    ) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the range is mapped, and stays so while this object holds it.
        let umem = unsafe {
            (device.table().mlx5dv_devx_umem_reg)(
                device.context(),
                memory.address() as *mut _,
                memory.len() as usize,
                WRITABLE as u32,
            )
        };
        let umem = NonNull::new(umem).ok_or_else(|| {
            Device::call_failed(
                "mlx5dv_devx_umem_reg",
                &format!("control memory of {} bytes", memory.len()),
            )
        })?;
        Ok(Arc::new(Self {
            umem,
            // SAFETY: a umem that was just returned is readable.
            id: unsafe { (*umem.as_ptr()).umem_id },
            device: Arc::clone(device),
            memory: Arc::clone(memory),
        }))
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(super) fn memory(&self) -> &Arc<Region> {
        &self.memory
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: registered until now (invariant); queues in it held it.
        unsafe {
            let memory = Some(&self.memory);
            self.device.destroy(Object::Umem(self.umem), memory);
        }
    }
}

/// A doorbell page.
///
/// # Invariants
/// `uar` is allocated until drop; its page is mapped at least as long.
#[derive(Debug)]
pub(crate) struct Uar {
    uar: NonNull<ffi::mlx5dv_devx_uar>,
    device: Arc<Device>,
}

// SAFETY: devx objects may be used from any thread.
unsafe impl Send for Uar {}
// SAFETY: as above.
unsafe impl Sync for Uar {}

impl Uar {
    pub(crate) fn allocate(device: &Arc<Device>) -> Result<Arc<Self>, VerbsError> {
        device.count_command();
        // SAFETY: the context is open.
        let uar = unsafe {
            (device.table().mlx5dv_devx_alloc_uar)(
                device.context(),
                ffi::MLX5_IB_UAPI_UAR_ALLOC_TYPE_BF,
            )
        };
        let uar = NonNull::new(uar)
            .ok_or_else(|| Device::call_failed("mlx5dv_devx_alloc_uar", device.name()))?;
        Ok(Arc::new(Self {
            uar,
            device: Arc::clone(device),
        }))
    }

    pub(super) fn page_id(&self) -> u32 {
        // SAFETY: allocated (invariant).
        unsafe { (*self.uar.as_ptr()).page_id }
    }

    /// The register stays mapped while this object lives; whoever keeps it longer
    /// breaks the register's invariant, so it goes to [`super::SendQueue`] only,
    /// next to a [`super::QueuePair`] that holds the UAR.
    pub(crate) fn register(&self) -> DoorbellRegister {
        // SAFETY: allocated (invariant); `reg_addr` is the mapped, 8-byte aligned
        // doorbell register of the page.
        unsafe { DoorbellRegister::new((*self.uar.as_ptr()).reg_addr.cast()) }
    }
}

impl Drop for Uar {
    fn drop(&mut self) {
        self.device.count_command();
        // SAFETY: allocated until now (invariant).
        unsafe { self.device.destroy(Object::Uar(self.uar), None) };
    }
}

/// A collapsed completion queue: one 64-byte entry that always holds the latest
/// completion, never overrun.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    number: u32,
    // Before what it uses: fields are dropped in this order.
    _object: DevxObject,
    _umem: Arc<Umem>,
    _uar: Arc<Uar>,
}

impl CompletionQueue {
    pub(crate) fn create(
        device: &Arc<Device>,
        umem: &Arc<Umem>,
        uar: &Arc<Uar>,
        places: &QueuePlaces,
        record: u64,
    ) -> Result<Self, VerbsError> {
        let mut input = Mailbox::new(CreateCqIn::new());
        input.set_cq_umem_valid(true);
        input.set_cq_umem_id(umem.id());
        input.set_cq_umem_offset(places.cqe);
        let event_queue = device.event_queue()?;
        let context = &mut input.cq_context;
        context.set_cc(true);
        context.set_oi(true);
        context.set_log_cq_size(0)?;
        context.set_uar_page(uar.page_id())?;
        context.set_c_eqn(event_queue);
        context.set_dbr_umem_valid(true);
        context.set_dbr_umem_id(umem.id());
        context.set_dbr_addr(record);
        let mut output = Mailbox::<CreateCqOut>::zeroed();
        let object = device.create("CREATE_CQ", &input, &mut output)?;
        Ok(Self {
            number: output.cqn(),
            _object: object,
            _umem: Arc::clone(umem),
            _uar: Arc::clone(uar),
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }
}
