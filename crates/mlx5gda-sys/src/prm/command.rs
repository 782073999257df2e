//! Opcodes, status codes and the headers that all mailboxes share.

use core::fmt;

use super::Layout;
use super::bits::layout;

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a command does (`MLX5_CMD_OP_*`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum CmdOpcode {
            $($(#[$doc])* $name = $code,)*
        }

        impl CmdOpcode {
            /// Every opcode, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Decodes the `opcode` field of an input mailbox.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in the PRM.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

opcodes! {
    /// Read device capabilities.
    QueryHcaCap = 0x100, "QUERY_HCA_CAP";
    /// Read who made the device.
    QueryAdapter = 0x101, "QUERY_ADAPTER";
    /// Read the version of the command interface.
    QueryIssi = 0x10a, "QUERY_ISSI";
    /// Create a memory key.
    CreateMkey = 0x200, "CREATE_MKEY";
    /// Read a memory key context.
    QueryMkey = 0x201, "QUERY_MKEY";
    /// Destroy a memory key.
    DestroyMkey = 0x202, "DESTROY_MKEY";
    /// Create a completion queue.
    CreateCq = 0x400, "CREATE_CQ";
    /// Destroy a completion queue.
    DestroyCq = 0x401, "DESTROY_CQ";
    /// Read a completion queue context.
    QueryCq = 0x402, "QUERY_CQ";
    /// Change a completion queue.
    ModifyCq = 0x403, "MODIFY_CQ";
    /// Create a queue pair.
    CreateQp = 0x500, "CREATE_QP";
    /// Destroy a queue pair.
    DestroyQp = 0x501, "DESTROY_QP";
    /// Reset to Init.
    Rst2InitQp = 0x502, "RST2INIT_QP";
    /// Init to ready-to-receive.
    Init2RtrQp = 0x503, "INIT2RTR_QP";
    /// Ready-to-receive to ready-to-send.
    Rtr2RtsQp = 0x504, "RTR2RTS_QP";
    /// Change a queue pair that is ready to send.
    Rts2RtsQp = 0x505, "RTS2RTS_QP";
    /// Any state to Error.
    Qp2Err = 0x507, "2ERR_QP";
    /// Any state to Reset.
    Qp2Rst = 0x50a, "2RST_QP";
    /// Read a queue pair context.
    QueryQp = 0x50b, "QUERY_QP";
    /// Change a queue pair in Init.
    Init2InitQp = 0x50e, "INIT2INIT_QP";
    /// Read the state of a port.
    QueryVportState = 0x750, "QUERY_VPORT_STATE";
    /// Read an Ethernet port context.
    QueryNicVportContext = 0x754, "QUERY_NIC_VPORT_CONTEXT";
    /// Read an entry of the GID table.
    QueryRoceAddress = 0x760, "QUERY_ROCE_ADDRESS";
    /// Allocate a protection domain.
    AllocPd = 0x800, "ALLOC_PD";
    /// Free a protection domain.
    DeallocPd = 0x801, "DEALLOC_PD";
    /// Allocate a UAR page.
    AllocUar = 0x802, "ALLOC_UAR";
    /// Free a UAR page.
    DeallocUar = 0x803, "DEALLOC_UAR";
    /// Do nothing.
    Nop = 0x80d, "NOP";
    /// Allocate a transport domain.
    AllocTransportDomain = 0x816, "ALLOC_TRANSPORT_DOMAIN";
    /// Free a transport domain.
    DeallocTransportDomain = 0x817, "DEALLOC_TRANSPORT_DOMAIN";
}

impl CmdOpcode {
    /// The opcode as the device encodes it.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for CmdOpcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a command ended (`MLX5_CMD_STAT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CmdStatus {
    /// Done.
    Ok,
    /// Internal error.
    InternalErr,
    /// The command is not known.
    BadOp,
    /// A parameter is out of range, or a reserved field is set.
    BadParam,
    /// The device is not in the state for it.
    BadSysState,
    /// The resource does not exist, or is not the caller's.
    BadRes,
    /// The resource is in use.
    ResBusy,
    /// A limit is exceeded.
    LimErr,
    /// The resource is not in the state for it.
    BadResState,
    /// An index is out of range.
    IxErr,
    /// No resources left.
    NoResErr,
    /// The queue pair is not in the state for it.
    BadQpState,
    /// A packet is malformed.
    BadPkt,
    /// Too many completions are outstanding for the new size.
    BadSize,
    /// The input mailbox has the wrong length.
    BadInpLen,
    /// The output mailbox has the wrong length.
    BadOutpLen,
    /// Any other code.
    Other(u8),
}

/// Code, value and name of every status.
const STATUSES: [(u8, CmdStatus, &str); 16] = [
    (0x00, CmdStatus::Ok, "OK"),
    (0x01, CmdStatus::InternalErr, "INTERNAL_ERR"),
    (0x02, CmdStatus::BadOp, "BAD_OP"),
    (0x03, CmdStatus::BadParam, "BAD_PARAM"),
    (0x04, CmdStatus::BadSysState, "BAD_SYS_STATE"),
    (0x05, CmdStatus::BadRes, "BAD_RESOURCE"),
    (0x06, CmdStatus::ResBusy, "RESOURCE_BUSY"),
    (0x08, CmdStatus::LimErr, "EXCEED_LIM"),
    (0x09, CmdStatus::BadResState, "BAD_RES_STATE"),
    (0x0a, CmdStatus::IxErr, "BAD_INDEX"),
    (0x0f, CmdStatus::NoResErr, "NO_RESOURCES"),
    (0x10, CmdStatus::BadQpState, "BAD_QP_STATE"),
    (0x30, CmdStatus::BadPkt, "BAD_PKT"),
    (0x40, CmdStatus::BadSize, "BAD_SIZE_OUTS_CQES"),
    (0x50, CmdStatus::BadInpLen, "BAD_INPUT_LEN"),
    (0x51, CmdStatus::BadOutpLen, "BAD_OUTPUT_LEN"),
];

impl CmdStatus {
    /// Decodes the `status` field of an output mailbox.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        STATUSES
            .iter()
            .find(|(known, ..)| *known == code)
            .map_or(Self::Other(code), |(_, status, _)| *status)
    }

    /// The status as the device encodes it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Other(code) => code,
            named => STATUSES
                .iter()
                .find(|(_, known, _)| *known == named)
                .map_or(0, |(code, ..)| *code),
        }
    }
}

impl fmt::Display for CmdStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match STATUSES.iter().find(|(_, known, _)| known == self) {
            Some((code, _, name)) => write!(f, "{name} ({code:#04x})"),
            None => write!(f, "status {:#04x}", self.code()),
        }
    }
}

