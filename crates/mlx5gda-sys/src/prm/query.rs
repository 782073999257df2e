//! Commands that ask after the device and its port, and one that does nothing.

use super::bits::layout;
use super::command::command;
use super::{InHeader, OutHeader};

/// A 16-byte input mailbox with the fields given.
macro_rules! asking {
    ($($(#[$doc:meta])* $in:ident = $ifc:literal { $($fields:tt)* };)*) => {$(
        layout! {
            $(#[$doc])*
            $in = $ifc, 16 {
                members {
                    /// Opcode.
                    pub header: InHeader,
                    tail: [u8; 8],
                }
                parts { header: InHeader @ 0x0; }
                fields { $($fields)* }
            }
        }
    )*};
}

asking! {
    /// NOP, input.
    NopIn = "nop_in" {};
    /// QUERY_ADAPTER, input.
    QueryAdapterIn = "query_adapter_in" {};
    /// QUERY_ISSI, input.
    QueryIssiIn = "query_issi_in" {};
    /// QUERY_VPORT_STATE, input.
    QueryVportStateIn = "query_vport_state_in" {
        /// Of the port of another function, named by `vport_number`.
        other_vport, set_other_vport: bool @ 0x40;
        vport_number, set_vport_number: u16 @ 0x50;
    };
    /// QUERY_NIC_VPORT_CONTEXT, input.
    QueryNicVportContextIn = "query_nic_vport_context_in" {
        /// Of the port of another function, named by `vport_number`.
        other_vport, set_other_vport: bool @ 0x40;
        vport_number, set_vport_number: u16 @ 0x50;
        /// List to return: 0 the unicast addresses.
        allowed_list_type, set_allowed_list_type: bits(3) @ 0x65;
    };
    /// QUERY_ROCE_ADDRESS, input.
    QueryRoceAddressIn = "query_roce_address_in" {
        /// Index in the GID table.
        roce_address_index, set_roce_address_index: u16 @ 0x40;
        vhca_port_num, set_vhca_port_num: bits(4) @ 0x5c;
    };
}

layout! {
    /// NOP, output.
    NopOut = "nop_out", 16 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 8],
        }
        parts { header: OutHeader @ 0x0; }
        fields {}
    }
}

layout! {
    /// Who made the device (`query_adapter_param_block`).
    AdapterParamBlock = "query_adapter_param_block", 256 {
        members { bytes: [u8; 256], }
        parts {}
        fields {
            /// The maker's number at the IEEE.
            ieee_vendor_id, set_ieee_vendor_id: bits(24) @ 0xc8;
            vsd_vendor_id, set_vsd_vendor_id: u16 @ 0xf0;
            /// Name of the firmware's parameter set, in ASCII.
            vsd_contd_psid, set_vsd_contd_psid: bytes(16) @ 0x780;
        }
    }
}

layout! {
    /// QUERY_ADAPTER, output.
    QueryAdapterOut = "query_adapter_out", 272 {
        members {
            /// Status.
            pub header: OutHeader,
            gap: [u8; 8],
            /// Who made the device.
            pub query_adapter_struct: AdapterParamBlock,
        }
        parts {
            header: OutHeader @ 0x0;
            query_adapter_struct: AdapterParamBlock @ 0x80;
        }
        fields {}
    }
}

layout! {
    /// QUERY_ISSI, output.
    QueryIssiOut = "query_issi_out", 112 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 104],
        }
        parts { header: OutHeader @ 0x0; }
        fields {
            /// Version of the command interface in use.
            current_issi, set_current_issi: u16 @ 0x50;
            /// Bit n: version n is supported.
            supported_issi_dw0, set_supported_issi_dw0: u32 @ 0x360;
        }
    }
}

layout! {
    /// QUERY_VPORT_STATE, output.
    QueryVportStateOut = "query_vport_state_out", 16 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 8],
        }
        parts { header: OutHeader @ 0x0; }
        fields {
            /// State asked for: 0 down, 1 up, 2 as the port.
            admin_state, set_admin_state: bits(4) @ 0x78;
            /// State: 0 down, 1 up.
            state, set_state: bits(4) @ 0x7c;
        }
    }
}

