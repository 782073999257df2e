//! A port's addresses, and the way from it to a peer.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use mlx5gda_sys::prm::Ads;

use crate::cmd::Reason;
use crate::config::Lids;
use crate::wire::Grh;

/// Prefix of link-local GIDs, which those of an InfiniBand port are.
const LINK_LOCAL: u64 = 0xfe80 << 48;

/// What a port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// RoCE v2: peers have IP addresses.
    Ethernet,
    /// Peers have LIDs.
    InfiniBand {
        /// The port's own.
        lid: u16,
        lids: Arc<Lids>,
    },
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) address: IpAddr,
    pub(crate) link: Link,
}

/// The way to a peer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) remote: IpAddr,
    /// UDP source port asked for.
    pub(crate) src_port: u16,
    pub(crate) traffic_class: u8,
    /// Global route header of what is sent; what is received has to match.
    pub(crate) grh: Option<Grh>,
}

impl Path {
    /// Whether packets that come so are the peer's.
    pub(crate) fn admits(&self, from: IpAddr, grh: Option<&Grh>) -> bool {
        let gids = |grh: &Grh| (grh.src, grh.dst);
        let expected = self.grh.map(|grh| (grh.dst, grh.src));
        from == self.remote && grh.map(gids) == expected
    }
}

impl Port {
    pub(crate) const fn is_infiniband(&self) -> bool {
        matches!(self.link, Link::InfiniBand { .. })
    }

    /// The port's LID; 0, as RoCE has none.
    pub(crate) const fn lid(&self) -> u16 {
        match self.link {
            Link::Ethernet => 0,
            Link::InfiniBand { lid, .. } => lid,
        }
    }

    /// The GUID: the address, as far as it fits.
    pub(crate) const fn guid(&self) -> u64 {
        match self.address {
            IpAddr::V4(address) => address.to_bits() as u64,
            IpAddr::V6(address) => address.to_bits() as u64,
        }
    }

    /// The MAC address that an address stands for: one that nobody has sold.
    /// Peers are found by address alone.
    pub(crate) const fn mac(address: IpAddr) -> [u8; 6] {
        let low = match address {
            IpAddr::V4(address) => address.to_bits() as u64,
            IpAddr::V6(address) => address.to_bits() as u64,
        };
        let [_, _, _, b, c, d, e, f] = low.to_be_bytes();
        [2, b, c, d, e, f]
    }

    /// The GID of every entry of the table.
    pub(crate) fn gid(&self) -> Ipv6Addr {
        match (&self.link, self.address) {
            (Link::InfiniBand { .. }, _) => {
                Ipv6Addr::from_bits(u128::from(LINK_LOCAL) << 64 | u128::from(self.guid()))
            }
            (Link::Ethernet, IpAddr::V4(address)) => address.to_ipv6_mapped(),
            (Link::Ethernet, IpAddr::V6(address)) => address,
        }
    }

    /// Entries of the GID table: RoCE v1 and RoCE v2, in that order, as a
    /// ConnectX has them; one on InfiniBand.
    pub(crate) const fn gid_count(&self) -> u32 {
        if self.is_infiniband() { 1 } else { 2 }
    }

    /// Index of the entry to use: the last, RoCE v2 on Ethernet.
    pub(crate) const fn gid_index(&self) -> u32 {
        self.gid_count() - 1
    }

    /// The way that an address path describes.
    ///
    /// # Errors
    /// Why firmware would refuse it.
    pub(crate) fn path(&self, ads: &Ads) -> Result<Path, Reason> {
        if ads.fl() {
            return Err(Reason::Loopback);
        }
        match &self.link {
            Link::Ethernet => self.over_ethernet(ads),
            Link::InfiniBand { lids, .. } => self.over_infiniband(ads, lids),
        }
    }

    fn over_ethernet(&self, ads: &Ads) -> Result<Path, Reason> {
        if u32::from(ads.src_addr_index()) != self.gid_index() {
            return Err(Reason::SourceGid);
        }
        let gid = Ipv6Addr::from(ads.rgid_rip());
        let remote = match (self.address, gid.to_ipv4_mapped()) {
            (IpAddr::V4(_), Some(remote))
                if !remote.is_unspecified() && !remote.is_multicast() && !remote.is_broadcast() =>
            {
                IpAddr::V4(remote)
            }
            (IpAddr::V6(_), None) if !gid.is_unspecified() && !gid.is_multicast() => {
                IpAddr::V6(gid)
            }
            _ => return Err(Reason::RemoteGid),
        };
        Ok(Path {
            remote,
            src_port: ads.udp_sport(),
            traffic_class: (ads.dscp() as u8) << 2 | ads.tclass(),
            grh: None,
        })
    }

