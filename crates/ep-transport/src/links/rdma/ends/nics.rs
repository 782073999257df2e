//! Ranks with several NICs.

use super::{End, REGION, at, eventually, join, open, settings, soft};
use crate::config::{GidChoice, GroupConfig};
use crate::error::Chain;
use crate::ids::Half;
use crate::links::QueuePairReport;
use soft_hca::Config;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

const LANES: u32 = 4;
const BLOCK: u64 = 5000;
const STRIDE: u64 = 8192;

pub(super) fn several(rank: u32, nics: Vec<Config>) -> GroupConfig {
    GroupConfig {
        nics: nics.into_iter().map(soft).collect(),
        lanes: LANES,
        ..settings(rank, Config::default())
    }
}

fn ends<const N: usize>(subnet: u8, rank: u8, hosts: [u8; N]) -> End {
    let nic = |host| at([127, 77, subnet, host]);
    open(&several(rank.into(), hosts.map(nic).to_vec())).unwrap()
}

/// A block and a signal over each queue pair.
fn over_every_lane(from: &End, to: &End, value: u8) {
    from.region.write(0, &[value; BLOCK as usize]).unwrap();
    for lane in 0..LANES {
        let place = REGION / 2 + u64::from(lane) * STRIDE;
        let links = &from.links;
        links.write(to.rank, lane, 0, place, BLOCK).unwrap();
        links
            .signal(to.rank, lane, place + BLOCK, value.into())
            .unwrap();
    }
    from.links.ring(to.rank, Half::Odd).unwrap();
    eventually("completion", || {
        from.links.reusable(to.rank, Half::Odd).unwrap()
    });
    for lane in 0..LANES {
        let place = REGION / 2 + u64::from(lane) * STRIDE;
        let mut block = [0; BLOCK as usize];
        to.region.read(place, &mut block).unwrap();
        assert_eq!(block, [value; BLOCK as usize], "lane {lane}");
        assert_eq!(
            to.region.load_acquire(place + BLOCK).unwrap(),
            u64::from(value),
            "lane {lane}"
        );
    }
}

fn sent(end: &End, nic: usize) -> u64 {
    soft_hca::stats(end.nic_at(nic)).unwrap().packets_out
}

fn pairs(end: &End, peer: &End) -> Vec<QueuePairReport> {
    let mut pairs = end.links.queue_pairs();
    pairs.retain(|pair| pair.peer == peer.rank);
    pairs
}

#[test]
fn queue_pairs_are_spread_over_both_nics_of_both_ranks() {
    let (a, b) = (ends(13, 0, [1, 2]), ends(13, 1, [3, 4]));
    let gids = a.links.nics().into_iter().map(|nic| nic.port.gid);
    let addresses: Vec<String> = gids.map(|gid| Ipv6Addr::from(gid).to_string()).collect();
    assert_eq!(addresses, ["::ffff:127.77.13.1", "::ffff:127.77.13.2"]);
    join(&a, &b).unwrap();
    over_every_lane(&a, &b, 1);
    over_every_lane(&b, &a, 2);
    for end in [&a, &b] {
        // Two blocks of two packets, two signals, and acknowledgements.
        for nic in 0..2 {
            assert!(sent(end, nic) >= 6, "NIC {nic} of {}", end.rank);
        }
    }
    let nics: Vec<u32> = pairs(&a, &b).iter().map(|pair| pair.nic).collect();
    assert_eq!(nics, [0, 1, 0, 1]);
}

#[test]
fn ranks_with_different_numbers_of_nics_reach_each_other() {
    let (one, two, three) = (
        ends(14, 0, [1]),
        ends(14, 1, [2, 3]),
        ends(14, 2, [4, 5, 6]),
    );
    let all = [&one, &two, &three];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        join(all[a], all[b]).unwrap();
        over_every_lane(all[a], all[b], 3);
        over_every_lane(all[b], all[a], 4);
    }
    // The same queues, whatever they are spread over.
    let [first, ..] = all.map(|end| end.links.control_bytes());
    assert!(all.iter().all(|end| end.links.control_bytes() == first));
}

