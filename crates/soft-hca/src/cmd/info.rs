//! What the device and its port say of themselves by command.

use mlx5gda_sys::prm::{
    QueryAdapterOut, QueryIssiOut, QueryNicVportContextIn, QueryNicVportContextOut,
    QueryRoceAddressIn, QueryRoceAddressOut, QueryVportStateIn, QueryVportStateOut,
};

use super::{CmdResult, Reason};
use crate::device::State;
use crate::net::Port;

/// Mellanox Technologies' number at the IEEE.
const VENDOR: u32 = 0x02c9;
/// What stands where firmware has the name of its parameter set.
const PSID: &[u8; 16] = b"SOFT_HCA\0\0\0\0\0\0\0\0";
/// Version of the command interface, the one that every client speaks.
const ISSI: u16 = 1;
/// `roce_l3_type` of IPv4 and IPv6.
const IPV4: u32 = 1;
const IPV6: u32 = 2;
/// `roce_version` of RoCE v2.
const ROCE_V2: u8 = 2;

/// Fields have room for what is written to them here.
fn fits<E: std::fmt::Debug>(result: Result<(), E>) {
    debug_assert!(result.is_ok(), "{result:?}");
}

impl State {
    pub(super) fn query_adapter(&self, out: &mut QueryAdapterOut) {
        let adapter = &mut out.query_adapter_struct;
        fits(adapter.set_ieee_vendor_id(VENDOR));
        adapter.set_vsd_contd_psid(*PSID);
    }

    pub(super) fn query_issi(&self, out: &mut QueryIssiOut) {
        out.set_current_issi(ISSI);
        out.set_supported_issi_dw0(1 << ISSI);
    }

    pub(super) fn query_vport_state(
        &self,
        command: &QueryVportStateIn,
        out: &mut QueryVportStateOut,
    ) -> CmdResult {
        own_port(command.other_vport(), command.vport_number())?;
        fits(out.set_admin_state(1));
        fits(out.set_state(u32::from(!self.faults.link_is_down())));
        Ok(())
    }

    pub(super) fn query_nic_vport_context(
        &self,
        command: &QueryNicVportContextIn,
        out: &mut QueryNicVportContextOut,
    ) -> CmdResult {
        own_port(command.other_vport(), command.vport_number())?;
        if self.port.is_infiniband() {
            return Err(Reason::LinkLayer);
        }
        let guid = self.port.guid();
        let context = &mut out.nic_vport_context;
        context.set_roce_en(true);
        context.set_mtu(self.mtu.bytes() as u16);
        context.set_system_image_guid(guid);
        context.set_port_guid(guid);
        context.set_node_guid(guid);
        let [a, b, c, d, e, f] = Port::mac(self.port.address);
        let mac = &mut context.permanent_address;
        mac.set_mac_addr_47_32(u16::from_be_bytes([a, b]));
        mac.set_mac_addr_31_0(u32::from_be_bytes([c, d, e, f]));
        Ok(())
    }

    pub(super) fn query_roce_address(
        &self,
        command: &QueryRoceAddressIn,
        out: &mut QueryRoceAddressOut,
    ) -> CmdResult {
        if self.port.is_infiniband() {
            return Err(Reason::LinkLayer);
        }
        let index = u32::from(command.roce_address_index());
        if index >= self.port.gid_count() || command.vhca_port_num() > 1 {
            return Err(Reason::GidIndex);
        }
        let gid = self.port.gid();
        let entry = &mut out.roce_address;
        entry.set_source_l3_address(gid.octets());
        if index == self.port.gid_index() {
            let ipv4 = gid.to_ipv4_mapped().is_some();
            fits(entry.set_roce_l3_type(if ipv4 { IPV4 } else { IPV6 }));
            entry.set_roce_version(ROCE_V2);
        }
        Ok(())
    }
}

/// There is one function, with one port.
fn own_port(other: bool, number: u16) -> CmdResult {
    if other || number != 0 {
        return Err(Reason::Vport);
    }
    Ok(())
}
