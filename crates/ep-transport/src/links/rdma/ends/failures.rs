//! Each command fails in its turn.

use super::nics::several;
use super::{at, exchange, join, open, settings};
use crate::error::{Chain, Error};
use crate::fabric::PeerFault;
use crate::member::agent::Connections;
use soft_hca::{Config, Faults, Live, set_faults};

/// Queue pairs to the two other ranks.
const PAIRS: usize = 4;
/// Those of four to each that are of one of two NICs.
const SPREAD: usize = 4;
/// Queue pairs to one rank.
const LANES: usize = 2;

fn failing(number: u64) -> Faults {
    Faults {
        fail_command: Some(number),
        ..Faults::default()
    }
}

/// The first word of an error: the call or the command.
fn step(error: &Error) -> String {
    let text = Chain(error).to_string();
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn construction_yields_a_whole_object_or_leaves_nothing_behind() {
    let nic = at([127, 77, 1, 1]);
    let opened = open(&settings(0, nic.clone())).unwrap();
    let name = opened.nic().to_owned();
    let stats = || soft_hca::stats(&name).unwrap();
    let whole = Live {
        pds: 1,
        mrs: 1,
        umems: 1,
        uars: 1,
        cqs: PAIRS,
        qps: PAIRS,
        transport_domains: 0,
    };
    assert_eq!(stats().live, whole);
    drop(opened);
    let with = |number| {
        let faults = failing(number);
        open(&settings(
            0,
            Config {
                faults,
                ..nic.clone()
            },
        ))
    };
    let mut steps = Vec::new();
    while let Err(error) = with(steps.len() as u64) {
        steps.push(step(&error));
        assert_eq!(stats().live, Live::default(), "{}", Chain(&error));
        assert_eq!(stats().leaked, 0, "{}", Chain(&error));
    }
    let mut expected = vec!["ibv_alloc_pd", "ibv_reg_mr", "mlx5dv_devx_alloc_uar"];
    expected.extend(["CREATE_CQ", "CREATE_QP"].repeat(PAIRS));
    assert_eq!(steps, expected);
    // What cannot be destroyed at first is destroyed before the context is closed.
    for number in steps.len() as u64.. {
        let before = stats().refused;
        drop(with(number).unwrap());
        assert_eq!(stats().live, Live::default());
        // Whether a doorbell page was freed, the C function does not say.
        assert!(stats().leaked <= 1);
        if stats().refused == before {
            return;
        }
    }
}

#[test]
fn construction_that_fails_at_the_second_nic_leaves_nothing_at_either() {
    let [first, second] = [at([127, 77, 12, 1]), at([127, 77, 12, 2])];
    let with = |faults| {
        let second = Config {
            faults,
            ..second.clone()
        };
        open(&several(0, vec![first.clone(), second]))
    };
    let opened = with(Faults::default()).unwrap();
    let names = [0, 1].map(|nic| opened.nic_at(nic).to_owned());
    let stats = || names.each_ref().map(|name| soft_hca::stats(name).unwrap());
    // Half of the queue pairs each.
    for stats in stats() {
        assert_eq!((stats.live.mrs, stats.live.qps), (1, SPREAD));
    }
    drop(opened);
    let mut steps = Vec::new();
    while let Err(error) = with(failing(steps.len() as u64)) {
        steps.push(step(&error));
        for stats in stats() {
            assert_eq!(stats.live, Live::default(), "{}", Chain(&error));
            assert_eq!(stats.leaked, 0, "{}", Chain(&error));
        }
    }
    let mut expected = vec!["ibv_alloc_pd", "ibv_reg_mr", "mlx5dv_devx_alloc_uar"];
    expected.extend(["CREATE_CQ", "CREATE_QP"].repeat(SPREAD));
    assert_eq!(steps, expected);
}

#[test]
fn an_update_that_fails_touches_nobody_else_and_can_be_made_again() {
    let ends: Vec<_> = (0..3u8)
        .map(|rank| open(&settings(rank.into(), at([127, 77, 2, 1 + rank]))).unwrap())
        .collect();
    let [a, b, c] = ends.as_slice() else {
        unreachable!("three were made");
    };
    join(a, b).unwrap();
    join(a, c).unwrap();
    exchange(a, b, 1);
    let before = a.stats().live;
    let mut steps = Vec::new();
    loop {
        set_faults(a.nic(), failing(steps.len() as u64)).unwrap();
        let outcome = join(a, b);
        set_faults(a.nic(), Faults::default()).unwrap();
        assert_eq!(a.stats().live, before);
        let value = 10 + steps.len() as u64;
        exchange(a, c, value);
        let Err(error) = outcome else {
            exchange(a, b, value);
            break;
        };
        steps.push(step(&error));
        let pairs = a.links.queue_pairs();
        let unknown = pairs.iter().filter(|pair| pair.state == "unknown");
        assert_eq!(unknown.count(), 1, "{}", Chain(&error));
        a.links.forget(&[b.rank]);
        let refused = a.post(b.rank, value);
        assert!(matches!(refused, Err(PeerFault::NotConnected { .. })));
        join(a, b).unwrap();
        exchange(a, b, value);
        exchange(b, a, value);
    }
    let mut expected = ["2RST_QP", "RST2INIT_QP"].repeat(LANES);
    expected.extend(["INIT2RTR_QP", "RTR2RTS_QP"].repeat(LANES));
    assert_eq!(steps, expected);
}
