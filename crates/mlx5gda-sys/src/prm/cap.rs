//! QUERY_HCA_CAP and its pages.

use super::bits::layout;
use super::command::command;
use super::{InHeader, OutHeader};

/// Which page of capabilities is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum CapType {
    /// [`CmdHcaCap`], answered with [`QueryHcaCapOut`].
    General = 0,
    /// [`AtomicCaps`], answered with [`QueryAtomicCapOut`].
    Atomic = 3,
    /// [`RoceCap`], answered with [`QueryRoceCapOut`].
    Roce = 4,
}

/// Whether what is possible or what is set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CapMode {
    /// The most the device can do.
    Max = 0,
    /// What the driver has set.
    Current = 1,
}

impl CapType {
    /// `op_mod` of the command that asks for this page.
    #[must_use]
    pub const fn op_mod(self, mode: CapMode) -> u16 {
        (self as u16) << 1 | mode as u16
    }

    /// Takes `op_mod` apart; `None` for a page that is not listed here.
    #[must_use]
    pub const fn from_op_mod(op_mod: u16) -> Option<(Self, CapMode)> {
        let mode = if op_mod & 1 == 0 {
            CapMode::Max
        } else {
            CapMode::Current
        };
        match op_mod >> 1 {
            0 => Some((Self::General, mode)),
            3 => Some((Self::Atomic, mode)),
            4 => Some((Self::Roce, mode)),
            _ => None,
        }
    }
}

layout! {
    /// QUERY_HCA_CAP, input. The page is chosen by `header.op_mod`: see [`CapType::op_mod`].
    QueryHcaCapIn = "query_hca_cap_in", 16 {
        members {
            /// Opcode and page.
            pub header: InHeader,
            tail: [u8; 8],
        }
        parts { header: InHeader @ 0x0; }
        fields {
            other_function, set_other_function: bool @ 0x40;
            function_id, set_function_id: u16 @ 0x50;
        }
    }
}

