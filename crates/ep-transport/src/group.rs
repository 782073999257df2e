//! One rank's place in a group: everything it owns, and the way in and out.

use crate::config::{GroupConfig, Path};
use crate::control::Control;
use crate::error::Error;
use crate::events::MemberEvent;
use crate::fabric::{Fabric, PeerFault};
use crate::ids::{Epoch, Half, Incarnation, Rank};
use crate::links::{Links, QueuePairReport};
use crate::member::agent::{Agent, Connections};
use crate::member::connection::ConnectionState;
use crate::member::keys;
use crate::member::presence::Presence;
use crate::member::protocol::{Protocol, Setup};
use crate::member::records::{Card, Records};
use crate::member::status::{SharedStatus, Status};
use crate::region::Region;
use crate::store::{Rendezvous, Revision, Swap};
use crate::window::{WindowServer, host_identity};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the card of a last life is looked for.
const TAKE_OVER_PERIOD: Duration = Duration::from_millis(50);

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
    me: Rank,
    lanes: u32,
    // Threads first: they use the rest.
    agent: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    window: Option<WindowServer>,
    stop: Arc<AtomicBool>,
    events: Mutex<Receiver<MemberEvent>>,
    status: Arc<SharedStatus>,
    links: Arc<Links>,
    control: Arc<Control>,
    region: Arc<Region>,
    store: Arc<dyn Rendezvous>,
    prefix: String,
    records: Records,
    card: Card,
    announced: bool,
    presence: Arc<Presence>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("rank", &self.me)
            .field("incarnation", &self.card.incarnation)
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
        let me = config.rank;
        let prefix = format!("{}/", config.group);
        let records = Records::new(&prefix, config.secret.as_ref());
        let common = format!(
            "capacity={} lanes={} ops_per_round={} global_route={} region={region_bytes} {}",
            config.capacity, config.lanes, config.ops_per_round, config.global_route, config.common
        );
        let incarnation = take_over(config, &prefix, &records, store.as_ref())?;
        let region = Arc::new(Region::shared("ep-buffer", region_bytes)?);
        let links = Arc::new(Links::open(config, &region)?);
        let window = match config.path {
            Path::Window => Some(serve_window(config, &region)?),
            Path::Rdma => None,
        };
        let card = Card {
            rank: me,
            incarnation,
            host: host_identity().map_err(window_error(me, "host identity"))?,
            config: common.clone(),
            port: links.port(),
            region_address: region.address(),
            rkey: links.rkey(),
            window: window.as_ref().map(|w| w.name().to_owned()),
            leaving: false,
        };
        let (sender, events) = channel();
        let status = Arc::new(SharedStatus::default());
        let presence = Arc::new(Presence::begin(
            (me, incarnation),
            (&prefix, &records),
            config.lease,
            &store,
            &status,
            sender.clone(),
        )?);
        let control = Control::new(config.capacity, incarnation).with_round(config.ops_per_round);
        let mut group = Self {
            me,
            lanes: config.lanes,
            agent: None,
            keeper: None,
            window,
            stop: Arc::new(AtomicBool::new(false)),
            events: Mutex::new(events),
            status,
            links,
            control: Arc::new(control),
            region,
            store,
            prefix,
            records,
            card,
            announced: false,
            presence,
        };
        group.keeper = Some(group.start_keeper()?);
        let agent = Agent {
            me,
            config: common,
            prefix: group.prefix.clone(),
            records: group.records.clone(),
            ahead: config.admission_lead,
            // Half of the time that the whole attempt has.
            quiesce_limit: config.update_time_out / 2,
            store: Arc::clone(&group.store),
            control: Arc::clone(&group.control),
            connections: Arc::clone(&group.links) as Arc<dyn Connections>,
            status: Arc::clone(&group.status),
            events: sender,
            presence: Arc::clone(&group.presence),
            stop: Arc::clone(&group.stop),
            protocol: Protocol::new(Setup {
                me,
                incarnation,
                initial: config.initial.clone(),
                alignment: config.ops_per_round,
                time_out: config.update_time_out,
            }),
            born: Instant::now(),
            oldest: None,
            collecting: false,
            answers: Vec::new(),
            looked: Duration::ZERO,
        };
        group.agent = Some(spawn("ep-agent", move || agent.run())?);
        Ok(group)
    }

    fn start_keeper(&self) -> Result<JoinHandle<()>, Error> {
        let (presence, stop) = (Arc::clone(&self.presence), Arc::clone(&self.stop));
        let status = Arc::clone(&self.status);
        spawn("ep-lease", move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::park_timeout(presence.period());
                if status.lock().superseded.is_some() {
                    // What this rank was is over; its card must not outlive it.
                    return presence.end();
                }
                presence.renew();
            }
        })
    }

    fn publish_card(&self) -> Result<(), Error> {
        self.presence.publish(&self.card)
    }

    /// This rank's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.card.incarnation
    }

    /// Tells the others that this rank is ready to be taken in. From now on no operation
    /// is to be run until [`Group::wait_admitted`] has returned, which is to be called
    /// at once: the others count on this rank from the agreed epoch on.
    ///
    /// # Errors
    /// The store is away.
    pub fn announce(&mut self) -> Result<(), Error> {
        if !self.announced {
            self.publish_card()?;
            self.announced = true;
        }
        Ok(())
    }

    /// Announces this rank, waits until the group takes it in, sets the epoch counter to the
    /// agreed epoch and returns it. To be called between operations.
    ///
    /// # Errors
    /// A peer's record or configuration does not fit, another process took the
    /// rank, or `limit` is over.
    pub fn wait_admitted(&mut self, limit: Duration) -> Result<Epoch, Error> {
        let me = self.me;
        self.announce()?;
        let outcome = self.status.wait(limit, |status| {
            if let Some(by) = status.superseded {
                return Some(Err(Error::Superseded { rank: me, by }));
            }
            if let Some(error) = status.refused.take() {
                return Some(Err(error));
            }
            status.admitted.map(Ok)
        });
        match outcome {
            Some(Ok(epoch)) => {
                self.control.begin_round();
                Ok(epoch)
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::NotAdmitted {
                rank: me,
                limit,
                present: names(self.status.lock().present.iter()),
            }),
        }
    }

    /// How far the connection to `rank` is; as the agent has seen it last.
    #[must_use]
    pub fn connection(&self, rank: Rank) -> ConnectionState {
        let status = self.status.lock();
        let state = status.connections.get(rank.index()).copied();
        state.unwrap_or_default()
    }

    /// Another life that has taken this rank, if there is one: this process is not
    /// a member any more.
    #[must_use]
    pub fn superseded(&self) -> Option<Incarnation> {
        self.status.lock().superseded
    }

    /// Takes what has happened to the membership since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<MemberEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.try_iter().collect()
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
        let key = keys::finished(&self.prefix, self.me);
        self.store.put(
            &key,
            &self.records.encode(&key, &self.card.incarnation)?,
            None,
        )?;
        let pending = |status: &Status| {
            let pending = status.present.iter();
            names(pending.filter(|life| !status.finished.contains(life)))
        };
        self.wait_for_none(limit, pending)
    }

    /// Waits until no other rank is present; for the rank that serves the store.
    ///
    /// # Errors
    /// `limit` is over.
    pub fn wait_alone(&self, limit: Duration) -> Result<(), Error> {
        let me = self.me;
        self.wait_for_none(limit, |status| {
            names(status.present.iter().filter(|(rank, _)| *rank != me))
        })
    }

    fn wait_for_none(
        &self,
        limit: Duration,
        pending: impl Fn(&Status) -> String,
    ) -> Result<(), Error> {
        self.status
            .wait(limit, |status| pending(status).is_empty().then_some(()))
            .ok_or_else(|| Error::NotFinished {
                rank: self.me,
                limit,
                pending: pending(&self.status.lock()),
            })
    }

    /// Leaves on purpose: the others are told, and mask this rank at once.
    ///
    /// # Errors
    /// The store is away; the group is left all the same.
    pub fn leave(mut self) -> Result<(), Error> {
        self.card.leaving = true;
        self.publish_card()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in [self.keeper.take(), self.agent.take()]
            .into_iter()
            .flatten()
        {
            thread.thread().unpark();
            let _ = thread.join();
        }
        self.window = None;
        self.presence.end();
    }
}

