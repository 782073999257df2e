//! Commands on queue pairs.

use super::bits::layout;
use super::command::command;
use super::{InHeader, OutHeader, Qpc};

/// Bits of `opt_param_mask`: which optional fields a transition takes from its context
/// (`MLX5_QP_OPTPAR_*`).
pub mod opt_param {
    /// `rre`.
    pub const RRE: u32 = 1 << 1;
    /// `rae`.
    pub const RAE: u32 = 1 << 2;
    /// `rwe`.
    pub const RWE: u32 = 1 << 3;
    /// `primary_address_path.pkey_index`.
    pub const PKEY_INDEX: u32 = 1 << 4;
    /// `min_rnr_nak`.
    pub const RNR_TIMEOUT: u32 = 1 << 6;
    /// `primary_address_path`.
    pub const PRIMARY_ADDR_PATH: u32 = 1 << 7;
    /// `log_sra_max`.
    pub const SRA_MAX: u32 = 1 << 8;
    /// `log_rra_max`.
    pub const RRA_MAX: u32 = 1 << 9;
    /// `pm_state`.
    pub const PM_STATE: u32 = 1 << 10;
    /// `retry_count`.
    pub const RETRY_COUNT: u32 = 1 << 12;
    /// `rnr_retry`.
    pub const RNR_RETRY: u32 = 1 << 13;
    /// `primary_address_path.ack_timeout`.
    pub const ACK_TIMEOUT: u32 = 1 << 14;
    /// `lag_tx_port_affinity`.
    pub const LAG_TX_AFFINITY: u32 = 1 << 15;
    /// `primary_address_path.vhca_port_num`.
    pub const PRIMARY_PORT: u32 = 1 << 16;
    /// `cqn_rcv`.
    pub const CQN_RCV: u32 = 1 << 19;
    /// `counter_set_id`.
    pub const COUNTER_SET_ID: u32 = 1 << 25;
}

layout! {
    /// CREATE_QP, input; the page list that may follow is not used with a umem.
    CreateQpIn = "create_qp_in", 272 {
        members {
            /// Opcode.
            pub header: InHeader,
            head: [u8; 16],
            /// The queue pair.
            pub qpc: Qpc,
            tail: [u8; 16],
        }
        parts {
            header: InHeader @ 0x0;
            qpc: Qpc @ 0xc0;
        }
        fields {
            /// Queue pair number asked for, 0 for any.
            input_qpn, set_input_qpn: bits(24) @ 0x48;
            opt_param_mask, set_opt_param_mask: u32 @ 0x80;
            ece, set_ece: u32 @ 0xa0;
            /// Offset of the queue buffer in its umem, in bytes. This and the identifier are not
            /// in the kernel's header; from DPDK's and NVSHMEM's descriptions.
            wq_umem_offset, set_wq_umem_offset: u64 @ 0x800;
            wq_umem_id, set_wq_umem_id: u32 @ 0x840;
            /// The queue buffer is in `wq_umem_id`.
            wq_umem_valid, set_wq_umem_valid: bool @ 0x860;
        }
    }
}

layout! {
    /// CREATE_QP, output.
    CreateQpOut = "create_qp_out", 16 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 8],
        }
        parts { header: OutHeader @ 0x0; }
        fields {
            /// Queue pair number.
            qpn, set_qpn: bits(24) @ 0x48;
            ece, set_ece: u32 @ 0x60;
        }
    }
}

layout! {
    /// QUERY_QP, output; the page list that may follow is not read.
    QueryQpOut = "query_qp_out", 272 {
        members {
            /// Status.
            pub header: OutHeader,
            head: [u8; 16],
            /// The queue pair.
            pub qpc: Qpc,
            tail: [u8; 16],
        }
        parts {
            header: OutHeader @ 0x0;
            qpc: Qpc @ 0xc0;
        }
        fields {
            opt_param_mask, set_opt_param_mask: u32 @ 0x80;
            ece, set_ece: u32 @ 0xa0;
        }
    }
}

