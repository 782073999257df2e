//! Why a command is refused: status and syndrome.

use std::fmt;

use mlx5gda_sys::prm::CmdStatus;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $text:literal;)*) => {
        /// Why a command was refused. Its syndrome in the output mailbox is
        /// private to this device, as firmware's are.
        #[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The status that goes with it.
            pub const fn status(self) -> CmdStatus {
                match self {
                    $(Self::$name => CmdStatus::$status,)*
                }
            }

            /// The syndrome that goes with it.
            pub const fn syndrome(self) -> u32 {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

reasons! {
    /// Opcode that this device does not know.
    UnknownCommand = 0x5f_0001, BadOp, "unknown command";
    /// The input mailbox is too short for the command.
    InputLength = 0x5f_0002, BadInpLen, "input mailbox too short";
    /// The output mailbox is too short for the answer.
    OutputLength = 0x5f_0003, BadOutpLen, "output mailbox too short";
    /// The operation modifier is not known.
    OpMod = 0x5f_0004, BadParam, "unknown operation modifier";
    /// Failed on purpose.
    Injected = 0x5f_0005, InternalErr, "failed on purpose";
    /// No number is left for a new object.
    Exhausted = 0x5f_0006, NoResErr, "no object left";
    /// No such protection domain.
    NoPd = 0x5f_0010, BadRes, "no such protection domain";
    /// No such doorbell page.
    NoUar = 0x5f_0011, BadRes, "no such UAR page";
    /// No such user memory.
    NoUmem = 0x5f_0012, BadRes, "no such umem";
    /// No such completion queue.
    NoCq = 0x5f_0013, BadRes, "no such completion queue";
    /// No such queue pair.
    NoQp = 0x5f_0014, BadRes, "no such queue pair";
    /// No such event queue.
    NoEq = 0x5f_0015, BadRes, "no such event queue";
    /// No such memory key, or not made by a command.
    NoMkey = 0x5f_0017, BadRes, "no such memory key";
    /// No such transport domain.
    NoTransportDomain = 0x5f_0018, BadRes, "no such transport domain";
    /// The object is in use by another.
    Busy = 0x5f_0016, ResBusy, "object in use";
    /// A queue or doorbell record reaches beyond its user memory.
    UmemRange = 0x5f_0021, BadParam, "queue or doorbell record reaches beyond its umem";
    /// A queue or doorbell record is not aligned.
    Alignment = 0x5f_0022, BadParam, "queue or doorbell record not aligned";
    /// The user memory must not be written by the device.
    ReadOnly = 0x5f_0023, BadParam, "umem not writable by the device";
    /// A queue is deeper than the capability allows.
    QueueDepth = 0x5f_0024, LimErr, "queue deeper than the limit";
    /// Only 64-byte completions.
    CqeSize = 0x5f_0025, BadParam, "completion entries must be of 64 bytes";
    /// Only reliable connections.
    Service = 0x5f_0026, BadParam, "service type must be RC";
    /// Receive queue type.
    RqType = 0x5f_0027, BadParam, "receive queue must be regular or absent";
    /// MODIFY_CQ names fields that cannot be changed, or not together.
    FieldSelect = 0x5f_0028, BadParam, "field selection not supported";
    /// A collapsed queue has no other size.
    Collapsed = 0x5f_0029, BadParam, "a collapsed completion queue cannot be resized";
    /// The completion queue is to have what this device has not.
    CqFeature = 0x5f_002c, BadParam, "feature of completion queues not supported";
    /// The completion queue is in error.
    CqState = 0x5f_002a, BadResState, "completion queue in error";
    /// More completions wait than the new ring holds.
    Outstanding = 0x5f_002b, BadSize, "more completions outstanding than the new size";
    /// The state of the queue pair does not allow the command.
    State = 0x5f_0030, BadQpState, "queue pair in the wrong state";
    /// The path migration state must be *migrated*.
    PathMigration = 0x5f_0031, BadParam, "path migration state must be migrated";
    /// No such port.
    Port = 0x5f_0032, IxErr, "no such port";
    /// The path MTU is unknown or above the port's.
    PathMtu = 0x5f_0033, BadParam, "path MTU unknown or above the port's";
    /// The source GID index is out of range, or on Ethernet not RoCE v2.
    SourceGid = 0x5f_0034, IxErr, "source GID index out of range or not RoCE v2";
    /// The remote GID is not a unicast address of the family of the port.
    RemoteGid = 0x5f_0035, BadParam, "remote GID is no address that the port can reach";
    /// The largest message is above the limit.
    MessageSize = 0x5f_0036, BadParam, "maximum message size above the limit";
    /// More reads and atomics in flight than the limit.
    ReadDepth = 0x5f_0037, BadParam, "more outstanding reads than the limit";
    /// Forced loopback is not done.
    Loopback = 0x5f_0038, BadParam, "forced loopback not supported";
    /// The remote LID is not unicast.
    RemoteLid = 0x5f_0039, BadParam, "remote LID not unicast";
    /// The port has one LID, and no path bits.
    PathBits = 0x5f_003a, BadParam, "source path bits of a port with one LID";
    /// The transition does not take these optional fields.
    OptParam = 0x5f_003b, BadParam, "optional parameters that the transition does not take";
    /// Bits that have no meaning are set.
    Reserved = 0x5f_003c, BadParam, "reserved bits set";
    /// There is one partition key.
    PkeyIndex = 0x5f_003d, IxErr, "index beyond the partition keys";
    /// A routed packet would not go anywhere.
    HopLimit = 0x5f_003e, BadParam, "hop limit 0";
    /// The UDP source port is below those of the capability.
    SourcePort = 0x5f_003f, BadParam, "UDP source port below the capability's";
    /// The remote MAC address is missing.
    RemoteMac = 0x5f_0048, BadParam, "remote MAC address is zero";
    /// Only keys with page translation and a length.
    MkeyMode = 0x5f_0040, BadParam, "access mode of the memory key not supported";
    /// Only keys for any queue pair.
    MkeyQp = 0x5f_0041, BadParam, "memory key bound to a queue pair";
    /// The key covers nothing, or wraps around.
    MkeyRange = 0x5f_0042, BadParam, "memory key without length, or beyond the address space";
    /// The page size or the translations of a key are too small.
    MkeyPages = 0x5f_0046, BadParam, "pages below 4 KiB, or too few translations";
    /// The start of a key does not lie in its page as the memory does.
    MkeyStart = 0x5f_0047, BadParam, "start address and umem offset differ within a page";
    /// No such function or port.
    Vport = 0x5f_0043, IxErr, "no such virtual port";
    /// The port's link layer has no such thing.
    LinkLayer = 0x5f_0044, BadParam, "not for the link layer of the port";
    /// The index is beyond the GID table.
    GidIndex = 0x5f_0045, IxErr, "index beyond the GID table";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn syndromes_are_distinct_and_no_reason_is_a_success() {
        let codes: BTreeSet<u32> = Reason::ALL.iter().map(|reason| reason.syndrome()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(
            Reason::ALL
                .iter()
                .all(|reason| reason.status() != CmdStatus::Ok)
        );
    }
}
