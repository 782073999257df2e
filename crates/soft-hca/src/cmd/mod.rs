//! The command interpreter: mailboxes in, mailboxes out.

mod cap;
mod cq;
mod domain;
mod info;
mod mkey;
mod qp;
mod reason;
mod transition;

use std::ops::Range;

use mlx5gda_sys::prm::{
    AllocPdIn, AllocPdOut, AllocTransportDomainIn, AllocTransportDomainOut, CmdOpcode, CmdStatus,
    CreateCqOut, CreateMkeyOut, CreateQpOut, DeallocPdIn, DeallocPdOut, DeallocTransportDomainIn,
    DeallocTransportDomainOut, DestroyCqIn, DestroyCqOut, DestroyMkeyIn, DestroyMkeyOut,
    DestroyQpIn, DestroyQpOut, InHeader, Layout, ModifyCqIn, ModifyCqOut, NopIn, NopOut, OutHeader,
    Qp2ErrIn, Qp2ErrOut, Qp2RstIn, Qp2RstOut, QueryAdapterIn, QueryCqIn, QueryCqOut, QueryIssiIn,
    QueryMkeyIn, QueryMkeyOut, QueryQpIn, QueryQpOut,
};

pub use reason::Reason;

use crate::device::{ContextId, ObjectId, State};

/// A command's answer.
pub(crate) type CmdResult<T = ()> = Result<T, Reason>;

/// What a successful command did to the table of objects.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that has an owner.
    None,
    /// An object was created.
    Created(ObjectId),
    /// An object was destroyed.
    Destroyed(ObjectId),
}

/// What a mailbox asks for, as far as the library has to know before it passes
/// it on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Needs no object.
    General,
    /// Creates one.
    Create,
    /// Asks after this one.
    Query(ObjectId),
    /// Changes this one.
    Modify(ObjectId),
}

/// Bits 0x48..0x60 of most mailboxes: a queue's number.
fn number(input: &[u8]) -> u32 {
    match input.get(9..12) {
        Some(&[high, middle, low]) => u32::from_be_bytes([0, high, middle, low]),
        _ => 0,
    }
}

/// Opcodes that the kernel passes on without knowing them
/// (`MLX5_CMD_OP_GENERAL_START` and `_END`).
const PASSED_ON: Range<u16> = 0xb00..0xd00;

/// Looks at a mailbox; `None` if the kernel would not pass it on.
pub(crate) fn classify(input: &[u8]) -> Option<Class> {
    let code = InHeader::from_slice(input).map_or(0, InHeader::opcode);
    let Some(opcode) = CmdOpcode::from_code(code) else {
        return PASSED_ON.contains(&code).then_some(Class::General);
    };
    let number = number(input);
    Some(match opcode {
        CmdOpcode::QueryHcaCap
        | CmdOpcode::QueryAdapter
        | CmdOpcode::QueryIssi
        | CmdOpcode::QueryVportState
        | CmdOpcode::QueryNicVportContext
        | CmdOpcode::QueryRoceAddress
        | CmdOpcode::Nop => Class::General,
        CmdOpcode::CreateCq
        | CmdOpcode::CreateQp
        | CmdOpcode::CreateMkey
        | CmdOpcode::AllocPd
        | CmdOpcode::AllocTransportDomain => Class::Create,
        CmdOpcode::QueryCq => Class::Query(ObjectId::Cq(number)),
        CmdOpcode::QueryQp => Class::Query(ObjectId::Qp(number)),
        CmdOpcode::QueryMkey => Class::Query(ObjectId::Mkey(number)),
        CmdOpcode::ModifyCq => Class::Modify(ObjectId::Cq(number)),
        CmdOpcode::Rst2InitQp
        | CmdOpcode::Init2InitQp
        | CmdOpcode::Init2RtrQp
        | CmdOpcode::Rtr2RtsQp
        | CmdOpcode::Rts2RtsQp
        | CmdOpcode::Qp2Err
        | CmdOpcode::Qp2Rst => Class::Modify(ObjectId::Qp(number)),
        // Objects are destroyed by their own call, doorbell pages made by
        // another, the command interface set up by the kernel.
        _ => return None,
    })
}