/// An input mailbox that belongs to one command.
pub trait CommandIn: Layout {
    /// The output mailbox that answers it.
    type Out: Layout;

    /// The command.
    const OPCODE: CmdOpcode;
}

layout! {
    /// What every input mailbox starts with.
    InHeader = "in_header", 8 {
        members { bytes: [u8; 8], }
        parts {}
        fields {
            /// See [`CmdOpcode`].
            opcode, set_opcode: u16 @ 0x0;
            /// The user context, filled in by the kernel.
            uid, set_uid: u16 @ 0x10;
            op_mod, set_op_mod: u16 @ 0x30;
        }
    }
}

layout! {
    /// What every output mailbox starts with.
    OutHeader = "out_header", 8 {
        members { bytes: [u8; 8], }
        parts {}
        fields {
            /// See [`CmdStatus`].
            status, set_status: u8 @ 0x0;
            /// What exactly was wrong, a code private to the firmware.
            syndrome, set_syndrome: u32 @ 0x20;
        }
    }
}

impl InHeader {
    /// The header of a command.
    #[must_use]
    pub fn new(opcode: CmdOpcode) -> Self {
        let mut header = Self::zeroed();
        header.set_opcode(opcode.code());
        header
    }
}

/// Ties input mailbox, output mailbox and opcode together.
macro_rules! command {
    ($in:ident -> $out:ident, $opcode:ident) => {
        impl $in {
            /// A mailbox with its opcode set and everything else zero.
            #[must_use]
            pub fn new() -> Self {
                let mut mailbox = Self::zeroed();
                mailbox.header = $crate::prm::InHeader::new($crate::prm::CmdOpcode::$opcode);
                mailbox
            }
        }

        impl Default for $in {
            fn default() -> Self {
                Self::new()
            }
        }

        impl $crate::prm::CommandIn for $in {
            type Out = $out;
            const OPCODE: $crate::prm::CmdOpcode = $crate::prm::CmdOpcode::$opcode;
        }
    };
}

pub(super) use command;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=u8::MAX {
            assert_eq!(CmdStatus::from_code(code).code(), code);
        }
        let mut known = 0;
        for code in 0..0x1000 {
            if let Some(opcode) = CmdOpcode::from_code(code) {
                assert_eq!(opcode.code(), code);
                known += 1;
            }
        }
        assert_eq!(known, CmdOpcode::ALL.len());
        assert_eq!(CmdStatus::BadInpLen.to_string(), "BAD_INPUT_LEN (0x50)");
        assert_eq!(CmdOpcode::Qp2Rst.to_string(), "2RST_QP");
    }
}
