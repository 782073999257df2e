//! Errors of the library itself; refused commands have [`crate::Reason`].

use std::io;
use std::net::Ipv4Addr;

use crate::config::ConfigError;

/// Why a device could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port's address cannot be bound.
    #[error("cannot bind UDP {address}:4791")]
    Bind {
        /// The address.
        address: Ipv4Addr,
        /// The system's answer.
        source: io::Error,
    },
    /// No free address was found in 127.0.0.0/8.
    #[error("no free address in 127.0.0.0/8 after {tries} tries")]
    NoAddress {
        /// Addresses tried.
        tries: u32,
        /// The system's last answer.
        source: io::Error,
    },
    /// The device is in use with another setting.
    #[error("device on {address} is open with MTU {mtu}")]
    Open {
        /// Its address.
        address: Ipv4Addr,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// The engine could not be started.
    #[error("cannot start the engine of {device}")]
    Thread {
        /// Device name.
        device: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No such device.
    #[error("no software device {name}")]
    NoDevice {
        /// The name asked for.
        name: String,
    },
}
