//! The way to a peer's port.

use super::object::ProtectionDomain;
use super::qp::HOPS;
use super::{Device, VerbsError};
use mlx5gda_sys::ffi;
use std::net::Ipv6Addr;
use std::ptr::NonNull;

/// An address handle: the path to a port, resolved by the driver.
///
/// # Invariants
/// `handle` is allocated until drop, in a domain that lives at least as long.
struct AddressHandle<'a> {
    domain: &'a ProtectionDomain,
    handle: NonNull<ffi::ibv_ah>,
}

impl AddressHandle<'_> {
    /// The peer's MAC address, or that of the router on the way to it.
    fn mac(&self) -> Result<[u8; 6], VerbsError> {
        // SAFETY: all bits zero is a valid value of these structs.
        let mut out: ffi::mlx5dv_ah = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut object: ffi::mlx5dv_obj = unsafe { std::mem::zeroed() };
        object.ah.in_ = self.handle.as_ptr();
        object.ah.out = &mut out;
        let table = self.domain.device().table();
        // SAFETY: `object` names a live handle and a writable result.
        let status = unsafe { (table.mlx5dv_init_obj)(&mut object, ffi::MLX5DV_OBJ_AH.into()) };
        match NonNull::new(out.av) {
            // SAFETY: the address vector belongs to the handle, which lives.
            Some(vector) if status == 0 => Ok(unsafe { (*vector.as_ptr()).rmac }),
            _ => Err(Device::call_failed("mlx5dv_init_obj", "address handle")),
        }
    }
}

impl Drop for AddressHandle<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated until now (invariant).
        unsafe { (self.domain.device().table().ibv_destroy_ah)(self.handle.as_ptr()) };
    }
}

impl ProtectionDomain {
    /// The MAC address behind a GID of a RoCE v2 peer, found as the driver finds it: by
    /// the kernel's routes and neighbours. It waits for the neighbour's answer, for as long
    /// as the kernel does (seconds).
    pub(crate) fn resolve_mac(&self, gid: [u8; 16]) -> Result<[u8; 6], VerbsError> {
        let port = self.device().port();
        let mut attributes = ffi::ibv_ah_attr {
            grh: ffi::ibv_global_route {
                dgid: ffi::ibv_gid { raw: gid },
                flow_label: 0,
                sgid_index: port.gid_index,
                hop_limit: HOPS,
                traffic_class: 0,
            },
            dlid: 0,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            is_global: 1,
            port_num: port.number,
        };
        // SAFETY: the domain is allocated and `attributes` is filled in.
        let handle =
            unsafe { (self.device().table().ibv_create_ah)(self.as_ptr(), &mut attributes) };
        let handle = NonNull::new(handle).ok_or_else(|| {
            Device::call_failed("ibv_create_ah", &format!("GID {}", Ipv6Addr::from(gid)))
        })?;
        AddressHandle {
            domain: self,
            handle,
        }
        .mac()
    }
}