impl Fabric for Group {
    fn rank(&self) -> Rank {
        self.me
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

fn names<'a>(lives: impl Iterator<Item = &'a (Rank, Incarnation)>) -> String {
    let names: Vec<String> = lives.map(|(rank, _)| rank.to_string()).collect();
    names.join(", ")
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|source| Error::Thread { name, source })
}

fn window_error(rank: Rank, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Window {
        rank,
        what: what.into(),
        source,
    }
}

fn serve_window(config: &GroupConfig, region: &Arc<Region>) -> Result<WindowServer, Error> {
    // Unique on this host, whatever else runs there and in this process.
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "ep-window-{}-{}-{}-{}",
        config.group,
        config.rank.0,
        std::process::id(),
        SERVED.fetch_add(1, Ordering::Relaxed)
    );
    WindowServer::start(name, Arc::clone(region)).map_err(window_error(config.rank, "socket"))
}

/// Waits for a last life of the rank to be gone and takes the next incarnation.
fn take_over(
    config: &GroupConfig,
    prefix: &str,
    records: &Records,
    store: &dyn Rendezvous,
) -> Result<Incarnation, Error> {
    let rank = config.rank;
    let cards = keys::cards(prefix, rank);
    let deadline = Instant::now() + config.take_over_time_out;
    while let Some(held) = store
        .changes(&cards, Revision(0), Duration::ZERO)?
        .changes
        .pop()
    {
        if Instant::now() >= deadline {
            let life = held
                .key
                .strip_prefix(&cards)
                .and_then(|life| life.parse().ok());
            return Err(Error::RankTaken {
                rank,
                incarnation: Incarnation(life.unwrap_or(0)),
                limit: config.take_over_time_out,
            });
        }
        std::thread::sleep(TAKE_OVER_PERIOD);
    }
    let key = keys::incarnation(prefix, rank);
    let mut held = store.get(&key)?;
    loop {
        let last = match &held {
            Some(entry) => records.decode::<Incarnation>(&key, &entry.value)?,
            None => Incarnation(0),
        };
        let next = Incarnation(last.0.saturating_add(1));
        let expected = held.as_ref().map(|entry| entry.revision);
        match store.compare_and_swap(&key, expected, &records.encode(&key, &next)?)? {
            Swap::Won(_) => return Ok(next),
            // Another process wants the same rank now; each gets a life of its own.
            Swap::Lost(now) => held = now,
        }
    }
}
