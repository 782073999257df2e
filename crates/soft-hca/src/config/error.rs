//! Settings that cannot be used.

use std::net::{AddrParseError, IpAddr};
use std::num::{ParseFloatError, ParseIntError};

use super::env::NAMES;
use super::{LAST_LID, MAX_AUTOMATIC};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A variable whose name is that of no setting.
    #[error("{name}: there is no such setting, after SOFT_HCA_ comes one of {}", NAMES.join(", "))]
    Unknown {
        /// The variable.
        name: String,
    },
    /// An address that is none.
    #[error("{name}: {text:?} is not an IP address")]
    Address {
        /// The variable.
        name: &'static str,
        /// The text.
        text: String,
        /// Why.
        source: AddrParseError,
    },
    /// A number that is none.
    #[error("{name}: {text:?} is not a whole number, or is too large")]
    Number {
        /// The variable.
        name: &'static str,
        /// The text.
        text: String,
        /// Why.
        source: ParseIntError,
    },
    /// A probability that is none.
    #[error("{name}: {text:?} is not a number")]
    Probability {
        /// The variable.
        name: &'static str,
        /// The text.
        text: String,
        /// Why.
        source: ParseFloatError,
    },
    /// A probability outside 0 to 1.
    #[error("{name}: {text} is not between 0 and 1")]
    ProbabilityRange {
        /// The variable.
        name: &'static str,
        /// The value.
        text: String,
    },
    /// A stretch of time that is none.
    #[error("{name}: {text:?} is not FROM..UNTIL or FROM.. in milliseconds")]
    Outage {
        /// The variable.
        name: &'static str,
        /// The text.
        text: String,
    },
    /// A link layer that there is not.
    #[error("SOFT_HCA_LINK_LAYER: {text:?} is neither `ethernet` nor `infiniband`")]
    LinkLayer {
        /// The text.
        text: String,
    },
    /// A LID that is not unicast, or is named twice.
    #[error("SOFT_HCA_LIDS: {lid} is not between 1 and {LAST_LID}, or named twice")]
    Lid {
        /// The LID.
        lid: u64,
    },
    /// An InfiniBand port needs a LID.
    #[error("{address} has no LID")]
    NoLid {
        /// Address of the port.
        address: IpAddr,
    },
    /// No devices, or more than there can be.
    #[error("SOFT_HCA_DEVICES: {devices} is not between 1 and {MAX_AUTOMATIC}")]
    Devices {
        /// The value.
        devices: u64,
    },
    /// An MTU that no queue pair can have.
    #[error("SOFT_HCA_MTU: {bytes} is not one of 256, 512, 1024, 2048, 4096")]
    Mtu {
        /// The value.
        bytes: u32,
    },
}