/// Commands that only name a queue pair, and the output of those that answer nothing.
macro_rules! by_number {
    ($($(#[$doc:meta])* $in:ident = $ifc:literal;)*) => {$(
        layout! {
            $(#[$doc])*
            $in = $ifc, 16 {
                members {
                    /// Opcode.
                    pub header: InHeader,
                    tail: [u8; 8],
                }
                parts { header: InHeader @ 0x0; }
                fields {
                    /// Queue pair number.
                    qpn, set_qpn: bits(24) @ 0x48;
                }
            }
        }
    )*};
}

by_number! {
    /// DESTROY_QP, input.
    DestroyQpIn = "destroy_qp_in";
    /// QUERY_QP, input.
    QueryQpIn = "query_qp_in";
    /// 2ERR_QP, input.
    Qp2ErrIn = "qp_2err_in";
    /// 2RST_QP, input.
    Qp2RstIn = "qp_2rst_in";
}

macro_rules! plain_out {
    ($($(#[$doc:meta])* $out:ident = $ifc:literal;)*) => {$(
        layout! {
            $(#[$doc])*
            $out = $ifc, 16 {
                members {
                    /// Status.
                    pub header: OutHeader,
                    tail: [u8; 8],
                }
                parts { header: OutHeader @ 0x0; }
                fields {}
            }
        }
    )*};
}

plain_out! {
    /// DESTROY_QP, output.
    DestroyQpOut = "destroy_qp_out";
    /// 2ERR_QP, output.
    Qp2ErrOut = "qp_2err_out";
    /// 2RST_QP, output.
    Qp2RstOut = "qp_2rst_out";
}

/// State transitions that carry a context, and their output.
macro_rules! transition {
    ($($(#[$doc:meta])* $in:ident = $in_ifc:literal, $out:ident = $out_ifc:literal;)*) => {$(
        layout! {
            $(#[$doc])*
            $in = $in_ifc, 272 {
                members {
                    /// Opcode.
                    pub header: InHeader,
                    head: [u8; 16],
                    /// The fields that the transition needs.
                    pub qpc: Qpc,
                    tail: [u8; 16],
                }
                parts {
                    header: InHeader @ 0x0;
                    qpc: Qpc @ 0xc0;
                }
                fields {
                    /// Queue pair number.
                    qpn, set_qpn: bits(24) @ 0x48;
                    /// See [`opt_param`].
                    opt_param_mask, set_opt_param_mask: u32 @ 0x80;
                    ece, set_ece: u32 @ 0xa0;
                }
            }
        }

        layout! {
            #[doc = concat!("Output of [`", stringify!($in), "`].")]
            $out = $out_ifc, 16 {
                members {
                    /// Status.
                    pub header: OutHeader,
                    tail: [u8; 8],
                }
                parts { header: OutHeader @ 0x0; }
                fields {
                    ece, set_ece: u32 @ 0x60;
                }
            }
        }
    )*};
}

transition! {
    /// RST2INIT_QP, input.
    Rst2InitQpIn = "rst2init_qp_in", Rst2InitQpOut = "rst2init_qp_out";
    /// INIT2INIT_QP, input.
    Init2InitQpIn = "init2init_qp_in", Init2InitQpOut = "init2init_qp_out";
    /// INIT2RTR_QP, input.
    Init2RtrQpIn = "init2rtr_qp_in", Init2RtrQpOut = "init2rtr_qp_out";
    /// RTR2RTS_QP, input.
    Rtr2RtsQpIn = "rtr2rts_qp_in", Rtr2RtsQpOut = "rtr2rts_qp_out";
    /// RTS2RTS_QP, input.
    Rts2RtsQpIn = "rts2rts_qp_in", Rts2RtsQpOut = "rts2rts_qp_out";
}

command!(CreateQpIn -> CreateQpOut, CreateQp);
command!(DestroyQpIn -> DestroyQpOut, DestroyQp);
command!(QueryQpIn -> QueryQpOut, QueryQp);
command!(Rst2InitQpIn -> Rst2InitQpOut, Rst2InitQp);
command!(Init2InitQpIn -> Init2InitQpOut, Init2InitQp);
command!(Init2RtrQpIn -> Init2RtrQpOut, Init2RtrQp);
command!(Rtr2RtsQpIn -> Rtr2RtsQpOut, Rtr2RtsQp);
command!(Rts2RtsQpIn -> Rts2RtsQpOut, Rts2RtsQp);
command!(Qp2ErrIn -> Qp2ErrOut, Qp2Err);
command!(Qp2RstIn -> Qp2RstOut, Qp2Rst);