/// The output for one page; all pages are padded to one size.
macro_rules! cap_out {
    ($($(#[$doc:meta])* $out:ident: $page:ident;)*) => {$(
        layout! {
            $(#[$doc])*
            $out = "query_hca_cap_out", 4112 {
                members {
                    /// Status.
                    pub header: OutHeader,
                    gap: [u8; 8],
                    /// The page.
                    pub capability: $page,
                    tail: [u8; 3840],
                }
                parts {
                    header: OutHeader @ 0x0;
                    capability: $page @ 0x80;
                }
                fields {}
            }
        }
    )*};
}

cap_out! {
    /// QUERY_HCA_CAP, output for the general device page.
    QueryHcaCapOut: CmdHcaCap;
    /// QUERY_HCA_CAP, output for the RoCE page.
    QueryRoceCapOut: RoceCap;
    /// QUERY_HCA_CAP, output for the atomics page.
    QueryAtomicCapOut: AtomicCaps;
}

command!(QueryHcaCapIn -> QueryHcaCapOut, QueryHcaCap);

layout! {
    /// General device capabilities (`cmd_hca_cap`), those that queue pairs need.
    CmdHcaCap = "cmd_hca_cap", 256 {
        members { bytes: [u8; 256], }
        parts {}
        fields {
            hca_cap_2, set_hca_cap_2: bool @ 0x20;
            vhca_id, set_vhca_id: u16 @ 0x30;
            /// Deepest queue of a queue pair: 2^value entries.
            log_max_qp_sz, set_log_max_qp_sz: u8 @ 0x88;
            /// Queue pairs: 2^value.
            log_max_qp, set_log_max_qp: bits(5) @ 0x9b;
            ece_support, set_ece_support: bool @ 0xa3;
            log_max_srq, set_log_max_srq: bits(5) @ 0xab;
            max_sgl_for_optimized_performance, set_max_sgl_for_optimized_performance: u8 @ 0xc0;
            /// Deepest completion queue: 2^value entries.
            log_max_cq_sz, set_log_max_cq_sz: u8 @ 0xc8;
            /// Completion queues: 2^value.
            log_max_cq, set_log_max_cq: bits(5) @ 0xdb;
            relaxed_ordering_write, set_relaxed_ordering_write: bool @ 0xe8;
            relaxed_ordering_read, set_relaxed_ordering_read: bool @ 0xe9;
            log_max_mkey, set_log_max_mkey: bits(6) @ 0xea;
            /// Largest memory region: 2^value bytes.
            log_max_mrw_sz, set_log_max_mrw_sz: bits(7) @ 0x109;
            /// Outstanding reads and atomics as requester: 2^value.
            log_max_ra_req_qp, set_log_max_ra_req_qp: bits(6) @ 0x14a;
            /// Outstanding reads and atomics as responder: 2^value.
            log_max_ra_res_qp, set_log_max_ra_res_qp: bits(6) @ 0x15a;
            end_pad, set_end_pad: bool @ 0x160;
            /// GIDs: 8 * 2^value.
            gid_table_size, set_gid_table_size: u16 @ 0x170;
            max_qp_cnt, set_max_qp_cnt: bits(10) @ 0x186;
            /// Partition keys: 128 * 2^value.
            pkey_table_size, set_pkey_table_size: u16 @ 0x190;
            /// Time the device may take to acknowledge: 4.096 us * 2^value.
            local_ca_ack_delay, set_local_ca_ack_delay: bits(5) @ 0x1ab;
            /// See [`super::PortType`].
            port_type, set_port_type: bits(2) @ 0x1b6;
            num_ports, set_num_ports: u8 @ 0x1b8;
            /// Longest message: 2^value bytes.
            log_max_msg, set_log_max_msg: bits(5) @ 0x1c3;
            stat_rate_support, set_stat_rate_support: u16 @ 0x1e0;
            cqe_version, set_cqe_version: bits(4) @ 0x1fc;
            compact_address_vector, set_compact_address_vector: bool @ 0x200;
            wq_signature, set_wq_signature: bool @ 0x214;
            roce, set_roce: bool @ 0x21d;
            atomic, set_atomic: bool @ 0x21e;
            /// Completion queues can ignore overrun.
            cq_oi, set_cq_oi: bool @ 0x220;
            cq_moderation, set_cq_moderation: bool @ 0x222;
            cq_period_start_from_cqe, set_cq_period_start_from_cqe: bool @ 0x22b;
            qp_packet_based, set_qp_packet_based: bool @ 0x232;
            xrc, set_xrc: bool @ 0x23c;
            ud, set_ud: bool @ 0x23d;
            uc, set_uc: bool @ 0x23e;
            rc, set_rc: bool @ 0x23f;
            uar_4k, set_uar_4k: bool @ 0x240;
            /// Loopback of RC queue pairs works while RoCE is disabled.
            fl_rc_qp_when_roce_disabled, set_fl_rc_qp_when_roce_disabled: bool @ 0x248;
            umem_uid_0, set_umem_uid_0: bool @ 0x252;
            log_pg_sz, set_log_pg_sz: u8 @ 0x258;
            /// BlueFlame.
            bf, set_bf: bool @ 0x260;
            log_bf_reg_size, set_log_bf_reg_size: bits(5) @ 0x26b;
            lag_tx_port_affinity, set_lag_tx_port_affinity: bool @ 0x278;
            num_lag_ports, set_num_lag_ports: bits(4) @ 0x27c;
            /// Largest send WQE, in bytes.
            max_wqe_sz_sq, set_max_wqe_sz_sq: u16 @ 0x290;
            /// Largest receive WQE, in bytes.
            max_wqe_sz_rq, set_max_wqe_sz_rq: u16 @ 0x2b0;
            log_max_pd, set_log_max_pd: bits(5) @ 0x32b;
            sq_ts_format, set_sq_ts_format: bits(2) @ 0x440;
            rq_ts_format, set_rq_ts_format: bits(2) @ 0x442;
            log_max_umem, set_log_max_umem: bits(5) @ 0x46b;
            log_uar_page_sz, set_log_uar_page_sz: u16 @ 0x490;
            device_frequency_khz, set_device_frequency_khz: u32 @ 0x4e0;
            cqe_compression, set_cqe_compression: bool @ 0x5bf;
            native_port_num, set_native_port_num: u8 @ 0x608;
            num_vhca_ports, set_num_vhca_ports: u8 @ 0x610;
            uctx_cap, set_uctx_cap: u32 @ 0x6a0;
        }
    }
}

layout! {
    /// RoCE capabilities (`roce_cap`).
    RoceCap = "roce_cap", 256 {
        members { bytes: [u8; 256], }
        parts {}
        fields {
            roce_apm, set_roce_apm: bool @ 0x0;
            /// The UDP source port of a queue pair can be set.
            sw_r_roce_src_udp_port, set_sw_r_roce_src_udp_port: bool @ 0x4;
            fl_rc_qp_when_roce_disabled, set_fl_rc_qp_when_roce_disabled: bool @ 0x5;
            fl_rc_qp_when_roce_enabled, set_fl_rc_qp_when_roce_enabled: bool @ 0x6;
            qp_ts_format, set_qp_ts_format: bits(2) @ 0x1e;
            l3_type, set_l3_type: bits(4) @ 0x8c;
            /// Bit 0 RoCE v1, bit 2 RoCE v2.
            roce_version, set_roce_version: u8 @ 0x98;
            r_roce_dest_udp_port, set_r_roce_dest_udp_port: u16 @ 0xb0;
            r_roce_max_src_udp_port, set_r_roce_max_src_udp_port: u16 @ 0xc0;
            r_roce_min_src_udp_port, set_r_roce_min_src_udp_port: u16 @ 0xd0;
            roce_address_table_size, set_roce_address_table_size: u16 @ 0xf0;
        }
    }
}

layout! {
    /// Atomics capabilities (`atomic_caps`).
    AtomicCaps = "atomic_caps", 256 {
        members { bytes: [u8; 256], }
        parts {}
        fields {
            /// 0: 8-byte results arrive big endian, 1: in host order. (`atomic_req_8B_endianness_mode`)
            atomic_req_8b_endianness_mode, set_atomic_req_8b_endianness_mode: bits(2) @ 0x40;
            /// Bit 0 compare and swap, bit 1 fetch and add, bits 2 and 3 the masked ones.
            atomic_operations, set_atomic_operations: u16 @ 0x90;
            /// Operand sizes in bytes, added up.
            atomic_size_qp, set_atomic_size_qp: u16 @ 0xb0;
            atomic_size_dc, set_atomic_size_dc: u16 @ 0xd0;
        }
    }
}
