//! Which NICs a rank uses, and by which of their addresses.

use crate::error::Error;
use crate::pci::PciAddress;
use std::net::IpAddr;
use std::str::FromStr;

/// Which NIC to use for [`Path::Rdma`](super::Path::Rdma).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Nic {
    /// The software ConnectX, at this IPv4 address of the machine, or at any free
    /// loopback address.
    #[cfg(feature = "soft")]
    Soft {
        /// The address, or `None` for any.
        address: Option<std::net::Ipv4Addr>,
    },
    /// The software ConnectX with settings of its own: other addresses, InfiniBand,
    /// faults. The first device of the configuration is used.
    #[cfg(feature = "soft")]
    SoftWith {
        /// What the environment would say otherwise.
        config: Box<soft_hca::Config>,
    },
    /// A device of this machine by its name (`mlx5_0`), or the first one.
    System {
        /// The name, or `None` for the first.
        device: Option<String>,
        /// Port number, from 1.
        port: u8,
    },
    /// The device of this machine that is nearest to a GPU: the fewest PCI bridges on the
    /// way, else on the same NUMA node.
    Nearest {
        /// Where the GPU is.
        gpu: PciAddress,
        /// Port number, from 1.
        port: u8,
    },
}

/// Which entry of the port's GID table is this rank's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GidChoice {
    /// RoCE v2 with an IPv4 address, else RoCE v2 with an IPv6 address, link-local ones
    /// last; on InfiniBand the first entry.
    #[default]
    Automatic,
    /// The entry with this index.
    Index(u8),
    /// The entry with this address (on Ethernet its RoCE v2 one).
    Address(IpAddr),
}

/// One of a rank's NICs, and its address there. A [`Nic`] alone is one with an
/// automatic choice.
///
/// Its text form is `DEVICE`, `DEVICE:PORT`, `DEVICE@GID` or `DEVICE:PORT@GID`, where the
/// GID is an index in the port's table or an IP address: `mlx5_0`, `mlx5_1:2`,
/// `mlx5_0@3`, `mlx5_1:1@10.0.0.1`, `mlx5_1@fd00::1`.
#[derive(Clone, Debug, PartialEq)]
pub struct NicConfig {
    /// The NIC and its port.
    pub nic: Nic,
    /// The address at that port.
    pub gid: GidChoice,
}

impl NicConfig {
    /// The `count` devices of this machine that are nearest to a GPU: by distance as
    /// [`Nic::Nearest`], of several that are as near by name. On each the port with this
    /// number, from 1, at an automatic choice of address.
    ///
    /// # Errors
    /// There is no such GPU, or there are fewer devices.
    pub fn nearest(gpu: PciAddress, port: u8, count: usize) -> Result<Vec<Self>, Error> {
        let names = crate::verbs::nearest_nics(std::path::Path::new("/sys"), gpu, count)?;
        Ok(names.into_iter().map(|name| system(name, port)).collect())
    }
}

fn system(device: String, port: u8) -> NicConfig {
    let device = Some(device);
    Nic::System { device, port }.into()
}

impl From<Nic> for NicConfig {
    fn from(nic: Nic) -> Self {
        let gid = GidChoice::default();
        Self { nic, gid }
    }
}

impl FromStr for NicConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |limit: &str| Error::Config {
            what: "NIC",
            value: format!("{text:?}"),
            limit: limit.into(),
        };
        let (place, gid) = match text.split_once('@') {
            Some((place, gid)) => (place, Some(gid)),
            None => (text, None),
        };
        let (device, port) = place.split_once(':').unwrap_or((place, "1"));
        if device.is_empty() {
            return Err(wrong("DEVICE, DEVICE:PORT, DEVICE@GID or DEVICE:PORT@GID"));
        }
        let port = match port.parse() {
            Ok(port @ 1..) => port,
            _ => return Err(wrong("with a port between 1 and 255")),
        };
        let gid = match gid.map(|gid| (gid.parse(), gid.parse())) {
            None => GidChoice::Automatic,
            Some((Ok(index), _)) => GidChoice::Index(index),
            Some((_, Ok(address))) => GidChoice::Address(address),
            Some(_) => {
                return Err(wrong(
                    "with a GID index between 0 and 255, or an IP address",
                ));
            }
        };
        Ok(Self {
            gid,
            ..system(device.to_owned(), port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_named_with_port_and_address_or_without() {
        let nic = |device: &str, port, gid| NicConfig {
            gid,
            ..system(device.into(), port)
        };
        let address = |text: &str| GidChoice::Address(text.parse().unwrap());
        for (text, expected) in [
            ("mlx5_0", nic("mlx5_0", 1, GidChoice::Automatic)),
            ("mlx5_1:2", nic("mlx5_1", 2, GidChoice::Automatic)),
            ("mlx5_0@3", nic("mlx5_0", 1, GidChoice::Index(3))),
            ("mlx5_1:2@0", nic("mlx5_1", 2, GidChoice::Index(0))),
            ("roce@10.0.0.1", nic("roce", 1, address("10.0.0.1"))),
            ("ib0:255@fe80::1:2", nic("ib0", 255, address("fe80::1:2"))),
        ] {
            assert_eq!(text.parse::<NicConfig>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_names_no_nic_is_refused_with_what_would() {
        let told = |text: &str| text.parse::<NicConfig>().unwrap_err().to_string();
        for (text, limit) in [
            ("", "DEVICE, DEVICE:PORT"),
            (":1", "DEVICE, DEVICE:PORT"),
            ("@10.0.0.1", "DEVICE, DEVICE:PORT"),
            ("mlx5_0:0", "with a port between 1 and 255"),
            ("mlx5_0:256", "with a port between 1 and 255"),
            ("mlx5_0:", "with a port between 1 and 255"),
            ("mlx5_0:1:2", "with a port between 1 and 255"),
            ("mlx5_0@256", "with a GID index between 0 and 255"),
            ("mlx5_0@", "with a GID index between 0 and 255"),
            ("mlx5_0@10.0.0.1@2", "with a GID index between 0 and 255"),
        ] {
            let expected = format!("NIC is {text:?}, but must be {limit}");
            assert!(told(text).starts_with(&expected), "{}", told(text));
        }
    }
}