/// Reads an input mailbox of at least the command's length.
fn input<I: Layout>(bytes: &[u8]) -> CmdResult<&I> {
    I::from_slice(bytes).ok_or(Reason::InputLength)
}

/// Whether all bits that are set have a meaning. Parts are looked at by themselves.
fn unreserved<L: Layout>(layout: &L) -> CmdResult {
    let Some(bit) = layout.reserved_bit() else {
        return Ok(());
    };
    tracing::debug!(layout = L::INFO.name, bit, "reserved bit set");
    Err(Reason::Reserved)
}

/// Checks the length of an output mailbox and zeroes it.
fn output<O: Layout>(bytes: &mut [u8]) -> CmdResult<&mut O> {
    bytes.fill(0);
    O::from_slice_mut(bytes).ok_or(Reason::OutputLength)
}

impl State {
    /// Executes a command for `context`. The answer, status included, is
    /// written to `out` as far as it fits.
    pub(crate) fn execute(
        &mut self,
        context: ContextId,
        input: &[u8],
        out: &mut [u8],
    ) -> CmdResult<Effect> {
        let result = self.dispatch(context, input, out);
        let reason = result.as_ref().err().copied();
        if let Some(reason) = reason {
            self.stats.refused += 1;
            out.fill(0);
            tracing::debug!(device = %self.name, %reason, "command refused");
        }
        if let Some(header) = OutHeader::from_slice_mut(out) {
            let status = reason.map_or(CmdStatus::Ok, Reason::status);
            header.set_status(status.code());
            header.set_syndrome(reason.map_or(0, Reason::syndrome));
        }
        result
    }

