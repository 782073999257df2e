//! A port and its address.

use super::{Device, VerbsError};
use crate::config::GidChoice;
use crate::member::records::PortAddress;
use mlx5gda_sys::ffi;
use std::net::{IpAddr, Ipv6Addr};

/// `IBV_PORT_ACTIVE`.
const ACTIVE: u32 = 4;
/// `IBV_LINK_LAYER_ETHERNET`.
const ETHERNET: u8 = 2;
/// `IBV_GID_TYPE_ROCE_V2`.
const ROCE_V2: u32 = 2;
/// `IBV_QPF_GRH_REQUIRED`, a bit of the port's flags.
const GRH_REQUIRED: u8 = 1;
/// Entries of a GID table that an address path can name.
const MAX_ENTRIES: i32 = 256;
/// Entries that an error lists.
const MAX_LISTED: usize = 16;

/// What connecting needs to know about a port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Port {
    pub(crate) number: u8,
    pub(crate) gid_index: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) lid: u16,
    pub(crate) mtu: u32,
    pub(crate) ethernet: bool,
    /// InfiniBand: packets need a global route header within the subnet too.
    pub(crate) global: bool,
}

impl Port {
    pub(super) fn query(
        device: &Device,
        number: u8,
        choice: GidChoice,
    ) -> Result<Self, VerbsError> {
        // SAFETY: all bits zero is a valid value of this struct of integers.
        let mut attributes: ffi::ibv_port_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open. The exported symbol fills the struct up to
        // `flags`, which is what is read below.
        let status = unsafe {
            (device.table().ibv_query_port)(
                device.context(),
                number,
                std::ptr::from_mut(&mut attributes).cast(),
            )
        };
        if status != 0 {
            return Err(Device::call_failed(
                "ibv_query_port",
                &format!("port {number} of {}", device.name()),
            ));
        }
        if attributes.state as u32 != ACTIVE {
            return Err(VerbsError::PortDown {
                device: device.name().to_owned(),
                port: number,
                state: attributes.state as u32,
            });
        }
        let ethernet = attributes.link_layer == ETHERNET;
        let entries = gid_table(device, number, attributes.gid_tbl_len);
        let entry = pick(&entries, ethernet, choice).ok_or_else(|| VerbsError::NoGid {
            device: device.name().to_owned(),
            port: number,
            wanted: match choice {
                GidChoice::Automatic if ethernet => "RoCE v2 GID".into(),
                GidChoice::Automatic => "GID".into(),
                GidChoice::Index(index) => format!("usable GID with index {index}"),
                GidChoice::Address(address) => format!("usable GID with address {address}"),
            },
            found: listed(&entries, ethernet),
        })?;
        Ok(Self {
            number,
            gid_index: entry.index,
            gid: entry.gid,
            lid: attributes.lid,
            mtu: 128 << (attributes.active_mtu as u32).min(5),
            ethernet,
            global: !ethernet && attributes.flags & GRH_REQUIRED != 0,
        })
    }

    pub(crate) fn address(&self) -> PortAddress {
        PortAddress {
            gid: self.gid,
            lid: self.lid,
            mtu: self.mtu,
            ethernet: self.ethernet,
        }
    }
}

/// An entry of a GID table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    index: u8,
    gid: [u8; 16],
    roce_v2: bool,
}

impl Entry {
    fn address(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.gid)
    }
}

/// The entries that are in use.
fn gid_table(device: &Device, port: u8, entries: i32) -> Vec<Entry> {
    let mut table = Vec::new();
    for index in 0..entries.clamp(0, MAX_ENTRIES) as u32 {
        // SAFETY: all bits zero is a valid value of this struct of integers.
        let mut entry: ffi::ibv_gid_entry = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open and `entry` is as large as said.
        let status = unsafe {
            (device.table()._ibv_query_gid_ex)(
                device.context(),
                port.into(),
                index,
                &mut entry,
                0,
                size_of::<ffi::ibv_gid_entry>(),
            )
        };
        if status == 0 {
            table.push(Entry {
                index: index as u8,
                // SAFETY: both members of the union are 16 plain bytes.
                gid: unsafe { entry.gid.raw },
                roce_v2: entry.gid_type == ROCE_V2,
            });
        }
    }
    table
}

