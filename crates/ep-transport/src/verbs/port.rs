//! A port and its address.

use super::{Device, VerbsError};
use crate::member::records::PortAddress;
use mlx5gda_sys::ffi;

/// `IBV_PORT_ACTIVE`.
const ACTIVE: u32 = 4;
/// `IBV_LINK_LAYER_ETHERNET`.
const ETHERNET: u8 = 2;
/// `IBV_GID_TYPE_ROCE_V2`.
const ROCE_V2: u32 = 2;

/// What connecting needs to know about a port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Port {
    pub(crate) number: u8,
    pub(crate) gid_index: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) lid: u16,
    pub(crate) mtu: u32,
    pub(crate) ethernet: bool,
}

impl Port {
    pub(super) fn query(device: &Device, number: u8) -> Result<Self, VerbsError> {
        // SAFETY: all bits zero is a valid value of this struct of integers.
        let mut attributes: ffi::ibv_port_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open. The exported symbol fills the part of the
        // struct that is as old as the symbol, which is what is read below but for
        // the link layer, which it fills too.
        let status = unsafe {
            (device.table().ibv_query_port)(
                device.context(),
                number,
                std::ptr::from_mut(&mut attributes).cast(),
            )
        };
        if status != 0 {
            return Err(Device::call_failed("ibv_query_port", device.name()));
        }
        if attributes.state as u32 != ACTIVE {
            return Err(VerbsError::PortDown {
                device: device.name().to_owned(),
                port: number,
                state: attributes.state as u32,
            });
        }
        let ethernet = attributes.link_layer == ETHERNET;
        let (gid_index, gid) = pick_gid(device, number, ethernet, attributes.gid_tbl_len)?;
        Ok(Self {
            number,
            gid_index,
            gid,
            lid: attributes.lid,
            mtu: 128 << (attributes.active_mtu as u32).min(5),
            ethernet,
        })
    }

    pub(crate) fn address(&self) -> PortAddress {
        PortAddress {
            gid: self.gid,
            lid: self.lid,
            mtu: self.mtu,
            ethernet: self.ethernet,
        }
    }
}

/// The first RoCE v2 GID with an IPv4 address, else the first RoCE v2 GID;
/// on InfiniBand entry 0.
fn pick_gid(
    device: &Device,
    port: u8,
    ethernet: bool,
    entries: i32,
) -> Result<(u8, [u8; 16]), VerbsError> {
    let mut best = None;
    for index in 0..entries.clamp(0, 256) as u32 {
        // SAFETY: all bits zero is a valid value of this struct of integers.
        let mut entry: ffi::ibv_gid_entry = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open and `entry` is as large as said.
        let status = unsafe {
            (device.table()._ibv_query_gid_ex)(
                device.context(),
                port.into(),
                index,
                &mut entry,
                0,
                size_of::<ffi::ibv_gid_entry>(),
            )
        };
        if status != 0 {
            continue;
        }
        // SAFETY: both members of the union are 16 plain bytes.
        let gid = unsafe { entry.gid.raw };
        let index = index as u8;
        if !ethernet {
            return Ok((index, gid));
        }
        if entry.gid_type == ROCE_V2 {
            if is_ipv4(&gid) {
                return Ok((index, gid));
            }
            best.get_or_insert((index, gid));
        }
    }
    best.ok_or_else(|| VerbsError::NoGid {
        device: device.name().to_owned(),
        port,
        entries,
    })
}

fn is_ipv4(gid: &[u8; 16]) -> bool {
    std::net::Ipv6Addr::from(*gid).to_ipv4_mapped().is_some()
}
