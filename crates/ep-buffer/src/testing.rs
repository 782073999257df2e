//! A group of ranks inside one process, for tests: the buffer's and its users'.
//!
//! A [`Cluster`] gives each rank a [`Fabric`] over plain copies between regions. It
//! keeps the promises of a real one and no more: a write reads its source when it
//! is delivered, not when it is posted, lanes overtake each other, queues are
//! bounded, and completions come late. Delays, stuck and broken links and sudden
//! deaths are there on demand.

pub mod reference;
mod wire;

use crate::config::Config;
use ep_transport::{
    Control, Epoch, Fabric, Half, Incarnation, PeerFault, Rank, Region, RegionError,
};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use wire::{Posted, Wire};

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Work queue entries that a lane holds.
    pub depth: usize,
    /// Each delivery takes up to this long, at random.
    pub delay: Duration,
    /// Where the random delays begin.
    pub seed: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            depth: 64,
            delay: Duration::ZERO,
            seed: 1,
        }
    }
}

/// The life that a rank lives now.
#[derive(Clone, Debug)]
struct Place {
    region: Arc<Region>,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Shared {
    places: Mutex<Vec<Place>>,
    wire: Mutex<Wire>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The places of all ranks and the links between them.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    config: Config,
    network: Network,
    courier: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Regions for all ranks of `config`, and links that behave like `network`.
    /// Nobody is active yet; incarnations are 1.
    ///
    /// # Errors
    /// The memory could not be had.
    pub fn new(config: &Config, network: Network) -> Result<Self, RegionError> {
        let places = (0..config.capacity())
            .map(|_| Place::new(config, Incarnation(1)))
            .collect::<Result<Vec<_>, _>>()?;
        let wire = Wire::new(config.capacity(), config.lanes(), network);
        let shared = Arc::new(Shared {
            places: Mutex::new(places),
            wire: Mutex::new(wire),
            closed: AtomicBool::new(false),
        });
        let courier = (!network.delay.is_zero()).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.closed.load(SeqCst) {
                    shared.deliver_all();
                    std::thread::sleep(Duration::from_micros(20));
                }
            })
        });
        Ok(Self {
            shared,
            config: config.clone(),
            network,
            courier,
        })
    }

    /// A cluster in which ranks `0 .. initial` take part from epoch 0 on, and their
    /// fabrics.
    ///
    /// # Errors
    /// The memory could not be had.
    pub fn with_ranks(
        config: &Config,
        network: Network,
        initial: u32,
    ) -> Result<(Self, Vec<TestFabric>), RegionError> {
        let cluster = Self::new(config, network)?;
        let mut fabrics = Vec::new();
        for rank in (0..initial).map(Rank) {
            for other in (0..initial).map(Rank) {
                if let Some(control) = cluster.control(rank) {
                    control.admit(other, Incarnation(1), Epoch(0));
                }
            }
            fabrics.extend(cluster.fabric(rank));
        }
        Ok((cluster, fabrics))
    }

    /// The end of the network at `rank`; `None` beyond the capacity.
    #[must_use]
    pub fn fabric(&self, rank: Rank) -> Option<TestFabric> {
        let place = lock(&self.shared.places).get(rank.index())?.clone();
        Some(TestFabric {
            rank,
            capacity: self.config.capacity(),
            lanes: self.config.lanes(),
            depth: self.network.depth,
            place,
            shared: Arc::clone(&self.shared),
            rings_left: None,
        })
    }

    /// Begins a new life of `rank`: fresh memory, an empty table, new links to and
    /// from everybody. Whoever had the place before reaches nobody any more.
    ///
    /// # Errors
    /// The memory could not be had.
    pub fn reborn(&self, rank: Rank, incarnation: Incarnation) -> Result<(), RegionError> {
        let place = Place::new(&self.config, incarnation)?;
        let mut wire = lock(&self.shared.wire);
        wire.reset(rank);
        if let Some(slot) = lock(&self.shared.places).get_mut(rank.index()) {
            *slot = place;
        }
        Ok(())
    }

    /// The membership table of `rank`.
    #[must_use]
    pub fn control(&self, rank: Rank) -> Option<Arc<Control>> {
        let places = lock(&self.shared.places);
        Some(Arc::clone(&places.get(rank.index())?.control))
    }

    /// The memory of `rank`.
    #[must_use]
    pub fn region(&self, rank: Rank) -> Option<Arc<Region>> {
        let places = lock(&self.shared.places);
        Some(Arc::clone(&places.get(rank.index())?.region))
    }

    /// Holds back (or lets go again) everything on its way from `source` to `destination`.
    pub fn hold(&self, source: Rank, destination: Rank, held: bool) {
        lock(&self.shared.wire).each_lane(source, destination, |lane| lane.held = held);
        self.shared.deliver_all();
    }

    /// Breaks the link from `source` to `destination`: error completions from now on.
    pub fn break_link(&self, source: Rank, destination: Rank) {
        lock(&self.shared.wire).each_lane(source, destination, |lane| lane.broken = true);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        if let Some(courier) = self.courier.take() {
            // It can only have ended already by a panic, which it has reported.
            let _ = courier.join();
        }
    }
}

