//! What the software HCA consists of.

use std::net::{AddrParseError, Ipv4Addr};
use std::num::{ParseFloatError, ParseIntError};

use mlx5gda_sys::prm::Mtu;

/// Devices that the environment may ask for; each takes a socket and, once open, a thread.
const MAX_AUTOMATIC: u64 = 64;

/// Faults made on purpose.
#[derive(Copy, Clone, Debug, PartialEq, Default)]
pub struct Faults {
    /// Probability that a datagram is lost on sending, 0 to 1.
    pub loss: f64,
    /// Seed of what is lost.
    pub seed: u64,
    /// The command with this number, from 0, fails; counted from when the
    /// faults were set.
    pub fail_command: Option<u64>,
}

/// The devices to have, each with one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Addresses of the ports, one device each. If empty, [`Config::automatic`]
    /// counts.
    pub addresses: Vec<Ipv4Addr>,
    /// Devices whose addresses are picked from what is free in 127.0.0.0/8,
    /// where no addresses are given.
    pub automatic: usize,
    /// Active MTU of each port.
    pub mtu: Mtu,
    /// Whether datagrams to loopback addresses are handed to the system many at
    /// a time. A capture on loopback shows them in one piece then, which packet
    /// dissectors do not understand. Takes effect when a device is opened.
    pub batching: bool,
    /// Faults from the start.
    pub faults: Faults,
}

impl Default for Config {
    /// One device with an address picked from 127.0.0.0/8.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            automatic: 1,
            mtu: Mtu::Bytes4096,
            batching: true,
            faults: Faults::default(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An address that is neither `auto` nor IPv4.
    #[error("SOFT_HCA_ADDRS: {text:?} is neither `auto` nor an IPv4 address")]
    Address {
        /// The text.
        text: String,
        /// Why.
        source: AddrParseError,
    },
    /// A number that is none.
    #[error("{name}: {text:?} is not a whole number")]
    Number {
        /// The variable.
        name: &'static str,
        /// The text.
        text: String,
        /// Why.
        source: ParseIntError,
    },
    /// A probability that is none.
    #[error("SOFT_HCA_LOSS: {text:?} is not a number")]
    Loss {
        /// The text.
        text: String,
        /// Why.
        source: ParseFloatError,
    },
    /// A probability outside 0 to 1.
    #[error("loss probability {text} is not between 0 and 1")]
    LossRange {
        /// The value.
        text: String,
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

impl Config {
    /// Reads the environment:
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `SOFT_HCA_ADDRS` | addresses separated by commas, one device each, or `auto` | `auto` |
    /// | `SOFT_HCA_DEVICES` | number of devices, if addresses are `auto` | 1 |
    /// | `SOFT_HCA_MTU` | active MTU in bytes | 4096 |
    /// | `SOFT_HCA_BATCH` | 0 sends datagrams one by one | 1 |
    /// | `SOFT_HCA_LOSS` | probability that a datagram is lost | 0 |
    /// | `SOFT_HCA_SEED` | seed of what is lost | 0 |
    /// | `SOFT_HCA_FAIL_COMMAND` | number of the command that fails | none |
    ///
    /// # Errors
    /// [`ConfigError`] for a value that cannot be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let number = |name: &'static str| -> Result<Option<u64>, ConfigError> {
            lookup(name)
                .map(|text| {
                    text.trim()
                        .parse()
                        .map_err(|source| ConfigError::Number { name, text, source })
                })
                .transpose()
        };
        let mtu = match number("SOFT_HCA_MTU")? {
            None => Mtu::Bytes4096,
            Some(bytes) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Mtu::fitting(bytes)
                    .filter(|mtu| mtu.bytes() == bytes)
                    .ok_or(ConfigError::Mtu { bytes })?
            }
        };
        let loss = match lookup("SOFT_HCA_LOSS") {
            None => 0.0,
            Some(text) => match text.trim().parse::<f64>() {
                Ok(loss) if (0.0..=1.0).contains(&loss) => loss,
                Ok(_) => return Err(ConfigError::LossRange { text }),
                Err(source) => return Err(ConfigError::Loss { text, source }),
            },
        };
        let faults = Faults {
            loss,
            seed: number("SOFT_HCA_SEED")?.unwrap_or(0),
            fail_command: number("SOFT_HCA_FAIL_COMMAND")?,
        };
        let addresses = match lookup("SOFT_HCA_ADDRS") {
            None => Vec::new(),
            Some(text) if text.trim() == "auto" => Vec::new(),
            Some(text) => text
                .split(',')
                .map(|text| {
                    text.trim().parse().map_err(|source| ConfigError::Address {
                        text: text.to_owned(),
                        source,
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        let automatic = match number("SOFT_HCA_DEVICES")? {
            None => 1,
            Some(devices @ 1..=MAX_AUTOMATIC) => devices as usize,
            Some(devices) => return Err(ConfigError::Devices { devices }),
        };
        Ok(Self {
            addresses,
            automatic,
            mtu,
            batching: number("SOFT_HCA_BATCH")? != Some(0),
            faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_one_automatic_device() {
        assert_eq!(parse(&[]), Ok(Config::default()));
        assert_eq!(parse(&[("SOFT_HCA_ADDRS", "auto")]), Ok(Config::default()));
    }

    #[test]
    fn everything_can_be_set() {
        let config = parse(&[
            ("SOFT_HCA_ADDRS", "127.0.0.5, 127.0.0.6"),
            ("SOFT_HCA_DEVICES", "3"),
            ("SOFT_HCA_MTU", "1024"),
            ("SOFT_HCA_BATCH", "0"),
            ("SOFT_HCA_LOSS", "0.25"),
            ("SOFT_HCA_SEED", "9"),
            ("SOFT_HCA_FAIL_COMMAND", "3"),
        ])
        .unwrap();
        let expected = Config {
            addresses: vec![Ipv4Addr::new(127, 0, 0, 5), Ipv4Addr::new(127, 0, 0, 6)],
            automatic: 3,
            mtu: Mtu::Bytes1024,
            batching: false,
            faults: Faults {
                loss: 0.25,
                seed: 9,
                fail_command: Some(3),
            },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(
            parse(&[("SOFT_HCA_MTU", "9000")]),
            Err(ConfigError::Mtu { bytes: 9000 })
        );
        assert_eq!(
            parse(&[("SOFT_HCA_DEVICES", "0")]),
            Err(ConfigError::Devices { devices: 0 })
        );
        assert!(matches!(
            parse(&[("SOFT_HCA_LOSS", "1.5")]),
            Err(ConfigError::LossRange { .. })
        ));
        let error = parse(&[("SOFT_HCA_ADDRS", "127.0.0.1,x")]).unwrap_err();
        assert!(error.to_string().contains("\"x\""));
    }
}
