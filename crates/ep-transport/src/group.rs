//! One rank's place in a group: everything it owns, and the way in and out.

use crate::config::{GroupConfig, Path};
use crate::control::Control;
use crate::error::Error;
use crate::events::MemberEvent;
use crate::fabric::{Fabric, PeerFault};
use crate::ids::{Epoch, Half, Incarnation, Rank, RankSet};
use crate::links::{Links, QueuePairReport};
use crate::member::connection::ConnectionState;
use crate::member::membership::{Membership, Place};
use crate::member::records::Card;
use crate::region::Region;
use crate::store::Rendezvous;
use crate::window::{self, Shared, WindowServer};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long who leaves waits for its last writes, and how often it looks.
const LAST_WRITES: Duration = Duration::from_secs(2);
const DELIVERY_PERIOD: Duration = Duration::from_micros(200);

/// Addresses, queue pairs and command counts at one moment. Compare two to see
/// what an update has touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything that a captured graph could hold, by name.
    pub addresses: Vec<(String, u64)>,
    /// The queue pairs.
    pub queue_pairs: Vec<QueuePairReport>,
    /// Commands sent to the NIC so far.
    pub commands: u64,
    /// Bytes of control memory.
    pub control_bytes: u64,
}

/// A rank's membership in a group.
///
/// [`Group::open`] builds everything; from then on this rank can run operations on its
/// own, every peer masked, touching nobody (to warm up, say). [`Group::announce`] tells
/// the others, and [`Group::wait_admitted`] waits for them to take it in. Dropping the group leaves without a word, as a crash does;
/// [`Group::leave`] says so first.
pub struct Group {
    lanes: u32,
    // Its threads use the rest.
    membership: Membership,
    _window: Option<WindowServer>,
    links: Arc<Links>,
    control: Arc<Control>,
    region: Arc<Region>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("rank", &self.membership.rank())
            .field("incarnation", &self.incarnation())
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Takes a rank: makes its region of `region_bytes`, its queue pairs and its
    /// rendezvous entry. All ranks must have regions of one size and layout.
    ///
    /// # Errors
    /// Bad settings, no NIC, no store, or a living process holds the rank.
    pub fn open(
        config: &GroupConfig,
        region_bytes: u64,
        store: Arc<dyn Rendezvous>,
    ) -> Result<Self, Error> {
        config.check()?;
        let common = format!(
            "capacity={} path={:?} lanes={} ops_per_round={} global_route={} region={region_bytes} {}",
            config.capacity,
            config.path,
            config.lanes,
            config.ops_per_round,
            config.global_route,
            config.common
        );
        let place = Place::take(config, common, store)?;
        let region = Arc::new(Region::shared("ep-buffer", region_bytes)?);
        let links = Arc::new(Links::open(config, &region)?);
        let window = match config.path {
            Path::Window => Some(window::serve(config, Shared::host(place.rank, &region)?)?),
            Path::Rdma => None,
        };
        let card = Card {
            rank: place.rank,
            incarnation: place.incarnation,
            host: window::host_of(place.rank)?,
            config: place.common.clone(),
            nics: links.nics(),
            region_address: region.address(),
            window: window.as_ref().map(|w| w.name().to_owned()),
        };
        let control = Control::new(config.capacity, place.incarnation);
        let control = Arc::new(control.with_round(config.ops_per_round));
        let (table, connections) = (Arc::clone(&control), Arc::clone(&links));
        Ok(Self {
            lanes: config.lanes,
            membership: Membership::begin(config, place, card, table, connections)?,
            _window: window,
            links,
            control,
            region,
        })
    }

