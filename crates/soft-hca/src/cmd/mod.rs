//! The command interpreter: mailboxes in, mailboxes out.

mod cap;
mod cq;
mod qp;
mod reason;
mod transition;

use mlx5gda_sys::prm::{
    CmdOpcode, CmdStatus, CreateCqOut, CreateQpOut, DestroyCqIn, DestroyCqOut, DestroyQpIn,
    DestroyQpOut, InHeader, Layout, ModifyCqIn, ModifyCqOut, OutHeader, Qp2ErrIn, Qp2ErrOut,
    Qp2RstIn, Qp2RstOut, QueryCqIn, QueryCqOut, QueryQpIn, QueryQpOut,
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
    /// Destroys this one.
    Destroy(ObjectId),
}

/// Bits 0x48..0x60 of most mailboxes: a queue's number.
fn number(input: &[u8]) -> u32 {
    match input.get(9..12) {
        Some(&[high, middle, low]) => u32::from_be_bytes([0, high, middle, low]),
        _ => 0,
    }
}

/// Looks at a mailbox; `None` if its opcode is not known.
pub(crate) fn classify(input: &[u8]) -> Option<Class> {
    let opcode = CmdOpcode::from_code(InHeader::from_slice(input)?.opcode())?;
    let cq = ObjectId::Cq(number(input));
    let qp = ObjectId::Qp(number(input));
    Some(match opcode {
        CmdOpcode::QueryHcaCap => Class::General,
        CmdOpcode::CreateCq | CmdOpcode::CreateQp => Class::Create,
        CmdOpcode::QueryCq => Class::Query(cq),
        CmdOpcode::QueryQp => Class::Query(qp),
        CmdOpcode::ModifyCq => Class::Modify(cq),
        CmdOpcode::DestroyCq => Class::Destroy(cq),
        CmdOpcode::DestroyQp => Class::Destroy(qp),
        CmdOpcode::Rst2InitQp
        | CmdOpcode::Init2InitQp
        | CmdOpcode::Init2RtrQp
        | CmdOpcode::Rtr2RtsQp
        | CmdOpcode::Rts2RtsQp
        | CmdOpcode::Qp2Err
        | CmdOpcode::Qp2Rst => Class::Modify(qp),
        _ => return None,
    })
}

/// Reads an input mailbox of at least the command's length.
fn input<I: Layout>(bytes: &[u8]) -> CmdResult<&I> {
    I::from_slice(bytes).ok_or(Reason::InputLength)
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
