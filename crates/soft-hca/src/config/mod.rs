//! What the software HCA consists of.

mod env;
mod error;
mod faults;
mod lids;

use std::net::IpAddr;

use mlx5gda_sys::prm::Mtu;

pub use env::Outage;
use env::{Env, address};
pub use error::ConfigError;
pub use faults::Faults;
pub(crate) use lids::LAST_LID;
pub use lids::Lids;

/// Devices that the environment may ask for; each takes a socket and, once open, a thread.
const MAX_AUTOMATIC: u64 = 64;

/// What the ports are connected to.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum LinkLayer {
    /// RoCE v2: ports have IP addresses, which are their GIDs.
    #[default]
    Ethernet,
    /// Ports have LIDs; packets are carried over UDP all the same, see [`Lids`].
    InfiniBand,
}

/// The devices to have, each with one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Addresses of the ports, one device each; IPv4 and IPv6 ports do not
    /// reach each other. If empty, [`Config::automatic`] counts.
    pub addresses: Vec<IpAddr>,
    /// Devices whose addresses are picked from what is free in 127.0.0.0/8,
    /// where no addresses are given.
    pub automatic: usize,
    /// What the ports are connected to.
    pub link_layer: LinkLayer,
    /// Which LID has which address, on InfiniBand.
    pub lids: Lids,
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
            link_layer: LinkLayer::Ethernet,
            lids: Lids::default(),
            mtu: Mtu::Bytes4096,
            batching: true,
            faults: Faults::default(),
        }
    }
}