/// The entry to use; of several that are as good, the first.
fn pick(table: &[Entry], ethernet: bool, choice: GidChoice) -> Option<Entry> {
    let usable = table.iter().filter(|entry| entry.roce_v2 == ethernet);
    let wanted: Ipv6Addr = match choice {
        GidChoice::Automatic => {
            let rank = |entry: &&Entry| match entry.address() {
                _ if !ethernet => 0,
                address if address.to_ipv4_mapped().is_some() => 0,
                address if !address.is_unicast_link_local() => 1,
                // Reaches the same Ethernet segment only.
                _ => 2,
            };
            return usable.min_by_key(rank).copied();
        }
        GidChoice::Index(index) => {
            let mut usable = usable;
            return usable.find(|entry| entry.index == index).copied();
        }
        GidChoice::Address(IpAddr::V4(address)) => address.to_ipv6_mapped(),
        GidChoice::Address(IpAddr::V6(address)) => address,
    };
    let mut usable = usable;
    usable.find(|entry| entry.address() == wanted).copied()
}

/// What a GID table has, for whoever asked for something else.
fn listed(table: &[Entry], ethernet: bool) -> String {
    let version = |entry: &Entry| match entry.roce_v2 {
        _ if !ethernet => "",
        true => " (RoCE v2)",
        false => " (RoCE v1)",
    };
    let named = table.iter().take(MAX_LISTED).map(|entry| {
        let address = entry.address().to_canonical();
        format!("{} {address}{}", entry.index, version(entry))
    });
    let mut names: Vec<String> = named.collect();
    match table.len().saturating_sub(MAX_LISTED) {
        0 if names.is_empty() => names.push("none".into()),
        0 => {}
        more => names.push(format!("{more} more")),
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a ConnectX has them: each address as RoCE v1, then as RoCE v2.
    fn roce(addresses: &[&str]) -> Vec<Entry> {
        let both = addresses.iter().flat_map(|address| {
            let gid = address.parse::<Ipv6Addr>().unwrap().octets();
            [(gid, false), (gid, true)]
        });
        both.zip(0..)
            .map(|((gid, roce_v2), index)| Entry {
                index,
                gid,
                roce_v2,
            })
            .collect()
    }

    fn index(table: &[Entry], choice: GidChoice) -> Option<u8> {
        pick(table, true, choice).map(|entry| entry.index)
    }

    #[test]
    fn an_address_that_is_routed_comes_before_one_that_is_not() {
        let all = roce(&["fe80::1", "fd00::1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"]);
        assert_eq!(index(&all, GidChoice::Automatic), Some(5));
        assert_eq!(index(&all[..4], GidChoice::Automatic), Some(3));
        assert_eq!(index(&all[..2], GidChoice::Automatic), Some(1));
        assert_eq!(index(&all[..1], GidChoice::Automatic), None);
    }

    #[test]
    fn what_is_asked_for_is_taken_or_nothing() {
        let all = roce(&["fe80::1", "fd00::1", "::ffff:10.0.0.1"]);
        let at = |text: &str| index(&all, GidChoice::Address(text.parse().unwrap()));
        assert_eq!(at("10.0.0.1"), Some(5));
        assert_eq!(at("fd00::1"), Some(3));
        assert_eq!(at("10.0.0.2"), None);
        assert_eq!(index(&all, GidChoice::Index(1)), Some(1));
        // RoCE v1, and past the end.
        assert_eq!(index(&all, GidChoice::Index(2)), None);
        assert_eq!(index(&all, GidChoice::Index(6)), None);
    }

    #[test]
    fn on_infiniband_the_first_entry_is_taken() {
        let mut all = roce(&["fe80::1", "fe80::2"]);
        for entry in &mut all {
            entry.roce_v2 = false;
        }
        let first = pick(&all, false, GidChoice::Automatic).unwrap();
        assert_eq!(first.index, 0);
        let second = pick(&all, false, GidChoice::Address("fe80::2".parse().unwrap()));
        assert_eq!(second.unwrap().index, 2);
    }

    #[test]
    fn a_table_is_listed_by_index_up_to_a_length() {
        let some = roce(&["fd00::1", "::ffff:10.0.0.1"]);
        assert_eq!(
            listed(&some[1..], true),
            "1 fd00::1 (RoCE v2), 2 10.0.0.1 (RoCE v1), 3 10.0.0.1 (RoCE v2)"
        );
        assert_eq!(listed(&some[..1], false), "0 fd00::1");
        assert_eq!(listed(&[], true), "none");
        let many = roce(&["fd00::1"; 9]);
        let text = listed(&many, true);
        assert!(text.ends_with("15 fd00::1 (RoCE v2), 2 more"), "{text}");
        assert!(!listed(&many[..16], true).contains("more"));
    }
}
