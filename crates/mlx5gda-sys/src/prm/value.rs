//! Values of fields that have names.

/// A field holds a value that has no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:#x} is unknown")]
pub struct UnknownValue {
    /// What was decoded.
    pub what: &'static str,
    /// The raw value.
    pub value: u32,
}

macro_rules! values {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$item_doc:meta])* $item:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$item_doc])* $item = $value,)*
        }

        impl $name {
            /// Every value, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];

            /// The value as the device encodes it.
            #[must_use]
            pub const fn code(self) -> u32 {
                self as u32
            }
        }

        impl TryFrom<u32> for $name {
            type Error = UnknownValue;

            fn try_from(value: u32) -> Result<Self, UnknownValue> {
                match value {
                    $($value => Ok(Self::$item),)*
                    value => Err(UnknownValue { what: $what, value }),
                }
            }
        }
    };
}

values!(
    /// State of a queue pair (`qpc.state`).
    QpState, "queue pair state" {
        /// Reset.
        Rst = 0,
        /// Initialised.
        Init = 1,
        /// Ready to receive.
        Rtr = 2,
        /// Ready to send.
        Rts = 3,
        /// Send queue error.
        Sqer = 4,
        /// Send queue drained.
        Sqd = 5,
        /// Error.
        Err = 6,
    }
);

values!(
    /// Transport service of a queue pair (`qpc.st`).
    ServiceType, "service type" {
        /// Reliable connection.
        Rc = 0,
        /// Unreliable connection.
        Uc = 1,
        /// Unreliable datagram.
        Ud = 2,
        /// Extended reliable connection.
        Xrc = 3,
        /// Dynamically connected initiator.
        Dci = 5,
    }
);

values!(
    /// Path MTU (`qpc.mtu`), the encoding of `enum ibv_mtu`.
    Mtu, "MTU" {
        /// 256 bytes.
        Bytes256 = 1,
        /// 512 bytes.
        Bytes512 = 2,
        /// 1024 bytes.
        Bytes1024 = 3,
        /// 2048 bytes.
        Bytes2048 = 4,
        /// 4096 bytes.
        Bytes4096 = 5,
    }
);

impl Mtu {
    /// The payload of a full packet, in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        128 << self.code()
    }

    /// The largest MTU that fits `bytes`, if any does.
    #[must_use]
    pub fn fitting(bytes: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .rev()
            .copied()
            .find(|mtu| mtu.bytes() <= bytes)
    }
}

values!(
    /// Path migration state (`qpc.pm_state`).
    PmState, "path migration state" {
        /// Armed.
        Armed = 0,
        /// Rearm.
        Rearm = 1,
        /// Migrated: what a queue pair without alternate path is in.
        Migrated = 3,
    }
);

values!(
    /// Where receive WQEs come from (`qpc.rq_type`).
    RqType, "receive queue type" {
        /// The queue pair's own receive queue.
        Regular = 0,
        /// A shared receive queue.
        Shared = 1,
        /// No receive queue.
        ZeroLength = 3,
    }
);

values!(
    /// Which atomics a queue pair answers (`qpc.atomic_mode`).
    AtomicMode, "atomic mode" {
        /// None.
        None = 0,
        /// 8 bytes, as the InfiniBand specification has them.
        IbSpec = 1,
        /// 8 bytes only.
        Only8Bytes = 2,
        /// Up to 8 bytes, masked ones included.
        UpTo8Bytes = 3,
    }
);

values!(
    /// Link layer of a port (`cmd_hca_cap.port_type`).
    PortType, "port type" {
        /// InfiniBand.
        InfiniBand = 0,
        /// Ethernet.
        Ethernet = 1,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for raw in 0..16 {
            if let Ok(state) = QpState::try_from(raw) {
                assert_eq!(state.code(), raw);
            } else {
                assert!(raw > 6);
            }
        }
        assert_eq!(
            ServiceType::try_from(4),
            Err(UnknownValue {
                what: "service type",
                value: 4
            })
        );
    }

    #[test]
    fn mtu_bytes_and_rounding() {
        let bytes: Vec<_> = Mtu::ALL.iter().map(|mtu| mtu.bytes()).collect();
        assert_eq!(bytes, [256, 512, 1024, 2048, 4096]);
        assert_eq!(Mtu::fitting(255), None);
        assert_eq!(Mtu::fitting(1500), Some(Mtu::Bytes1024));
        assert_eq!(Mtu::fitting(9000), Some(Mtu::Bytes4096));
    }
}
