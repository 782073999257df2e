//! What a rank is told when it is started.

mod nic;

use crate::error::Error;
use crate::ids::{Rank, RankSet};
use crate::secret::Secret;
use std::time::Duration;

pub use nic::{GidChoice, Nic, NicConfig};

/// Most NICs that a rank can have.
pub(crate) const MAX_NICS: usize = 8;

/// How bytes get to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Path {
    /// Queue pairs of a NIC.
    Rdma,
    /// The peer's memory mapped into this process; ranks of one host only.
    Window,
}

/// The longest time that a setting may have: a week.
const LONGEST_MS: u64 = 7 * 24 * 3600 * 1000;

/// Everything about one rank that does not change during its life.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// This rank.
    pub rank: Rank,
    /// Ranks that the group can hold, 1 to 2,048.
    pub capacity: u32,
    /// These ranks form the group together, once all of them are there, each named once;
    /// others are admitted later.
    pub initial: Vec<Rank>,
    /// Name of the group at the rendezvous.
    pub group: String,
    /// A secret that all ranks of the group know: what is published at the rendezvous
    /// without it, changed or moved is refused. A store over TCP asks for it on its own.
    pub secret: Option<Secret>,
    /// What all ranks must have in common, as text; a rank with another one is refused.
    pub common: String,
    /// How bytes get to peers.
    pub path: Path,
    /// The NICs, for [`Path::Rdma`]: 1 to 8 different ones, no more than [`lanes`]. Queue
    /// pair `l` to each peer is of the NIC with index `l` modulo their number; ranks may
    /// have different numbers of NICs. All ports are of one kind, and each NIC reaches
    /// those of the peers that it meets.
    ///
    /// [`lanes`]: GroupConfig::lanes
    pub nics: Vec<NicConfig>,
    /// InfiniBand: packets carry a global route header even within a subnet. Between
    /// subnets, and where the subnet asks for it, they do anyway. The same on all ranks.
    pub global_route: bool,
    /// Queue pairs to each peer, 1 to 16.
    pub lanes: u32,
    /// Entries of 64 bytes in each send queue, a power of two, 8 to 32,768.
    pub queue_depth: u32,
    /// Ranks are admitted at epochs that are multiples of this: the operations of
    /// one round of the caller's loop.
    pub ops_per_round: u64,
    /// How many operations ahead an admission is agreed. Larger: survivors never
    /// wait for a decision; smaller: the newcomer takes part sooner.
    pub admission_lead: u64,
    /// How long an attempt to change the view may take before it is dropped. A data
    /// path that waits for the decision has to wait longer than this, or it goes on
    /// past the epoch that its rank has promised to keep free.
    pub update_time_out: Duration,
    /// How long the rendezvous may go without a sign of life of this rank. The end
    /// of the process is noticed at once where the store can see it.
    pub lease: Duration,
    /// How long to wait for a last life of this rank to end before giving up.
    pub take_over_time_out: Duration,
    /// Local acknowledgement time-out of the queue pairs: 4.096 us * 2^n, n 1 to 31.
    pub ack_timeout: u8,
    /// Retransmissions before a queue pair gives up, 0 to 7.
    pub retry_count: u8,
    /// Retries after a receiver that was not ready, 0 to 7; 7 is for ever.
    pub rnr_retry: u8,
    /// Traffic class of the packets (RoCE v2: DSCP and ECN bits).
    pub traffic_class: u8,
    /// Service level (InfiniBand) or priority (RoCE).
    pub service_level: u8,
}

impl GroupConfig {
    /// The defaults for rank `rank` of `capacity`, all of which start together.
    #[must_use]
    pub fn new(rank: Rank, capacity: u32) -> Self {
        Self {
            rank,
            capacity,
            initial: (0..capacity).map(Rank).collect(),
            group: "ep".into(),
            secret: None,
            common: String::new(),
            path: Path::Rdma,
            #[cfg(feature = "soft")]
            nics: vec![Nic::Soft { address: None }.into()],
            #[cfg(not(feature = "soft"))]
            nics: vec![
                Nic::System {
                    device: None,
                    port: 1,
                }
                .into(),
            ],
            global_route: false,
            lanes: 2,
            queue_depth: 64,
            ops_per_round: 2,
            admission_lead: 8,
            update_time_out: Duration::from_secs(5),
            lease: Duration::from_secs(5),
            take_over_time_out: Duration::from_secs(15),
            // 4.096 us * 2^17 = 0.54 s, eight times: a living peer may be stalled for
            // seconds on a crowded machine, and a dead one is noticed sooner by its
            // lease or by the time-out of an operation.
            ack_timeout: 17,
            retry_count: 7,
            rnr_retry: 7,
            traffic_class: 0,
            service_level: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let range = |what, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::Config {
                    what,
                    value: value.to_string(),
                    limit: format!("between {low} and {high}"),
                })
            }
        };
        range("capacity", self.capacity.into(), 1, 2048)?;
        range("rank", self.rank.0.into(), 0, u64::from(self.capacity) - 1)?;
        range(
            "number of initial ranks",
            self.initial.len() as u64,
            1,
            self.capacity.into(),
        )?;
        let mut named = RankSet::new(self.capacity);
        for rank in &self.initial {
            range(
                "initial rank",
                rank.0.into(),
                0,
                u64::from(self.capacity) - 1,
            )?;
            if named.contains(*rank) {
                return Err(Error::Config {
                    what: "initial",
                    value: format!("{rank} twice"),
                    limit: "different ranks".into(),
                });
            }
            named.insert(*rank);
        }
        range("lanes", self.lanes.into(), 1, 16)?;
        let most_nics = (MAX_NICS as u64).min(self.lanes.into());
        range("number of NICs", self.nics.len() as u64, 1, most_nics)?;
        range("queue_depth", self.queue_depth.into(), 8, 32_768)?;
        range("admission_lead", self.admission_lead, 1, 1 << 40)?;
        for (what, time, least) in [
            ("update_time_out in milliseconds", self.update_time_out, 1),
            ("lease in milliseconds", self.lease, 1),
            (
                "take_over_time_out in milliseconds",
                self.take_over_time_out,
                0,
            ),
        ] {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            range(what, millis, least, LONGEST_MS)?;
        }
        range("ops_per_round", self.ops_per_round, 1, 1 << 20)?;
        range("ack_timeout", self.ack_timeout.into(), 1, 31)?;
        range("retry_count", self.retry_count.into(), 0, 7)?;
        range("rnr_retry", self.rnr_retry.into(), 0, 7)?;
        range("service_level", self.service_level.into(), 0, 15)?;
        if !self.queue_depth.is_power_of_two() {
            return Err(Error::Config {
                what: "queue_depth",
                value: self.queue_depth.to_string(),
                limit: "a power of two".into(),
            });
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.group.is_empty() || self.group.len() > 64 || !self.group.chars().all(good) {
            return Err(Error::Config {
                what: "group",
                value: format!("{:?}", self.group),
                limit: "1 to 64 letters, digits, '-', '_' or '.'".into(),
            });
        }
        Ok(())
    }
}