impl Config {
    /// Reads the environment:
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `SOFT_HCA_ADDRS` | IPv4 or IPv6 addresses separated by commas, one device each, or `auto` | `auto` |
    /// | `SOFT_HCA_DEVICES` | number of devices, if addresses are `auto` | 1 |
    /// | `SOFT_HCA_LINK_LAYER` | `ethernet` or `infiniband` | `ethernet` |
    /// | `SOFT_HCA_LIDS` | addresses of LIDs, as in `1=10.0.0.5,2=10.0.0.6` | LID n is 127.128.0.0 + n |
    /// | `SOFT_HCA_MTU` | active MTU in bytes | 4096 |
    /// | `SOFT_HCA_BATCH` | 0 sends datagrams one by one | 1 |
    /// | `SOFT_HCA_LOSS` | probability that a datagram is lost | 0 |
    /// | `SOFT_HCA_DUPLICATE` | ... that it is sent twice | 0 |
    /// | `SOFT_HCA_CORRUPT` | ... that one of its bits is flipped | 0 |
    /// | `SOFT_HCA_REORDER` | ... that later ones overtake it | 0 |
    /// | `SOFT_HCA_DELAY_US` | microseconds that each is under way | 0 |
    /// | `SOFT_HCA_SEED` | seed of all that happens by chance | 0 |
    /// | `SOFT_HCA_FREEZE_MS` | when the device does nothing, `FROM..UNTIL` or `FROM..` | never |
    /// | `SOFT_HCA_LINK_DOWN_MS` | when the link is down, likewise | never |
    /// | `SOFT_HCA_FAIL_COMMAND` | number of the command that fails | none |
    ///
    /// # Errors
    /// [`ConfigError`] for a value that cannot be used, and for a variable whose name begins
    /// with `SOFT_HCA_` and that is none of these.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&Env::new(std::env::vars_os())?)
    }

    fn read(env: &Env) -> Result<Self, ConfigError> {
        let mtu = match env.number("SOFT_HCA_MTU")? {
            None => Mtu::Bytes4096,
            Some(bytes) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Mtu::fitting(bytes)
                    .filter(|mtu| mtu.bytes() == bytes)
                    .ok_or(ConfigError::Mtu { bytes })?
            }
        };
        let addresses = match env.text("SOFT_HCA_ADDRS") {
            None => Vec::new(),
            Some(text) if text.trim() == "auto" => Vec::new(),
            Some(text) => text
                .split(',')
                .map(|text| address("SOFT_HCA_ADDRS", text))
                .collect::<Result<_, _>>()?,
        };
        let automatic = match env.number("SOFT_HCA_DEVICES")? {
            None => 1,
            Some(devices @ 1..=MAX_AUTOMATIC) => devices as usize,
            Some(devices) => return Err(ConfigError::Devices { devices }),
        };
        let link_layer = match env.text("SOFT_HCA_LINK_LAYER") {
            None => LinkLayer::Ethernet,
            Some(text) => match text.trim() {
                "ethernet" => LinkLayer::Ethernet,
                "infiniband" => LinkLayer::InfiniBand,
                _ => return Err(ConfigError::LinkLayer { text }),
            },
        };
        let lids = match env.text("SOFT_HCA_LIDS") {
            None => Lids::default(),
            Some(text) => Lids::parse(&text)?,
        };
        Ok(Self {
            addresses,
            automatic,
            link_layer,
            lids,
            mtu,
            batching: env.number("SOFT_HCA_BATCH")? != Some(0),
            faults: Faults::read(env)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variable = |(name, value): &(&str, &str)| (name.into(), value.into());
        Config::read(&Env::new(pairs.iter().map(variable))?)
    }

    #[test]
    fn nothing_set_is_one_automatic_device() {
        assert_eq!(parse(&[]), Ok(Config::default()));
        assert_eq!(parse(&[("SOFT_HCA_ADDRS", "auto")]), Ok(Config::default()));
        let others = [("SOFT_HCA_LOSS", ""), ("SOFT_HCA_LOS", ""), ("HCA", "x")];
        assert_eq!(parse(&others), Ok(Config::default()));
    }

    #[test]
    fn everything_can_be_set() {
        let config = parse(&[
            ("SOFT_HCA_ADDRS", "127.0.0.5, fd00::6"),
            ("SOFT_HCA_DEVICES", "3"),
            ("SOFT_HCA_LINK_LAYER", "infiniband"),
            ("SOFT_HCA_LIDS", "5=127.0.0.5"),
            ("SOFT_HCA_MTU", "1024"),
            ("SOFT_HCA_BATCH", "0"),
            ("SOFT_HCA_LOSS", "0.25"),
            ("SOFT_HCA_DUPLICATE", "0.5"),
            ("SOFT_HCA_CORRUPT", "1"),
            ("SOFT_HCA_REORDER", "0.125"),
            ("SOFT_HCA_DELAY_US", "70"),
            ("SOFT_HCA_SEED", "9"),
            ("SOFT_HCA_FREEZE_MS", "20.."),
            ("SOFT_HCA_LINK_DOWN_MS", "5..30"),
            ("SOFT_HCA_FAIL_COMMAND", "3"),
        ])
        .unwrap();
        let mut lids = Lids::default();
        lids.insert(5, Ipv4Addr::new(127, 0, 0, 5).into()).unwrap();
        let millis = Duration::from_millis;
        let expected = Config {
            addresses: vec![
                Ipv4Addr::new(127, 0, 0, 5).into(),
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6).into(),
            ],
            automatic: 3,
            link_layer: LinkLayer::InfiniBand,
            lids,
            mtu: Mtu::Bytes1024,
            batching: false,
            faults: Faults {
                loss: 0.25,
                duplicate: 0.5,
                corrupt: 1.0,
                reorder: 0.125,
                delay: Duration::from_micros(70),
                seed: 9,
                frozen: Some(Outage {
                    from: millis(20),
                    until: Duration::MAX,
                }),
                link_down: Some(Outage {
                    from: millis(5),
                    until: millis(30),
                }),
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
        for (name, text) in [
            ("SOFT_HCA_LOSS", "1.5"),
            ("SOFT_HCA_CORRUPT", "often"),
            ("SOFT_HCA_LINK_DOWN_MS", "30..5"),
            ("SOFT_HCA_FREEZE_MS", "5"),
            ("SOFT_HCA_LINK_LAYER", "token ring"),
            ("SOFT_HCA_LIDS", "1=x"),
            ("SOFT_HCA_LIDS", "0=::1"),
            ("SOFT_HCA_LIDS", "1=::1,1=::2"),
            ("SOFT_HCA_ADDRS", "127.0.0.1,x"),
            ("SOFT_HCA_LOS", "0.5"),
        ] {
            let error = parse(&[(name, text)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