    fn dispatch(&mut self, context: ContextId, bytes: &[u8], out: &mut [u8]) -> CmdResult<Effect> {
        let header: &InHeader = input(bytes)?;
        let opcode = CmdOpcode::from_code(header.opcode()).ok_or(Reason::UnknownCommand)?;
        *self.stats.commands.entry(opcode).or_default() += 1;
        if self.faults.command_fails() {
            return Err(Reason::Injected);
        }
        match opcode {
            CmdOpcode::QueryHcaCap => {
                self.query_hca_cap(header.op_mod(), input(bytes)?, out)?;
                Ok(Effect::None)
            }
            CmdOpcode::Nop => {
                let _: &NopIn = input(bytes)?;
                output::<NopOut>(out)?;
                Ok(Effect::None)
            }
            CmdOpcode::QueryAdapter => {
                let _: &QueryAdapterIn = input(bytes)?;
                self.query_adapter(output(out)?);
                Ok(Effect::None)
            }
            CmdOpcode::QueryIssi => {
                let _: &QueryIssiIn = input(bytes)?;
                self.query_issi(output(out)?);
                Ok(Effect::None)
            }
            CmdOpcode::QueryVportState => {
                self.query_vport_state(input(bytes)?, output(out)?)?;
                Ok(Effect::None)
            }
            CmdOpcode::QueryNicVportContext => {
                self.query_nic_vport_context(input(bytes)?, output(out)?)?;
                Ok(Effect::None)
            }
            CmdOpcode::QueryRoceAddress => {
                self.query_roce_address(input(bytes)?, output(out)?)?;
                Ok(Effect::None)
            }
            CmdOpcode::AllocPd => {
                let _: &AllocPdIn = input(bytes)?;
                let out = output::<AllocPdOut>(out)?;
                let number = self.alloc_pd(context)?;
                out.set_pd(number).map_err(|_| Reason::Exhausted)?;
                Ok(Effect::Created(ObjectId::Pd(number)))
            }
            CmdOpcode::DeallocPd => {
                let command: &DeallocPdIn = input(bytes)?;
                output::<DeallocPdOut>(out)?;
                self.dealloc_pd(command.pd())?;
                Ok(Effect::Destroyed(ObjectId::Pd(command.pd())))
            }
            CmdOpcode::AllocTransportDomain => {
                let _: &AllocTransportDomainIn = input(bytes)?;
                let out = output::<AllocTransportDomainOut>(out)?;
                let number = self.alloc_transport_domain(context)?;
                out.set_transport_domain(number)
                    .map_err(|_| Reason::Exhausted)?;
                Ok(Effect::Created(ObjectId::TransportDomain(number)))
            }
            CmdOpcode::DeallocTransportDomain => {
                let command: &DeallocTransportDomainIn = input(bytes)?;
                output::<DeallocTransportDomainOut>(out)?;
                let number = command.transport_domain();
                self.dealloc_transport_domain(number)?;
                Ok(Effect::Destroyed(ObjectId::TransportDomain(number)))
            }
            CmdOpcode::CreateMkey => {
                let command = input(bytes)?;
                let out = output::<CreateMkeyOut>(out)?;
                let index = self.create_mkey(context, command)?;
                out.set_mkey_index(index).map_err(|_| Reason::Exhausted)?;
                Ok(Effect::Created(ObjectId::Mkey(index)))
            }
            CmdOpcode::QueryMkey => {
                let command: &QueryMkeyIn = input(bytes)?;
                let out = output::<QueryMkeyOut>(out)?;
                out.memory_key_mkey_entry = self.query_mkey(command.mkey_index())?;
                Ok(Effect::None)
            }
            CmdOpcode::DestroyMkey => {
                let command: &DestroyMkeyIn = input(bytes)?;
                output::<DestroyMkeyOut>(out)?;
                self.destroy_mkey(command.mkey_index())?;
                Ok(Effect::Destroyed(ObjectId::Mkey(command.mkey_index())))
            }
            CmdOpcode::CreateCq => {
                let command = input(bytes)?;
                let out = output::<CreateCqOut>(out)?;
                let cqn = self.create_cq(context, command)?;
                out.set_cqn(cqn).map_err(|_| Reason::Exhausted)?;
                Ok(Effect::Created(ObjectId::Cq(cqn)))
            }
            CmdOpcode::DestroyCq => {
                let command: &DestroyCqIn = input(bytes)?;
                output::<DestroyCqOut>(out)?;
                self.destroy_cq(command.cqn())?;
                Ok(Effect::Destroyed(ObjectId::Cq(command.cqn())))
            }
            CmdOpcode::QueryCq => {
                let command: &QueryCqIn = input(bytes)?;
                let out = output::<QueryCqOut>(out)?;
                out.cq_context = self.query_cq(command.cqn())?;
                Ok(Effect::None)
            }
            CmdOpcode::ModifyCq => {
                let command: &ModifyCqIn = input(bytes)?;
                output::<ModifyCqOut>(out)?;
                self.modify_cq(command)?;
                Ok(Effect::None)
            }
            CmdOpcode::CreateQp => {
                let command = input(bytes)?;
                let out = output::<CreateQpOut>(out)?;
                let qpn = self.create_qp(context, command)?;
                out.set_qpn(qpn).map_err(|_| Reason::Exhausted)?;
                Ok(Effect::Created(ObjectId::Qp(qpn)))
            }
            CmdOpcode::DestroyQp => {
                let command: &DestroyQpIn = input(bytes)?;
                output::<DestroyQpOut>(out)?;
                self.destroy_qp(command.qpn())?;
                Ok(Effect::Destroyed(ObjectId::Qp(command.qpn())))
            }
            CmdOpcode::QueryQp => {
                let command: &QueryQpIn = input(bytes)?;
                let out = output::<QueryQpOut>(out)?;
                out.qpc = self.query_qp(command.qpn())?;
                Ok(Effect::None)
            }
            CmdOpcode::Qp2Err => {
                let command: &Qp2ErrIn = input(bytes)?;
                output::<Qp2ErrOut>(out)?;
                self.qp_2err(command.qpn())?;
                Ok(Effect::None)
            }
            CmdOpcode::Qp2Rst => {
                let command: &Qp2RstIn = input(bytes)?;
                output::<Qp2RstOut>(out)?;
                self.qp_2rst(command.qpn())?;
                Ok(Effect::None)
            }
            CmdOpcode::Rst2InitQp
            | CmdOpcode::Init2InitQp
            | CmdOpcode::Init2RtrQp
            | CmdOpcode::Rtr2RtsQp
            | CmdOpcode::Rts2RtsQp => {
                self.transition(opcode, bytes, out)?;
                Ok(Effect::None)
            }
            _ => Err(Reason::UnknownCommand),
        }
    }
}
