//! Commands on protection domains, transport domains, UAR pages and memory keys.

use super::bits::layout;
use super::command::command;
use super::{InHeader, Mkc, OutHeader};

/// A 16-byte input mailbox with at most one number.
macro_rules! small_in {
    ($($(#[$doc:meta])* $in:ident = $ifc:literal { $($get:ident, $set:ident)? };)*) => {$(
        layout! {
            $(#[$doc])*
            $in = $ifc, 16 {
                members {
                    /// Opcode.
                    pub header: InHeader,
                    tail: [u8; 8],
                }
                parts { header: InHeader @ 0x0; }
                fields { $($get, $set: bits(24) @ 0x48;)? }
            }
        }
    )*};
}

/// A 16-byte output mailbox with at most one number.
macro_rules! small_out {
    ($($(#[$doc:meta])* $out:ident = $ifc:literal { $($get:ident, $set:ident)? };)*) => {$(
        layout! {
            $(#[$doc])*
            $out = $ifc, 16 {
                members {
                    /// Status.
                    pub header: OutHeader,
                    tail: [u8; 8],
                }
                parts { header: OutHeader @ 0x0; }
                fields { $($get, $set: bits(24) @ 0x48;)? }
            }
        }
    )*};
}

small_in! {
    /// ALLOC_PD, input.
    AllocPdIn = "alloc_pd_in" {};
    /// DEALLOC_PD, input.
    DeallocPdIn = "dealloc_pd_in" { pd, set_pd };
    /// ALLOC_UAR, input.
    AllocUarIn = "alloc_uar_in" {};
    /// DEALLOC_UAR, input.
    DeallocUarIn = "dealloc_uar_in" { uar, set_uar };
    /// ALLOC_TRANSPORT_DOMAIN, input.
    AllocTransportDomainIn = "alloc_transport_domain_in" {};
    /// DEALLOC_TRANSPORT_DOMAIN, input.
    DeallocTransportDomainIn = "dealloc_transport_domain_in" {
        transport_domain, set_transport_domain
    };
    /// DESTROY_MKEY, input.
    DestroyMkeyIn = "destroy_mkey_in" { mkey_index, set_mkey_index };
}

small_out! {
    /// ALLOC_PD, output.
    AllocPdOut = "alloc_pd_out" { pd, set_pd };
    /// DEALLOC_PD, output.
    DeallocPdOut = "dealloc_pd_out" {};
    /// ALLOC_UAR, output.
    AllocUarOut = "alloc_uar_out" { uar, set_uar };
    /// DEALLOC_UAR, output.
    DeallocUarOut = "dealloc_uar_out" {};
    /// ALLOC_TRANSPORT_DOMAIN, output.
    AllocTransportDomainOut = "alloc_transport_domain_out" {
        transport_domain, set_transport_domain
    };
    /// DEALLOC_TRANSPORT_DOMAIN, output.
    DeallocTransportDomainOut = "dealloc_transport_domain_out" {};
    /// CREATE_MKEY, output: bits 31:8 of the key.
    CreateMkeyOut = "create_mkey_out" { mkey_index, set_mkey_index };
    /// DESTROY_MKEY, output.
    DestroyMkeyOut = "destroy_mkey_out" {};
}

layout! {
    /// CREATE_MKEY, input; the translation list that may follow is not used with a umem.
    CreateMkeyIn = "create_mkey_in", 272 {
        members {
            /// Opcode.
            pub header: InHeader,
            gap: [u8; 8],
            /// The key.
            pub memory_key_mkey_entry: Mkc,
            tail: [u8; 192],
        }
        parts {
            header: InHeader @ 0x0;
            memory_key_mkey_entry: Mkc @ 0x80;
        }
        fields {
            pg_access, set_pg_access: bool @ 0x60;
            /// The memory is in `mkey_umem_id`.
            mkey_umem_valid, set_mkey_umem_valid: bool @ 0x61;
            /// Size of the translation table, in 16-byte units.
            translations_octword_actual_size, set_translations_octword_actual_size: u32 @ 0x300;
            /// This and the offset are not in the kernel's header; from DPDK's and UCX's
            /// descriptions.
            mkey_umem_id, set_mkey_umem_id: u32 @ 0x320;
            /// Offset of the memory in its umem, in bytes.
            mkey_umem_offset, set_mkey_umem_offset: u64 @ 0x340;
        }
    }
}

command!(AllocPdIn -> AllocPdOut, AllocPd);
command!(DeallocPdIn -> DeallocPdOut, DeallocPd);
command!(AllocUarIn -> AllocUarOut, AllocUar);
command!(DeallocUarIn -> DeallocUarOut, DeallocUar);
layout! {
    /// QUERY_MKEY, input.
    QueryMkeyIn = "query_mkey_in", 16 {
        members {
            /// Opcode.
            pub header: InHeader,
            tail: [u8; 8],
        }
        parts { header: InHeader @ 0x0; }
        fields {
            /// Bits 31:8 of the key.
            mkey_index, set_mkey_index: bits(24) @ 0x48;
            pg_access, set_pg_access: bool @ 0x60;
        }
    }
}

layout! {
    /// QUERY_MKEY, output; the first entries of the translation table are not read.
    QueryMkeyOut = "query_mkey_out", 304 {
        members {
            /// Status.
            pub header: OutHeader,
            gap: [u8; 8],
            /// The key.
            pub memory_key_mkey_entry: Mkc,
            tail: [u8; 224],
        }
        parts {
            header: OutHeader @ 0x0;
            memory_key_mkey_entry: Mkc @ 0x80;
        }
        fields {}
    }
}

command!(AllocTransportDomainIn -> AllocTransportDomainOut, AllocTransportDomain);
command!(DeallocTransportDomainIn -> DeallocTransportDomainOut, DeallocTransportDomain);
command!(CreateMkeyIn -> CreateMkeyOut, CreateMkey);
command!(QueryMkeyIn -> QueryMkeyOut, QueryMkey);
command!(DestroyMkeyIn -> DestroyMkeyOut, DestroyMkey);
