//! Command mailboxes and contexts of the device (Programmer's Reference Manual, "PRM").
//!
//! Every layout is a table of named bit fields, from which its accessors and its entry in
//! [`LAYOUTS`] are made; a table with fields that overlap or leave their layout does not compile.
//! Bit 0 is the most significant bit of byte 0, as in the PRM and in the kernel's `mlx5_ifc.h`,
//! whose names are kept.
//!
//! A layout is a byte array in its own right: it can be owned, or seen in place in bytes that
//! somebody else owns ([`Layout::from_slice`], which checks the length). [`Mailbox`] owns one at
//! the alignment that the C calls expect.
//!
//! ```
//! use mlx5gda_sys::prm::{CreateQpIn, DestroyQpIn, Layout};
//!
//! let mut create = CreateQpIn::new();
//! create.qpc.set_rre(true);
//! create.qpc.set_q_key(1);
//! DestroyQpIn::new().set_qpn(7)?;
//! // Bytes that end too early are no mailbox.
//! assert!(CreateQpIn::from_slice(&[0; CreateQpIn::BYTES - 1]).is_none());
//! # Ok::<(), mlx5gda_sys::prm::FieldError>(())
//! ```
//!
//! What lies beyond the end of a mailbox has no name: this command has no context.
//!
//! ```compile_fail,E0609
//! mlx5gda_sys::prm::DestroyQpIn::new().qpc.set_rre(true);
//! ```
//!
//! A field takes values of its own type: this one is a number.
//!
//! ```compile_fail,E0308
//! mlx5gda_sys::prm::CreateQpIn::new().qpc.set_q_key(true);
//! ```

mod bits;
mod cap;
mod command;
mod context;
mod cq;
mod object;
mod qp;
mod query;
mod value;

pub use bits::{Field, FieldError, Info, Layout, Mailbox, Part};
pub use cap::{
    AtomicCaps, CapMode, CapType, CmdHcaCap, QueryAtomicCapOut, QueryHcaCapIn, QueryHcaCapOut,
    QueryRoceCapOut, RoceCap,
};
pub use command::{CmdOpcode, CmdStatus, CommandIn, InHeader, OutHeader};
pub use context::{Ads, Cqc, Mkc, Qpc};
pub use cq::{
    CreateCqIn, CreateCqOut, DestroyCqIn, DestroyCqOut, ModifyCqIn, ModifyCqOut, QueryCqIn,
    QueryCqOut,
};
pub use object::{
    AllocPdIn, AllocPdOut, AllocTransportDomainIn, AllocTransportDomainOut, AllocUarIn,
    AllocUarOut, CreateMkeyIn, CreateMkeyOut, DeallocPdIn, DeallocPdOut, DeallocTransportDomainIn,
    DeallocTransportDomainOut, DeallocUarIn, DeallocUarOut, DestroyMkeyIn, DestroyMkeyOut,
    QueryMkeyIn, QueryMkeyOut,
};
pub use qp::{
    CreateQpIn, CreateQpOut, DestroyQpIn, DestroyQpOut, Init2InitQpIn, Init2InitQpOut,
    Init2RtrQpIn, Init2RtrQpOut, Qp2ErrIn, Qp2ErrOut, Qp2RstIn, Qp2RstOut, QueryQpIn, QueryQpOut,
    Rst2InitQpIn, Rst2InitQpOut, Rtr2RtsQpIn, Rtr2RtsQpOut, Rts2RtsQpIn, Rts2RtsQpOut, opt_param,
};
pub use query::{
    AdapterParamBlock, MacAddress, NicVportContext, NopIn, NopOut, QueryAdapterIn, QueryAdapterOut,
    QueryIssiIn, QueryIssiOut, QueryNicVportContextIn, QueryNicVportContextOut, QueryRoceAddressIn,
    QueryRoceAddressOut, QueryVportStateIn, QueryVportStateOut, RoceAddr,
};
pub use value::{AtomicMode, Mtu, PmState, PortType, QpState, RqType, ServiceType, UnknownValue};

/// Every layout of this module, so that a tool can hold them against another description.
pub const LAYOUTS: &[Info] = &[
    InHeader::INFO,
    OutHeader::INFO,
    Ads::INFO,
    Qpc::INFO,
    Cqc::INFO,
    Mkc::INFO,
    CmdHcaCap::INFO,
    RoceCap::INFO,
    AtomicCaps::INFO,
    QueryHcaCapIn::INFO,
    QueryHcaCapOut::INFO,
    QueryRoceCapOut::INFO,
    QueryAtomicCapOut::INFO,
    CreateCqIn::INFO,
    CreateCqOut::INFO,
    DestroyCqIn::INFO,
    DestroyCqOut::INFO,
    QueryCqIn::INFO,
    QueryCqOut::INFO,
    ModifyCqIn::INFO,
    ModifyCqOut::INFO,
    CreateQpIn::INFO,
    CreateQpOut::INFO,
    DestroyQpIn::INFO,
    DestroyQpOut::INFO,
    QueryQpIn::INFO,
    QueryQpOut::INFO,
    Rst2InitQpIn::INFO,
    Rst2InitQpOut::INFO,
    Init2InitQpIn::INFO,
    Init2InitQpOut::INFO,
    Init2RtrQpIn::INFO,
    Init2RtrQpOut::INFO,
    Rtr2RtsQpIn::INFO,
    Rtr2RtsQpOut::INFO,
    Rts2RtsQpIn::INFO,
    Rts2RtsQpOut::INFO,
    Qp2ErrIn::INFO,
    Qp2ErrOut::INFO,
    Qp2RstIn::INFO,
    Qp2RstOut::INFO,
    AllocPdIn::INFO,
    AllocPdOut::INFO,
    DeallocPdIn::INFO,
    DeallocPdOut::INFO,
    AllocUarIn::INFO,
    AllocUarOut::INFO,
    DeallocUarIn::INFO,
    DeallocUarOut::INFO,
    CreateMkeyIn::INFO,
    CreateMkeyOut::INFO,
    DestroyMkeyIn::INFO,
    DestroyMkeyOut::INFO,
    QueryMkeyIn::INFO,
    QueryMkeyOut::INFO,
    AllocTransportDomainIn::INFO,
    AllocTransportDomainOut::INFO,
    DeallocTransportDomainIn::INFO,
    DeallocTransportDomainOut::INFO,
    NopIn::INFO,
    NopOut::INFO,
    AdapterParamBlock::INFO,
    QueryAdapterIn::INFO,
    QueryAdapterOut::INFO,
    QueryIssiIn::INFO,
    QueryIssiOut::INFO,
    QueryVportStateIn::INFO,
    QueryVportStateOut::INFO,
    MacAddress::INFO,
    NicVportContext::INFO,
    QueryNicVportContextIn::INFO,
    QueryNicVportContextOut::INFO,
    RoceAddr::INFO,
    QueryRoceAddressIn::INFO,
    QueryRoceAddressOut::INFO,
];
