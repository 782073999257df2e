//! What a device and its port say of themselves.

use core::ffi::c_int;
use core::mem::{offset_of, size_of};
use std::net::IpAddr;

use mlx5gda_sys::ffi;
use rustix::io::Errno;

use super::device::copy_text;
use super::errno::{minus_one, number, pointer};
use super::handle::{self, Kind, Owned};
use crate::device::{Device, limits};
use crate::net::Port;

/// `IBV_PORT_ACTIVE`'s physical counterpart: link up.
const PHYS_LINK_UP: u8 = 5;
/// Physical state of a port without a link: disabled.
const PHYS_DISABLED: u8 = 3;
/// `enum ibv_port_width`-like code for four lanes, and 25 Gb/s each: a round
/// figure that says "fast".
const WIDTH_4X: u8 = 2;
const SPEED_EDR: u8 = 32;

fn gid(device: &Device) -> ffi::ibv_gid {
    ffi::ibv_gid {
        raw: device.port().gid().octets(),
    }
}

/// GUID of a device, big-endian.
pub(super) fn guid(device: &Device) -> u64 {
    device.port().guid().to_be()
}

/// Firmware version: of this crate, as the device has no other.
const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

pub(super) fn device_attr(device: &Device) -> ffi::ibv_device_attr {
    let objects = 1 << limits::LOG_OBJECTS;
    let mut fw_ver = [0; 64];
    copy_text(&mut fw_ver, FIRMWARE);
    ffi::ibv_device_attr {
        fw_ver,
        node_guid: guid(device),
        sys_image_guid: guid(device),
        max_mr_size: u64::MAX,
        page_size_cap: 0xffff_f000,
        // Mellanox Technologies, ConnectX-7.
        vendor_id: 0x02c9,
        vendor_part_id: 4129,
        max_qp: objects,
        max_qp_wr: 1 << limits::LOG_QUEUE,
        max_sge: 30,
        max_cq: objects,
        max_cqe: (1 << limits::LOG_CQ) - 1,
        max_mr: objects,
        max_pd: objects,
        max_qp_rd_atom: 1 << limits::LOG_READS,
        max_qp_init_rd_atom: 1 << limits::LOG_READS,
        atomic_cap: ffi::IBV_ATOMIC_HCA,
        phys_port_cnt: 1,
        ..Default::default()
    }
}

/// Attributes of a device.
///
/// # Safety
/// `out` is writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_query_device(
    context: *mut ffi::ibv_context,
    out: *mut ffi::ibv_device_attr,
) -> c_int {
    number(handle::context(context).and_then(|(device, _)| {
        if out.is_null() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(device_attr(&device)) };
        Ok(())
    }))
}

/// # Errors
/// `EINVAL` for a port other than the one.
pub(super) fn port_attr(device: &Device, port: u8) -> Result<ffi::ibv_port_attr, Errno> {
    if port != 1 {
        return Err(Errno::INVAL);
    }
    let link = device.port();
    let infiniband = link.is_infiniband();
    let state = device.lock();
    let (mtu, down) = (state.mtu, state.faults.link_is_down());
    drop(state);
    Ok(ffi::ibv_port_attr {
        state: if down {
            ffi::IBV_PORT_DOWN
        } else {
            ffi::IBV_PORT_ACTIVE
        },
        max_mtu: ffi::IBV_MTU_4096,
        active_mtu: mtu.code(),
        gid_tbl_len: link.gid_count() as c_int,
        max_msg_sz: 1 << limits::LOG_MESSAGE,
        pkey_tbl_len: 1,
        max_vl_num: 1,
        active_width: WIDTH_4X,
        active_speed: SPEED_EDR,
        phys_state: if down { PHYS_DISABLED } else { PHYS_LINK_UP },
        lid: link.lid(),
        // The port is its own subnet manager.
        sm_lid: link.lid(),
        link_layer: if infiniband {
            ffi::IBV_LINK_LAYER_INFINIBAND as u8
        } else {
            ffi::IBV_LINK_LAYER_ETHERNET as u8
        },
        flags: if infiniband {
            0
        } else {
            ffi::IB_UVERBS_QPF_GRH_REQUIRED as u8
        },
        ..Default::default()
    })
}

/// Attributes of a port; fills `struct ibv_port_attr` up to `flags`, as the
/// exported function of libibverbs does.
///
/// # Safety
/// `out` is writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_query_port(
    context: *mut ffi::ibv_context,
    port: u8,
    out: *mut ffi::_compat_ibv_port_attr,
) -> c_int {
    number(handle::context(context).and_then(|(device, _)| {
        if out.is_null() {
            return Err(Errno::INVAL);
        }
        let attr = port_attr(&device, port)?;
        let bytes = offset_of!(ffi::ibv_port_attr, flags) + 1;
        // SAFETY: `out` is writable by contract, for the fields up to `flags`.
        unsafe {
            core::ptr::copy_nonoverlapping((&raw const attr).cast::<u8>(), out.cast(), bytes);
        }
        Ok(())
    }))
}

