//! Addresses of PCI devices.

use crate::error::Error;
use std::str::FromStr;

/// Where a device is on the PCI bus: `0000:17:00.0`, that is domain, bus, device and
/// function in hexadecimal, as in sysfs, `lspci -D` and `cuDeviceGetPCIBusId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = Error;

    /// The domain may be left out and is 0 then; capital letters are understood.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            let number = |text: &str, last| {
                let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let value = u32::from_str_radix(text, 16).ok()?;
                (digits && value <= last).then_some(value)
            };
            Some(Self {
                domain: number(domain, u32::MAX)?,
                bus: number(bus, 0xff)? as u8,
                device: number(device, 0x1f)? as u8,
                function: number(function, 7)? as u8,
            })
        };
        parse().ok_or_else(|| Error::Config {
            what: "PCI address",
            value: format!("{text:?}"),
            limit: "like 0000:17:00.0".into(),
        })
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_sysfs_writes_them() {
        for (text, shown) in [
            ("0000:17:00.0", "0000:17:00.0"),
            ("00000000:9B:1F.7", "0000:9b:1f.7"),
            ("18:00.1", "0000:18:00.1"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "17",
            "0000:17:00",
            "0:100:0.0",
            "0:0:20.0",
            "0:0:0.8",
            "0:+1:0.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
