//! Commands on completion queues.

use super::bits::layout;
use super::command::command;
use super::{Cqc, InHeader, OutHeader};

layout! {
    /// CREATE_CQ, input; the page list that may follow is not used with a umem.
    CreateCqIn = "create_cq_in", 272 {
        members {
            /// Opcode.
            pub header: InHeader,
            gap: [u8; 8],
            /// The queue.
            pub cq_context: Cqc,
            tail: [u8; 192],
        }
        parts {
            header: InHeader @ 0x0;
            cq_context: Cqc @ 0x80;
        }
        fields {
            /// Offset of the ring in its umem, in bytes. This and the identifier are not in the
            /// kernel's header; from DPDK's and NVSHMEM's descriptions.
            cq_umem_offset, set_cq_umem_offset: u64 @ 0x280;
            cq_umem_id, set_cq_umem_id: u32 @ 0x2c0;
            /// The ring is in `cq_umem_id`.
            cq_umem_valid, set_cq_umem_valid: bool @ 0x2e0;
        }
    }
}

layout! {
    /// CREATE_CQ, output.
    CreateCqOut = "create_cq_out", 16 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 8],
        }
        parts { header: OutHeader @ 0x0; }
        fields {
            /// Completion queue number.
            cqn, set_cqn: bits(24) @ 0x48;
        }
    }
}

layout! {
    /// DESTROY_CQ, input.
    DestroyCqIn = "destroy_cq_in", 16 {
        members {
            /// Opcode.
            pub header: InHeader,
            tail: [u8; 8],
        }
        parts { header: InHeader @ 0x0; }
        fields {
            cqn, set_cqn: bits(24) @ 0x48;
        }
    }
}

layout! {
    /// DESTROY_CQ, output.
    DestroyCqOut = "destroy_cq_out", 16 {
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
    /// QUERY_CQ, input.
    QueryCqIn = "query_cq_in", 16 {
        members {
            /// Opcode.
            pub header: InHeader,
            tail: [u8; 8],
        }
        parts { header: InHeader @ 0x0; }
        fields {
            cqn, set_cqn: bits(24) @ 0x48;
        }
    }
}

layout! {
    /// QUERY_CQ, output; the page list that may follow is not read.
    QueryCqOut = "query_cq_out", 272 {
        members {
            /// Status.
            pub header: OutHeader,
            gap: [u8; 8],
            /// The queue.
            pub cq_context: Cqc,
            tail: [u8; 192],
        }
        parts {
            header: OutHeader @ 0x0;
            cq_context: Cqc @ 0x80;
        }
        fields {}
    }
}

layout! {
    /// MODIFY_CQ, input.
    ModifyCqIn = "modify_cq_in", 272 {
        members {
            /// Opcode.
            pub header: InHeader,
            gap: [u8; 8],
            /// The new values.
            pub cq_context: Cqc,
            tail: [u8; 192],
        }
        parts {
            header: InHeader @ 0x0;
            cq_context: Cqc @ 0x80;
        }
        fields {
            cqn, set_cqn: bits(24) @ 0x48;
            /// What changes (`modify_field_select_resize_field_select`): bit 0 `cq_period`,
            /// bit 1 `cq_max_count`, bit 2 `oi`.
            modify_field_select, set_modify_field_select: u32 @ 0x60;
            cq_umem_offset, set_cq_umem_offset: u64 @ 0x280;
            cq_umem_id, set_cq_umem_id: u32 @ 0x2c0;
            cq_umem_valid, set_cq_umem_valid: bool @ 0x2e0;
        }
    }
}

layout! {
    /// MODIFY_CQ, output.
    ModifyCqOut = "modify_cq_out", 16 {
        members {
            /// Status.
            pub header: OutHeader,
            tail: [u8; 8],
        }
        parts { header: OutHeader @ 0x0; }
        fields {}
    }
}

command!(CreateCqIn -> CreateCqOut, CreateCq);
command!(DestroyCqIn -> DestroyCqOut, DestroyCq);
command!(QueryCqIn -> QueryCqOut, QueryCq);
command!(ModifyCqIn -> ModifyCqOut, ModifyCq);
