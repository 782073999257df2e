//! Ranks of a group in this process, each with a software NIC of its own: all of them, or
//! all but the first.

use crate::counted::{Counted, Messages};
use crate::threads::{Thread, Threads};
use ep_transport::store::MemStore;
use ep_transport::{Fabric, Group, GroupConfig, Incarnation, MemberEvent, Path, Rank};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const REGION: u64 = 4096;
/// Within this time everybody has cleared away what it published.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(20);
pub(crate) const LANES: u32 = 2;

struct Member {
    group: Group,
    store: Arc<Counted<MemStore>>,
    agent: Thread,
}

pub(crate) struct Cluster {
    store: MemStore,
    ranks: u32,
    members: Vec<Member>,
    threads: Threads,
}

/// What one change of the membership took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// From when the first one asked to come in until all counted all of them.
    pub(crate) time: Duration,
    /// How long the agent of each rank ran on a processor, of those that were there
    /// before (or of all, if none was).
    pub(crate) agent: Vec<Duration>,
    /// By rank that was there before (or by rank, if none was): commands to the NIC,
    /// and to the queue pairs of ranks that did not change.
    pub(crate) commands: Vec<u64>,
    pub(crate) healthy: Vec<u64>,
    /// Why attempts were dropped, as the first of them heard it.
    pub(crate) dropped: Vec<String>,
    /// Likewise, messages from and to the store.
    pub(crate) messages: Vec<Messages>,
}

pub(crate) fn config(rank: Rank, ranks: u32) -> GroupConfig {
    let mut config = GroupConfig::new(rank, ranks);
    config.path = Path::Rdma;
    config.lanes = LANES;
    // With hundreds of threads on few cores nobody is to be taken for dead.
    config.lease = PATIENCE;
    config.update_time_out = PATIENCE;
    config
}

impl Cluster {
    /// The ranks, set up and not yet connected.
    pub(crate) fn open(ranks: u32) -> Self {
        Self::open_from(0, ranks, MemStore::new())
    }

    /// The ranks from `first` on; the others are elsewhere.
    pub(crate) fn open_from(first: u32, ranks: u32, store: MemStore) -> Self {
        let mut cluster = Self {
            store,
            ranks,
            members: Vec::new(),
            threads: Threads::default(),
        };
        for rank in (first..ranks).map(Rank) {
            let member = cluster.member(rank);
            cluster.members.push(member);
        }
        cluster
    }

    fn member(&mut self, rank: Rank) -> Member {
        let store = Arc::new(Counted::new(self.store.clone()));
        let config = config(rank, self.ranks);
        let group = Group::open(&config, REGION, Arc::clone(&store) as Arc<_>);
        Member {
            group: group.unwrap(),
            store,
            agent: self.threads.newest("ep-agent"),
        }
    }

    pub(crate) fn incarnation_of_last(&self) -> Incarnation {
        let last = self.members.last().unwrap();
        last.group.incarnation()
    }

    /// Connects all ranks with each other: every queue pair of every rank.
    pub(crate) fn connect_all(&mut self) -> Cost {
        let everybody: Vec<usize> = (0..self.members.len()).collect();
        self.admit(&everybody)
    }

    /// Ends the processes of the last `count` ranks, so to speak, and has new ones take
    /// their places.
    pub(crate) fn replace(&mut self, count: usize) -> Cost {
        let stay = self.members.len() - count;
        let changed: Vec<usize> = (stay..self.members.len()).collect();
        let replaced = self.members.split_off(stay);
        let ranks: Vec<Rank> = replaced.iter().map(|member| member.group.rank()).collect();
        drop(replaced);
        for rank in &ranks {
            let member = self.member(*rank);
            self.members.push(member);
        }
        // Long before a new process is ready all others know that the last one is gone.
        for member in &self.members[..stay] {
            for rank in &ranks {
                member.wait_until_masked(*rank);
            }
        }
        self.admit(&changed)
    }

    /// `changed`: which of the members here.
    fn admit(&mut self, changed: &[usize]) -> Cost {
        let watched: Vec<usize> = (0..self.members.len())
            .filter(|rank| changed.len() == self.members.len() || !changed.contains(rank))
            .collect();
        let of = |cluster: &Self| -> Vec<_> {
            let members = watched.iter().map(|rank| &cluster.members[*rank]);
            members
                .map(|member| {
                    let snapshot = member.group.snapshot();
                    (snapshot, member.store.messages(), member.agent.ran())
                })
                .collect()
        };
        let before = of(self);
        let _ = self.members[0].group.take_events();
        let begun = Instant::now();
        for &which in changed {
            self.members[which].group.announce().unwrap();
        }
        for &which in changed {
            self.members[which].group.wait_admitted(PATIENCE).unwrap();
        }
        for member in &self.members {
            for &which in changed {
                member.wait_for(&self.members[which].group);
            }
        }
        let mut cost = Cost {
            time: begun.elapsed(),
            ..Cost::default()
        };
        std::thread::sleep(AFTERMATH);
        for event in self.members[0].group.take_events() {
            if let MemberEvent::UpdateDropped { why, .. } = event {
                cost.dropped.push(why);
            }
        }
        let of_changed = |rank: Rank| {
            let mut changed = changed
                .iter()
                .map(|&which| self.members[which].group.rank());
            changed.any(|other| other == rank)
        };
        for ((then, told, ran), (now, tells, runs)) in before.iter().zip(of(self)) {
            let pairs = then.queue_pairs.iter().zip(&now.queue_pairs);
            let healthy =
                pairs.filter(|(then, now)| then.commands != now.commands && !of_changed(now.peer));
            cost.healthy.push(healthy.count() as u64);
            cost.agent.push(runs.saturating_sub(*ran));
            cost.commands.push(now.commands - then.commands);
            cost.messages.push(tells - *told);
        }
        cost
    }
}

impl Member {
    /// Waits until this member has noticed that `rank` is gone.
    fn wait_until_masked(&self, rank: Rank) {
        let control = self.group.control();
        let deadline = Instant::now() + PATIENCE;
        while control.is_active(rank, control.next_epoch()) {
            assert!(Instant::now() < deadline, "{rank} was not missed");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Waits until this member counts `other` in its present life.
    fn wait_for(&self, other: &Group) {
        let (control, rank) = (self.group.control(), other.rank());
        let deadline = Instant::now() + PATIENCE;
        let counts = || {
            let row = control.participation(rank).unwrap();
            row.incarnation == other.incarnation() && row.active_from < row.active_until
        };
        while rank != self.group.rank() && !counts() {
            assert!(Instant::now() < deadline, "{rank} was not taken in");
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