#[test]
fn a_peer_that_comes_back_changes_its_own_queue_pairs_on_both_nics() {
    let (a, c) = (ends(15, 0, [1, 2]), ends(15, 2, [5, 6]));
    let old = ends(15, 1, [3, 4]);
    join(&a, &old).unwrap();
    join(&a, &c).unwrap();
    over_every_lane(&a, &c, 5);
    let (to_old, to_c, commands) = (pairs(&a, &old), pairs(&a, &c), a.links.commands());
    drop(old);
    let new = ends(15, 1, [3, 4]);
    join(&a, &new).unwrap();
    over_every_lane(&a, &new, 6);
    over_every_lane(&new, &a, 7);
    assert_eq!(pairs(&a, &c), to_c);
    over_every_lane(&a, &c, 8);
    for (before, after) in to_old.into_iter().zip(pairs(&a, &new)) {
        let expected = QueuePairReport {
            commands: before.commands + 4,
            ..before
        };
        assert_eq!(after, expected);
    }
    // Those of both NICs count.
    assert_eq!(a.links.commands(), commands + 4 * u64::from(LANES));
}

#[test]
fn the_same_nic_twice_is_named() {
    let twice = several(0, vec![at([127, 77, 16, 1]), at([127, 77, 16, 1])]);
    let error = open(&twice).err().unwrap().to_string();
    let name = ends(16, 0, [1]).nic().to_owned();
    assert_eq!(
        error,
        format!("nics is port 1 of {name} twice, but must be different ports")
    );
}

#[test]
fn there_are_one_to_eight_nics_and_no_more_than_queue_pairs() {
    let checked = |nics, lanes| {
        let config = GroupConfig {
            lanes,
            ..several(0, vec![Config::default(); nics])
        };
        config.check().map_err(|error| error.to_string())
    };
    for (nics, lanes) in [(1, 1), (4, 4), (8, 8), (8, 16)] {
        assert_eq!(checked(nics, lanes), Ok(()));
    }
    let refused: BTreeSet<String> = [(0, 4), (5, 4), (9, 16)]
        .into_iter()
        .map(|(nics, lanes)| checked(nics, lanes).unwrap_err())
        .collect();
    let expected = [
        "number of NICs is 0, but must be between 1 and 4",
        "number of NICs is 5, but must be between 1 and 4",
        "number of NICs is 9, but must be between 1 and 8",
    ];
    assert_eq!(refused, expected.map(str::to_owned).into());
}

/// One NIC with an IPv4 address and one with an IPv6 address.
fn mixed(rank: u32, v4: [u8; 4], gids: [GidChoice; 2]) -> GroupConfig {
    let v6 = Config {
        addresses: vec![Ipv6Addr::LOCALHOST.into()],
        ..Config::default()
    };
    let mut settings = several(rank, vec![at(v4), v6]);
    for (nic, gid) in settings.nics.iter_mut().zip(gids) {
        nic.gid = gid;
    }
    settings
}

fn address(text: &str) -> GidChoice {
    GidChoice::Address(text.parse::<IpAddr>().unwrap())
}

#[test]
fn each_nic_has_an_address_of_its_own_choice() {
    let a = mixed(
        0,
        [127, 77, 18, 1],
        [address("127.77.18.1"), address("::1")],
    );
    let b = mixed(
        1,
        [127, 77, 18, 2],
        [GidChoice::Index(1), GidChoice::Automatic],
    );
    let [a, b] = [a, b].map(|settings| open(&settings).unwrap());
    for (end, v4) in [(&a, "::ffff:127.77.18.1"), (&b, "::ffff:127.77.18.2")] {
        let gids = end.links.nics().into_iter().map(|nic| nic.port.gid);
        let gids: Vec<String> = gids.map(|gid| Ipv6Addr::from(gid).to_string()).collect();
        assert_eq!(gids, [v4, "::1"]);
    }
    join(&a, &b).unwrap();
    over_every_lane(&a, &b, 9);
    over_every_lane(&b, &a, 10);
}

#[test]
fn an_address_that_is_at_the_other_nic_is_named_with_those_that_are_there() {
    let told = |gids| {
        let error = open(&mixed(0, [127, 77, 19, 1], gids)).err().unwrap();
        Chain(&error).to_string()
    };
    let v4_at_both = told([address("127.77.19.1"); 2]);
    let expected = "has no usable GID with address 127.77.19.1; \
                    it has: 0 ::1 (RoCE v1), 1 ::1 (RoCE v2)";
    assert!(v4_at_both.ends_with(expected), "{v4_at_both}");
    let v6_at_both = told([address("::1"); 2]);
    let expected = "has no usable GID with address ::1; \
                    it has: 0 127.77.19.1 (RoCE v1), 1 127.77.19.1 (RoCE v2)";
    assert!(v6_at_both.ends_with(expected), "{v6_at_both}");
    // Each names the NIC that lacks it.
    let named = |text: &str| text.split(" has no ").next().unwrap().to_owned();
    assert_ne!(named(&v4_at_both), named(&v6_at_both));
}
