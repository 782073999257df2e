//! A member comes back again and again, and each time another command fails.
#![cfg(feature = "soft")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use ep_transport::store::MemStore;
use ep_transport::{Error, Fabric, Group, GroupConfig, Half, MemberEvent, Nic, Rank};
use soft_hca::{Config, Faults, Live, set_faults, stats};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const REGION: u64 = 1 << 16;
/// The ranks that stay; their NICs are the first two of this process.
const SURVIVORS: [&str; 2] = ["soft_mlx5_0", "soft_mlx5_1"];
const NEWCOMER: &str = "soft_mlx5_2";

fn open(rank: u32, faults: Faults, store: &MemStore) -> Result<Group, Error> {
    let nic = Config {
        faults,
        ..Config::default()
    };
    let config = GroupConfig {
        nics: vec![
            Nic::SoftWith {
                config: Box::new(nic),
            }
            .into(),
        ],
        queue_depth: 16,
        ..GroupConfig::new(Rank(rank), 3)
    };
    Group::open(&config, REGION, Arc::new(store.clone()))
}

fn failing(number: u64) -> Faults {
    Faults {
        fail_command: Some(number),
        ..Faults::default()
    }
}

fn live(nics: &[&str]) -> Vec<Live> {
    nics.iter().map(|nic| stats(nic).unwrap().live).collect()
}

fn serve(from: &mut Group, to: &Group, value: u64) {
    from.signal(to.rank(), 0, 64, value).unwrap();
    from.ring(to.rank(), Half::Even).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while to.region().load_acquire(64).unwrap() != value {
        assert!(Instant::now() < deadline, "signal {value} did not arrive");
        std::thread::sleep(Duration::from_millis(1));
    }
    while !from.reusable(to.rank(), Half::Even).unwrap() {
        assert!(Instant::now() < deadline, "signal {value} did not complete");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The newcomer is admitted, by a second attempt if the first fails; what the survivor
/// says of attempts that were dropped.
fn admit(newcomer: &mut Group, survivors: &mut [Group], value: u64) -> Vec<String> {
    newcomer.wait_admitted(PATIENCE).unwrap();
    let [first, second] = survivors else {
        unreachable!("two stay");
    };
    serve(first, second, value);
    serve(newcomer, first, value);
    let deadline = Instant::now() + PATIENCE;
    let mut dropped = Vec::new();
    loop {
        for event in first.take_events() {
            match event {
                MemberEvent::UpdateDropped { why, .. } => dropped.push(why),
                MemberEvent::Admitted { .. } => return dropped,
                _ => {}
            }
        }
        assert!(Instant::now() < deadline, "no admission after {dropped:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_group_serves_on_and_the_next_update_succeeds() {
    let store = MemStore::new();
    let mut ranks: Vec<Group> = (0..3)
        .map(|rank| open(rank, Faults::default(), &store).unwrap())
        .collect();
    for group in &mut ranks {
        group.announce().unwrap();
    }
    for group in &mut ranks {
        group.wait_admitted(PATIENCE).unwrap();
    }
    let _ = ranks[0].take_events();
    drop(ranks.pop());
    let whole = live(&SURVIVORS);
    // In the newcomer: first in its construction, then in its connections.
    let mut steps = Vec::new();
    for number in 0.. {
        match open(2, failing(number), &store) {
            Err(error) => steps.push(error.to_string()),
            Ok(mut newcomer) => {
                let dropped = admit(&mut newcomer, &mut ranks, 100 + number);
                if dropped.is_empty() {
                    break;
                }
                steps.extend(dropped);
            }
        }
        assert_eq!(live(&[NEWCOMER]), [Live::default()], "{steps:?}");
        assert_eq!(live(&SURVIVORS), whole);
    }
    // Domain, region, doorbell page, a completion queue and a queue pair for each of two
    // lanes to each of two ranks; then three transitions of each.
    assert_eq!(steps.len(), 3 + 2 * 4 + 3 * 4, "{steps:#?}");
    let named = |command: &str| steps.iter().filter(|step| step.contains(command)).count();
    for command in [
        "CREATE_CQ",
        "CREATE_QP",
        "RST2INIT_QP",
        "INIT2RTR_QP",
        "RTR2RTS_QP",
    ] {
        assert_eq!(named(command), 4, "{command}: {steps:#?}");
    }
    // In a survivor: the four transitions of each lane to the newcomer.
    let mut steps = Vec::new();
    for number in 0.. {
        let mut newcomer = open(2, Faults::default(), &store).unwrap();
        set_faults(SURVIVORS[0], failing(number)).unwrap();
        let dropped = admit(&mut newcomer, &mut ranks, 200 + number);
        set_faults(SURVIVORS[0], Faults::default()).unwrap();
        drop(newcomer);
        assert_eq!(live(&SURVIVORS), whole);
        if dropped.is_empty() {
            break;
        }
        steps.extend(dropped);
    }
    assert_eq!(steps.len(), 4 * 2, "{steps:#?}");
    assert!(
        steps.iter().all(|step| step.contains("rank 0: ")),
        "{steps:#?}"
    );
    drop(ranks);
    let all = [SURVIVORS[0], SURVIVORS[1], NEWCOMER];
    assert_eq!(live(&all), [Live::default(); 3]);
    assert_eq!(all.map(|nic| stats(nic).unwrap().leaked), [0; 3]);
}