impl Place {
    fn new(config: &Config, incarnation: Incarnation) -> Result<Self, RegionError> {
        Ok(Self {
            region: Arc::new(Region::shared("ep-buffer test", config.footprint())?),
            control: Arc::new(Control::new(config.capacity(), incarnation)),
        })
    }
}

impl Shared {
    fn deliver_all(&self) {
        let mut wire = lock(&self.wire);
        wire.deliver(&lock(&self.places));
    }
}

/// One rank's end of a [`Cluster`].
#[derive(Debug)]
pub struct TestFabric {
    rank: Rank,
    capacity: u32,
    lanes: u32,
    depth: usize,
    place: Place,
    shared: Arc<Shared>,
    rings_left: Option<u32>,
}

impl TestFabric {
    /// Lets the rank die after `rings` more rings of a doorbell: nothing that it
    /// posts later leaves it.
    pub fn die_after(&mut self, rings: u32) {
        self.rings_left = Some(rings);
    }

    /// Whether [`TestFabric::die_after`] has come to pass.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.rings_left == Some(0)
    }

    fn check(&self, peer: Rank, lane: u32) -> Result<(), PeerFault> {
        if peer.0 >= self.capacity || lane >= self.lanes || peer == self.rank {
            return Err(PeerFault::NoSuchLane {
                peer,
                lane,
                capacity: self.capacity,
                lanes: self.lanes,
            });
        }
        let current = lock(&self.shared.places)
            .get(self.rank.index())
            .is_some_and(|place| Arc::ptr_eq(&place.region, &self.place.region));
        if self.is_dead() || !current {
            return Err(PeerFault::NotConnected { peer });
        }
        Ok(())
    }

    fn post(&self, peer: Rank, lane: u32, posted: Posted) -> Result<(), PeerFault> {
        self.check(peer, lane)?;
        let mut wire = lock(&self.shared.wire);
        let link = wire.lane(self.rank, peer, lane);
        if link.broken {
            return Err(broken(peer, lane));
        }
        if link.queue.len() >= self.depth {
            return Err(PeerFault::QueueFull {
                peer,
                lane,
                outstanding: link.queue.len() as u32,
                depth: self.depth as u32,
            });
        }
        link.queue.push_back(posted);
        Ok(())
    }
}

fn broken(peer: Rank, lane: u32) -> PeerFault {
    PeerFault::Completion {
        peer,
        lane,
        qpn: lane,
        what: "transport retry counter exceeded (0x15)".to_owned(),
    }
}

impl Fabric for TestFabric {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn region(&self) -> &Region {
        &self.place.region
    }

    fn control(&self) -> &Control {
        &self.place.control
    }

    fn write(
        &mut self,
        peer: Rank,
        lane: u32,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault> {
        let bytes = self.place.region.len();
        for offset in [from, to] {
            if offset.checked_add(len).is_none_or(|end| end > bytes) {
                let source = RegionError::OutOfRange { offset, len, bytes };
                return Err(PeerFault::Range { peer, source });
            }
        }
        self.post(peer, lane, Posted::write(from, to, len))
    }

    fn signal(&mut self, peer: Rank, lane: u32, to: u64, value: u64) -> Result<(), PeerFault> {
        self.post(peer, lane, Posted::signal(to, value))
    }

    fn ring(&mut self, peer: Rank, half: Half) -> Result<(), PeerFault> {
        self.check(peer, 0)?;
        if let Some(left) = &mut self.rings_left {
            *left -= 1;
        }
        let mut wire = lock(&self.shared.wire);
        wire.ring(self.rank, peer, half);
        wire.deliver(&lock(&self.shared.places));
        Ok(())
    }

    fn reusable(&mut self, peer: Rank, half: Half) -> Result<bool, PeerFault> {
        self.check(peer, 0)?;
        let mut wire = lock(&self.shared.wire);
        wire.deliver(&lock(&self.shared.places));
        for lane in 0..self.lanes {
            if wire.lane(self.rank, peer, lane).broken {
                return Err(broken(peer, lane));
            }
        }
        Ok((0..self.lanes).all(|lane| !wire.lane(self.rank, peer, lane).reads(half)))
    }
}