    fn over_infiniband(&self, ads: &Ads, lids: &Lids) -> Result<Path, Reason> {
        let remote = lids.address(ads.rlid()).ok_or(Reason::RemoteLid)?;
        // The port has one LID, so there are no path bits to choose.
        if ads.mlid() != 0 {
            return Err(Reason::PathBits);
        }
        let grh = if ads.grh() {
            if u32::from(ads.src_addr_index()) != self.gid_index() {
                return Err(Reason::SourceGid);
            }
            let dst = Ipv6Addr::from(ads.rgid_rip());
            if dst.is_unspecified() || dst.is_multicast() {
                return Err(Reason::RemoteGid);
            }
            Some(Grh {
                traffic_class: ads.tclass(),
                flow_label: ads.flow_label(),
                hop_limit: ads.hop_limit(),
                src: self.gid(),
                dst,
            })
        } else {
            None
        };
        Ok(Path {
            remote,
            src_port: 0,
            traffic_class: 0,
            grh,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, link: Link) -> Port {
        Port {
            address: address.parse().unwrap(),
            link,
        }
    }

    fn infiniband() -> Port {
        let lids = Arc::new(Lids::default());
        port("127.128.0.7", Link::InfiniBand { lid: 7, lids })
    }

    fn roce(gid: &str) -> Ads {
        let mut ads = Ads::zeroed();
        ads.set_src_addr_index(1);
        ads.set_rgid_rip(gid.parse::<Ipv6Addr>().unwrap().octets());
        ads
    }

    #[test]
    fn a_peer_is_reached_over_its_own_family_only() {
        let v4 = port("127.0.0.5", Link::Ethernet);
        let v6 = port("fd00::5", Link::Ethernet);
        let path = v4.path(&roce("::ffff:10.0.0.1")).unwrap();
        assert_eq!(path.remote, "10.0.0.1".parse::<IpAddr>().unwrap());
        let path = v6.path(&roce("fd00::6")).unwrap();
        assert_eq!(path.remote, "fd00::6".parse::<IpAddr>().unwrap());
        for (port, gid) in [
            (&v4, "fd00::6"),
            (&v4, "::ffff:0.0.0.0"),
            (&v4, "::ffff:224.0.0.1"),
            (&v4, "::ffff:255.255.255.255"),
            (&v6, "::ffff:10.0.0.1"),
            (&v6, "::"),
            (&v6, "ff02::1"),
        ] {
            assert_eq!(port.path(&roce(gid)), Err(Reason::RemoteGid), "{gid}");
        }
        let mut v1 = roce("fd00::6");
        v1.set_src_addr_index(0);
        assert_eq!(v6.path(&v1), Err(Reason::SourceGid));
    }

    #[test]
    fn on_infiniband_the_lid_decides_and_the_header_is_checked() {
        let port = infiniband();
        let mut ads = Ads::zeroed();
        assert_eq!(port.path(&ads), Err(Reason::RemoteLid));
        ads.set_rlid(0x0203);
        let path = port.path(&ads).unwrap();
        assert_eq!(path.remote, "127.128.2.3".parse::<IpAddr>().unwrap());
        assert_eq!(path.grh, None);
        ads.set_mlid(1).unwrap();
        assert_eq!(port.path(&ads), Err(Reason::PathBits));
        ads.set_mlid(0).unwrap();
        ads.set_grh(true);
        assert_eq!(port.path(&ads), Err(Reason::RemoteGid));
        ads.set_rgid_rip("fe80::9".parse::<Ipv6Addr>().unwrap().octets());
        ads.set_src_addr_index(1);
        assert_eq!(port.path(&ads), Err(Reason::SourceGid));
        ads.set_src_addr_index(0);
        let grh = port.path(&ads).unwrap().grh.unwrap();
        assert_eq!((grh.src, grh.dst), (port.gid(), "fe80::9".parse().unwrap()));
    }

    #[test]
    fn mac_addresses_are_of_one_station_and_local() {
        for (address, mac) in [
            ("127.0.0.5", [2, 0, 127, 0, 0, 5]),
            ("0.0.0.0", [2, 0, 0, 0, 0, 0]),
            ("fd00::1:2:3", [2, 1, 0, 2, 0, 3]),
        ] {
            assert_eq!(Port::mac(address.parse().unwrap()), mac, "{address}");
        }
    }

    #[test]
    fn packets_have_to_come_as_the_path_says() {
        let port = infiniband();
        let mut ads = Ads::zeroed();
        ads.set_rlid(9);
        let plain = port.path(&ads).unwrap();
        ads.set_grh(true);
        ads.set_rgid_rip("fe80::9".parse::<Ipv6Addr>().unwrap().octets());
        let routed = port.path(&ads).unwrap();
        let sent = routed.grh.unwrap();
        let answer = Grh {
            src: sent.dst,
            dst: sent.src,
            ..sent
        };
        let peer = plain.remote;
        assert!(plain.admits(peer, None) && routed.admits(peer, Some(&answer)));
        assert!(!plain.admits(peer, Some(&answer)) && !routed.admits(peer, None));
        assert!(!routed.admits(peer, Some(&sent)));
        assert!(!plain.admits(port.address, None));
    }
}