layout! {
    /// MAC address (`mac_address_layout`).
    MacAddress = "mac_address_layout", 8 {
        members { bytes: [u8; 8], }
        parts {}
        fields {
            mac_addr_47_32, set_mac_addr_47_32: u16 @ 0x10;
            mac_addr_31_0, set_mac_addr_31_0: u32 @ 0x20;
        }
    }
}

layout! {
    /// An Ethernet port (`nic_vport_context`); the list of addresses that may follow is not read.
    NicVportContext = "nic_vport_context", 256 {
        members {
            head: [u8; 244],
            /// Address that the port was made with.
            pub permanent_address: MacAddress,
            tail: [u8; 4],
        }
        parts { permanent_address: MacAddress @ 0x7a0; }
        fields {
            min_wqe_inline_mode, set_min_wqe_inline_mode: bits(3) @ 0x5;
            /// RoCE is enabled.
            roce_en, set_roce_en: bool @ 0x1f;
            /// Largest packet, in bytes.
            mtu, set_mtu: u16 @ 0x130;
            system_image_guid, set_system_image_guid: u64 @ 0x140;
            port_guid, set_port_guid: u64 @ 0x180;
            node_guid, set_node_guid: u64 @ 0x1c0;
            qkey_violation_counter, set_qkey_violation_counter: u16 @ 0x340;
            allowed_list_type, set_allowed_list_type: bits(3) @ 0x785;
            /// Entries of the list that follows.
            allowed_list_size, set_allowed_list_size: bits(12) @ 0x794;
        }
    }
}

layout! {
    /// QUERY_NIC_VPORT_CONTEXT, output.
    QueryNicVportContextOut = "query_nic_vport_context_out", 272 {
        members {
            /// Status.
            pub header: OutHeader,
            gap: [u8; 8],
            /// The port.
            pub nic_vport_context: NicVportContext,
        }
        parts {
            header: OutHeader @ 0x0;
            nic_vport_context: NicVportContext @ 0x80;
        }
        fields {}
    }
}

layout! {
    /// An entry of the GID table (`roce_addr_layout`).
    RoceAddr = "roce_addr_layout", 32 {
        members { bytes: [u8; 32], }
        parts {}
        fields {
            /// The address; IPv4 in the low 4 bytes or mapped, as it was set.
            source_l3_address, set_source_l3_address: bytes(16) @ 0x0;
            vlan_valid, set_vlan_valid: bool @ 0x83;
            vlan_id, set_vlan_id: bits(12) @ 0x84;
            source_mac_47_32, set_source_mac_47_32: u16 @ 0x90;
            source_mac_31_0, set_source_mac_31_0: u32 @ 0xa0;
            /// 0 GRH (RoCE v1), 1 IPv4, 2 IPv6.
            roce_l3_type, set_roce_l3_type: bits(4) @ 0xd4;
            /// 0 RoCE v1, 2 RoCE v2.
            roce_version, set_roce_version: u8 @ 0xd8;
        }
    }
}

layout! {
    /// QUERY_ROCE_ADDRESS, output.
    QueryRoceAddressOut = "query_roce_address_out", 48 {
        members {
            /// Status.
            pub header: OutHeader,
            gap: [u8; 8],
            /// The entry.
            pub roce_address: RoceAddr,
        }
        parts {
            header: OutHeader @ 0x0;
            roce_address: RoceAddr @ 0x80;
        }
        fields {}
    }
}

command!(NopIn -> NopOut, Nop);
command!(QueryAdapterIn -> QueryAdapterOut, QueryAdapter);
command!(QueryIssiIn -> QueryIssiOut, QueryIssi);
command!(QueryVportStateIn -> QueryVportStateOut, QueryVportState);
command!(QueryNicVportContextIn -> QueryNicVportContextOut, QueryNicVportContext);
command!(QueryRoceAddressIn -> QueryRoceAddressOut, QueryRoceAddress);