    /// This rank's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.membership.incarnation()
    }

    /// Tells the others that this rank is ready to be taken in. From now on no operation
    /// is to be run until [`Group::wait_admitted`] has returned, which is to be called
    /// at once: the others count on this rank from the agreed epoch on.
    ///
    /// # Errors
    /// The store is away.
    pub fn announce(&mut self) -> Result<(), Error> {
        self.membership.announce()
    }

    /// Announces this rank, waits until the group takes it in, sets the epoch counter to the
    /// agreed epoch and returns it. To be called between operations.
    ///
    /// # Errors
    /// A peer's record or configuration does not fit, another process took the
    /// rank, or `limit` is over. Why this rank does not fit is said again to whoever asks
    /// again, until the group has taken it in all the same.
    pub fn wait_admitted(&mut self, limit: Duration) -> Result<Epoch, Error> {
        let epoch = self.membership.wait_admitted(limit)?;
        self.control.begin_round();
        Ok(epoch)
    }

    /// How far the connection to `rank` is; as the agent has seen it last.
    #[must_use]
    pub fn connection(&self, rank: Rank) -> ConnectionState {
        self.membership.connection(rank)
    }

    /// Another life that has taken this rank, if there is one: this process is not
    /// a member any more.
    #[must_use]
    pub fn superseded(&self) -> Option<Incarnation> {
        self.membership.superseded()
    }

    /// Takes what has happened to the membership since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<MemberEvent> {
        self.membership.take_events()
    }

    /// What this rank holds now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            addresses: self.links.addresses(),
            queue_pairs: self.links.queue_pairs(),
            commands: self.links.commands(),
            control_bytes: self.links.control_bytes(),
        }
    }

    /// Says that this rank has finished its work and waits until every present
    /// member has said so too.
    ///
    /// # Errors
    /// The store is away, or `limit` is over.
    pub fn finish(&self, limit: Duration) -> Result<(), Error> {
        self.membership.finish(limit)
    }

    /// Waits until no other rank is present; for the rank that serves the store.
    ///
    /// # Errors
    /// `limit` is over.
    pub fn wait_alone(&self, limit: Duration) -> Result<(), Error> {
        self.membership.wait_alone(limit)
    }

    /// Leaves on purpose: waits up to 2 seconds until the others have what was written to
    /// them, then tells them, and they mask this rank at once. Who is masked, before or
    /// meanwhile, is not waited for.
    ///
    /// # Errors
    /// The store is away, or not all of what was last written to those who count was
    /// acknowledged; the group is left all the same.
    pub fn leave(mut self) -> Result<(), Error> {
        let delivered = self.deliver(LAST_WRITES);
        self.membership.say_goodbye()?;
        delivered
    }

    /// Waits until everybody who counts has what was written to it.
    fn deliver(&self, limit: Duration) -> Result<(), Error> {
        let deadline = crate::clock::deadline(limit);
        let mut failed = RankSet::new(self.control.capacity());
        loop {
            let mut active = RankSet::new(self.control.capacity());
            self.control.active(self.control.next_epoch(), &mut active);
            let mut pending = Vec::new();
            for peer in active.iter() {
                match self.links.flush(peer) {
                    Ok(true) => {}
                    Ok(false) => pending.push(peer),
                    Err(fault) => {
                        tracing::debug!(rank = self.membership.rank().0, %fault, "last writes are lost");
                        failed.insert(peer);
                    }
                }
            }
            // Some may have been masked since they were looked at.
            self.control.active(self.control.next_epoch(), &mut active);
            pending.retain(|peer| active.contains(*peer));
            let lost: Vec<Rank> = failed
                .iter()
                .filter(|peer| active.contains(*peer))
                .collect();
            if pending.is_empty() && lost.is_empty() {
                return Ok(());
            }
            // Nothing completes any more where a connection has failed.
            if pending.is_empty() || Instant::now() >= deadline {
                let names = pending.into_iter().chain(lost);
                let names: Vec<String> = names.map(|rank| rank.to_string()).collect();
                return Err(Error::NotDelivered {
                    rank: self.membership.rank(),
                    limit,
                    pending: names.join(", "),
                });
            }
            std::thread::sleep(DELIVERY_PERIOD);
        }
    }
}

impl Fabric for Group {
    fn rank(&self) -> Rank {
        self.membership.rank()
    }

    fn capacity(&self) -> u32 {
        self.control.capacity()
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn region(&self) -> &Region {
        &self.region
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn write(
        &mut self,
        peer: Rank,
        lane: u32,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault> {
        self.links.write(peer, lane, from, to, len)
    }

    fn signal(&mut self, peer: Rank, lane: u32, to: u64, value: u64) -> Result<(), PeerFault> {
        self.links.signal(peer, lane, to, value)
    }

    fn ring(&mut self, peer: Rank, half: Half) -> Result<(), PeerFault> {
        self.links.ring(peer, half)
    }

    fn reusable(&mut self, peer: Rank, half: Half) -> Result<bool, PeerFault> {
        self.links.reusable(peer, half)
    }
}