/// One GID.
///
/// # Safety
/// `out` is writable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_query_gid(
    context: *mut ffi::ibv_context,
    port: u8,
    index: c_int,
    out: *mut ffi::ibv_gid,
) -> c_int {
    minus_one(handle::context(context).and_then(|(device, _)| {
        let known = 0..device.port().gid_count() as c_int;
        if port != 1 || !known.contains(&index) || out.is_null() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(gid(&device)) };
        Ok(())
    }))
}

/// The entry of the GID table with this index.
pub(super) fn gid_entry(device: &Device, index: u32) -> ffi::ibv_gid_entry {
    let port = device.port();
    let gid_type = if port.is_infiniband() {
        ffi::IBV_GID_TYPE_IB
    } else if index == port.gid_index() {
        ffi::IBV_GID_TYPE_ROCE_V2
    } else {
        ffi::IBV_GID_TYPE_ROCE_V1
    };
    ffi::ibv_gid_entry {
        gid: gid(device),
        gid_index: index,
        port_num: 1,
        gid_type,
        // The loopback interface.
        ndev_ifindex: 1,
    }
}

/// One GID with its type.
///
/// # Safety
/// `out` is writable, `size` bytes of it.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn _ibv_query_gid_ex(
    context: *mut ffi::ibv_context,
    port: u32,
    index: u32,
    out: *mut ffi::ibv_gid_entry,
    flags: u32,
    size: usize,
) -> c_int {
    number(handle::context(context).and_then(|(device, _)| {
        if flags != 0 || port != 1 || out.is_null() || size < size_of::<ffi::ibv_gid_entry>() {
            return Err(Errno::INVAL);
        }
        if index >= device.port().gid_count() {
            // No more entries, as the kernel says it.
            return Err(Errno::NODATA);
        }
        let entry = gid_entry(&device, index);
        // SAFETY: the caller's pointer, writable by contract.
        unsafe { out.write(entry) };
        Ok(())
    }))
}

/// The path as the device has it. On Ethernet it has the peer's MAC address,
/// which the kernel would have found.
pub(super) fn address_vector(port: &Port, attr: &ffi::ibv_ah_attr) -> ffi::mlx5_wqe_av {
    let grh = &attr.grh;
    // SAFETY: any bytes are a GID.
    let rgid = unsafe { grh.dgid.raw };
    let rmac = if port.is_infiniband() {
        [0; 6]
    } else {
        Port::mac(IpAddr::from(rgid).to_canonical())
    };
    // Whether there is a global header; then source GID and flow label.
    let routed = u32::from(attr.is_global != 0);
    let flags = routed << 30 | u32::from(grh.sgid_index) << 20 | grh.flow_label & 0x000f_ffff;
    ffi::mlx5_wqe_av {
        rlid: attr.dlid.to_be(),
        stat_rate_sl: attr.static_rate << 4 | attr.sl & 0xf,
        tclass: grh.traffic_class,
        hop_limit: grh.hop_limit,
        grh_gid_fl: flags.to_be(),
        rgid,
        rmac,
        ..Default::default()
    }
}

/// Resolves a path to a peer. There is nothing to resolve; the address is
/// checked.
///
/// # Safety
/// `attr` is null or readable.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_create_ah(
    pd: *mut ffi::ibv_pd,
    attr: *mut ffi::ibv_ah_attr,
) -> *mut ffi::ibv_ah {
    let found = handle::look(pd, |kind| match kind {
        Kind::Pd(value, _) => Some(value.as_ptr()),
        _ => None,
    });
    pointer(found.and_then(|(device, context, pd)| {
        if attr.is_null() {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's pointer, readable by contract.
        let attr = unsafe { *attr };
        let port = device.port();
        let routed = attr.is_global != 0;
        let known = if port.is_infiniband() {
            attr.dlid != 0
        } else {
            routed
        };
        let source = !routed || u32::from(attr.grh.sgid_index) < port.gid_count();
        if !known || !source || attr.port_num != 1 {
            return Err(Errno::INVAL);
        }
        let value = Owned::new(ffi::ibv_ah {
            // SAFETY: the domain is alive, it was just looked up.
            context: unsafe { (*pd).context },
            pd,
            handle: 0,
        });
        let pointer = value.as_ptr();
        let vector = Owned::new(address_vector(port, &attr));
        handle::insert(&device, context, Kind::Ah(value, vector, pd.addr()));
        Ok(pointer)
    }))
}

/// Frees a path.
///
/// # Safety
/// Nobody uses the path any more.
#[cfg_attr(feature = "export", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn ibv_destroy_ah(ah: *mut ffi::ibv_ah) -> c_int {
    let found = handle::look(ah, |kind| matches!(kind, Kind::Ah(..)).then_some(()));
    number(found.map(|_| handle::remove(ah)))
}
