//! What could not be destroyed: tried again when its context is closed.

use crate::region::Region;
use mlx5gda_sys::ffi;
use mlx5gda_sys::table::FnTable;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// An object whose destruction was refused. It lives, and nobody else has it any more.
#[derive(Debug)]
pub(super) enum Object {
    Devx(NonNull<ffi::mlx5dv_devx_obj>),
    MemoryRegion(NonNull<ffi::ibv_mr>),
    Umem(NonNull<ffi::mlx5dv_devx_umem>),
    Uar(NonNull<ffi::mlx5dv_devx_uar>),
    Domain(NonNull<ffi::ibv_pd>),
}

// SAFETY: verbs objects may be used from any thread.
unsafe impl Send for Object {}

impl Object {
    /// Destroys it; whether that was accepted, as far as the driver says.
    ///
    /// # Safety
    /// It is alive in an open context of `table`, and nobody uses it any more.
    pub(super) unsafe fn destroy(&self, table: &FnTable) -> bool {
        // SAFETY: by our contract.
        unsafe {
            match self {
                Self::Devx(object) => (table.mlx5dv_devx_obj_destroy)(object.as_ptr()) == 0,
                Self::MemoryRegion(mr) => (table.ibv_dereg_mr)(mr.as_ptr()) == 0,
                Self::Umem(umem) => (table.mlx5dv_devx_umem_dereg)(umem.as_ptr()) == 0,
                Self::Uar(uar) => {
                    (table.mlx5dv_devx_free_uar)(uar.as_ptr());
                    true
                }
                Self::Domain(domain) => (table.ibv_dealloc_pd)(domain.as_ptr()) == 0,
            }
        }
    }
}

/// The objects that a context has left, in the order in which they were refused, which
/// is one in which they can go: what others use comes after them.
///
/// The NIC goes on using the memory of an object that it did not destroy, so that memory
/// stays, until the context is closed. A context that is never closed keeps it for good.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Vec<(Object, Option<Arc<Region>>)>>);

impl Leftovers {
    pub(super) fn keep(&self, object: Object, memory: Option<Arc<Region>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((object, memory));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Tries once more; returns how many were refused again, and the memory of all,
    /// to be kept until the context is closed.
    ///
    /// # Safety
    /// The context that the objects are of is open, and `table` is its.
    pub(super) unsafe fn destroy(&mut self, table: &FnTable) -> (usize, Vec<Arc<Region>>) {
        let kept = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut refused = 0;
        let memory = kept.drain(..).filter_map(|(object, memory)| {
            // SAFETY: alive since it was refused, and ours alone.
            refused += usize::from(!unsafe { object.destroy(table) });
            memory
        });
        let memory = memory.collect();
        (refused, memory)
    }
}

#[cfg(test)]
#[cfg(feature = "soft")]
mod tests {
    use super::super::{CompletionQueue, Device, MemoryRegion, ProtectionDomain, Uar, Umem};
    use crate::config::{GidChoice, Nic};
    use crate::region::Region;
    use crate::verbs::QueuePlaces;
    use soft_hca::{Faults, Live, set_faults, stats};
    use std::sync::{Arc, Weak};

    fn device() -> Arc<Device> {
        Device::open(&Nic::Soft { address: None }, GidChoice::Automatic).unwrap()
    }

    fn region() -> (Arc<Region>, Weak<Region>) {
        let region = Arc::new(Region::shared("left over", 8192).unwrap());
        let memory = Arc::downgrade(&region);
        (region, memory)
    }

    /// Drops `object` while the next command fails.
    fn refused<T>(device: &Device, object: T) {
        let faults = Faults {
            fail_command: Some(0),
            ..Faults::default()
        };
        let before = stats(device.name()).unwrap().refused;
        set_faults(device.name(), faults).unwrap();
        drop(object);
        set_faults(device.name(), Faults::default()).unwrap();
        assert_eq!(stats(device.name()).unwrap().refused, before + 1);
    }

    /// Nothing is left after the context was closed, and that not only by closing it.
    fn close(device: Arc<Device>) {
        let name = device.name().to_owned();
        drop(device);
        assert_eq!(stats(&name).unwrap().live, Live::default());
        assert_eq!(stats(&name).unwrap().leaked, 0);
    }

    #[test]
    fn memory_stays_until_the_nic_has_let_go_of_it() {
        let device = device();
        let domain = ProtectionDomain::allocate(&device).unwrap();
        let (region, memory) = region();
        let registered = MemoryRegion::register(&domain, &region).unwrap();
        drop(region);
        refused(&device, registered);
        assert_eq!(stats(device.name()).unwrap().live.mrs, 1);
        assert!(memory.upgrade().is_some());
        drop(domain);
        close(device);
        assert!(memory.upgrade().is_none());
    }

    #[test]
    fn queues_that_are_left_keep_what_they_lie_in() {
        let device = device();
        let (region, memory) = region();
        let umem = Umem::register(&device, &region).unwrap();
        drop(region);
        let uar = Uar::allocate(&device).unwrap();
        let places = QueuePlaces {
            ring: 0,
            depth: 8,
            record: 1024,
            cqe: 2048,
        };
        let queue = CompletionQueue::create(&device, &umem, &uar, &places, 4096).unwrap();
        refused(&device, queue);
        drop((umem, uar));
        let live = stats(device.name()).unwrap().live;
        assert_eq!((live.cqs, live.umems, live.uars), (1, 1, 1));
        assert!(memory.upgrade().is_some());
        close(device);
        assert!(memory.upgrade().is_none());
    }
}
