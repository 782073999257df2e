//! Errors of the library itself; refused commands have [`crate::Reason`].

use std::io;
use std::net::IpAddr;

use crate::config::ConfigError;

/// Why a device could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port's address cannot be bound.
    #[error("cannot bind UDP port 4791 of {address}")]
    Bind {
        /// The address.
        address: IpAddr,
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
        address: IpAddr,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// There is a device on this address, with another link layer or LID.
    #[error("device on {address} has another link layer or LID")]
    LinkLayer {
        /// Its address.
        address: IpAddr,
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
