//! A group that meets on etcd.

use crate::server::Etcd;
use crate::{PATIENCE, connect, eventually};
use ep_transport::{Epoch, Fabric, Group, GroupConfig, MemberEvent, Path, Rank, Secret};
use std::sync::Arc;
use std::time::Duration;

const REGION: u64 = 1 << 16;
const LEASE: Duration = Duration::from_secs(2);

fn join(etcd: &Etcd, rank: u32) -> Group {
    let config = GroupConfig {
        path: Path::Window,
        lease: LEASE,
        secret: Secret::new(&[7; 32]).ok(),
        ..GroupConfig::new(Rank(rank), 3)
    };
    let mut group = Group::open(&config, REGION, Arc::new(connect(etcd))).unwrap();
    group.announce().unwrap();
    group
}

fn counts(group: &Group, rank: u32) -> bool {
    let control = group.control();
    control.is_active(Rank(rank), control.next_epoch())
}

fn run_to(groups: &[Group], epoch: Epoch) {
    for group in groups {
        eventually("operations", || {
            while group.control().next_epoch() < epoch {
                group.control().try_begin()?;
                group.control().end();
            }
            Some(())
        });
    }
}

pub(crate) fn rank_0_dies() {
    let mut etcd = Etcd::start();
    let mut groups: Vec<Group> = (0..3).map(|rank| join(&etcd, rank)).collect();
    for group in &mut groups {
        group.wait_admitted(PATIENCE).unwrap();
    }
    run_to(&groups, Epoch(10));
    etcd.kill();
    // Longer than a lease: nobody is given up for what etcd could not hear.
    std::thread::sleep(LEASE + LEASE / 2);
    run_to(&groups, Epoch(20));
    for group in &groups {
        let given_up = |event: &MemberEvent| matches!(event, MemberEvent::PeerLost { .. });
        assert!(!group.take_events().iter().any(given_up));
        assert!((0..3).all(|rank| rank == group.rank().0 || counts(group, rank)));
    }
    drop(groups.remove(0));
    run_to(&groups, Epoch(30));
    etcd.run();
    for group in &groups {
        eventually("the mask", || (!counts(group, 0)).then_some(()));
    }
    let mut newcomer = join(&etcd, 0);
    let from = newcomer.wait_admitted(PATIENCE).unwrap();
    groups.push(newcomer);
    run_to(&groups, from);
    for group in &groups[..2] {
        eventually("admission", || counts(group, 0).then_some(()));
    }
}
