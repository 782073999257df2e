//! Which LID has which IP address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::ParseIntError;

use super::{ConfigError, env};

/// Where the LIDs that nobody has named are: LID n is 127.128.0.0 + n.
const BASE: u32 = u32::from_be_bytes([127, 128, 0, 0]);

/// The largest unicast LID.
pub(crate) const LAST_LID: u16 = 0xbfff;

/// The IP addresses behind the LIDs of an InfiniBand subnet: those that are
/// named, and 127.128.0.0 + n for LID n that is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lids {
    named: BTreeMap<u16, IpAddr>,
}

impl Lids {
    /// Names the address of a LID.
    ///
    /// # Errors
    /// [`ConfigError::Lid`] for one that is not unicast, 1 to 0xbfff, or named
    /// already.
    pub fn insert(&mut self, lid: u16, address: IpAddr) -> Result<(), ConfigError> {
        if !(1..=LAST_LID).contains(&lid) || self.named.contains_key(&lid) {
            return Err(ConfigError::Lid {
                lid: u64::from(lid),
            });
        }
        self.named.insert(lid, address);
        Ok(())
    }

    /// The address of a LID; `None` if it is not unicast.
    pub fn address(&self, lid: u16) -> Option<IpAddr> {
        let rule = || IpAddr::V4(Ipv4Addr::from_bits(BASE + u32::from(lid)));
        (1..=LAST_LID)
            .contains(&lid)
            .then(|| self.named.get(&lid).copied().unwrap_or_else(rule))
    }

    /// The LID that an address has.
    pub fn lid(&self, address: IpAddr) -> Option<u16> {
        let named = self.named.iter().find(|(_, at)| **at == address);
        named.map(|(lid, _)| *lid).or_else(|| {
            let IpAddr::V4(address) = address else {
                return None;
            };
            let lid = u16::try_from(address.to_bits().checked_sub(BASE)?).ok()?;
            let free = (1..=LAST_LID).contains(&lid) && !self.named.contains_key(&lid);
            free.then_some(lid)
        })
    }

    /// Reads `1=10.0.0.5,2=10.0.0.6`.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut lids = Self::default();
        for entry in text.split(',') {
            let (lid, address) = entry.split_once('=').unwrap_or((entry, ""));
            let number = |source: ParseIntError| ConfigError::Number {
                name: "SOFT_HCA_LIDS",
                text: lid.to_owned(),
                source,
            };
            let lid: u16 = lid.trim().parse().map_err(number)?;
            lids.insert(lid, env::address("SOFT_HCA_LIDS", address)?)?;
        }
        Ok(lids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_lids_come_before_the_rule() {
        let lids = Lids::parse("1=10.0.0.5, 513=fd00::1").unwrap();
        let at = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert_eq!(lids.address(1), Some(at("10.0.0.5")));
        assert_eq!(lids.address(513), Some(at("fd00::1")));
        assert_eq!(lids.address(514), Some(at("127.128.2.2")));
        assert_eq!(lids.lid(at("fd00::1")), Some(513));
        assert_eq!(lids.lid(at("127.128.2.2")), Some(514));
        // That LID belongs to another address.
        assert_eq!(lids.lid(at("127.128.2.1")), None);
        assert_eq!(lids.lid(at("10.0.0.6")), None);
    }

    #[test]
    fn only_unicast_lids_count() {
        let lids = Lids::default();
        assert_eq!(lids.address(0), None);
        assert_eq!(lids.address(0xc000), None);
        assert_eq!(lids.lid(IpAddr::V4(Ipv4Addr::new(127, 128, 192, 0))), None);
        for text in ["0=::1", "49152=::1", "1=::1,1=::2"] {
            assert!(matches!(Lids::parse(text), Err(ConfigError::Lid { .. })));
        }
        assert!(matches!(
            Lids::parse("x=::1"),
            Err(ConfigError::Number { .. })
        ));
        assert!(matches!(Lids::parse("1"), Err(ConfigError::Address { .. })));
    }
}
