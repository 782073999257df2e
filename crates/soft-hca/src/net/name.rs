//! Socket addresses as the system lays them out.

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for `struct sockaddr_in` and `struct sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Name {
    bytes: [u8; 32],
}

/// Bytes of an IPv4 name.
const V4: usize = size_of::<libc::sockaddr_in>();
/// Bytes of an IPv6 name.
const V6: usize = size_of::<libc::sockaddr_in6>();

// Family, port in network order, then an IPv4 address, or a flow label and an
// IPv6 address.
const _: () = {
    assert!(V4 <= size_of::<Name>() && V6 <= size_of::<Name>());
    assert!(offset_of!(libc::sockaddr_in, sin_family) == 0);
    assert!(offset_of!(libc::sockaddr_in, sin_port) == 2);
    assert!(offset_of!(libc::sockaddr_in, sin_addr) == 4);
    assert!(offset_of!(libc::sockaddr_in6, sin6_family) == 0);
    assert!(offset_of!(libc::sockaddr_in6, sin6_port) == 2);
    assert!(offset_of!(libc::sockaddr_in6, sin6_addr) == 8);
};

impl Name {
    /// The name of an address and port, and its length in bytes.
    pub(super) fn new(address: IpAddr, port: u16) -> (Self, libc::socklen_t) {
        let mut name = Self::default();
        let (family, len) = match address {
            IpAddr::V4(address) => {
                name.bytes[4..8].copy_from_slice(&address.octets());
                (libc::AF_INET, V4)
            }
            IpAddr::V6(address) => {
                name.bytes[8..24].copy_from_slice(&address.octets());
                (libc::AF_INET6, V6)
            }
        };
        name.bytes[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        name.bytes[2..4].copy_from_slice(&port.to_be_bytes());
        (name, len as libc::socklen_t)
    }

    /// The address and port; `None` for a name of another family.
    pub(super) fn get(&self) -> Option<(IpAddr, u16)> {
        let [f0, f1, p0, p1, a, b, c, d, v6 @ ..] = self.bytes;
        let address = match libc::c_int::from(libc::sa_family_t::from_ne_bytes([f0, f1])) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            libc::AF_INET6 => {
                let (octets, _) = v6.split_first_chunk::<16>()?;
                IpAddr::V6(Ipv6Addr::from(*octets))
            }
            _ => return None,
        };
        Some((address, u16::from_be_bytes([p0, p1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for address in ["127.1.2.3", "::1", "fd00:1:2:3:4:5:6:7"] {
            let address: IpAddr = address.parse().unwrap();
            let (name, _) = Name::new(address, 0xc123);
            assert_eq!(name.get(), Some((address, 0xc123)));
        }
        assert_eq!(Name::default().get(), None);
    }
}
