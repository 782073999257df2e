//! One rank's membership, whatever its data path is.

use super::agent::{Agent, Connections};
use super::connection::ConnectionState;
use super::keys;
use super::presence::Presence;
use super::protocol::{Protocol, Setup};
use super::records::{Card, Records};
use super::status::{SharedStatus, Status};
use crate::config::GroupConfig;
use crate::control::Admission;
use crate::error::{Chain, Error};
use crate::events::MemberEvent;
use crate::ids::{Epoch, Incarnation, Rank};
use crate::store::{Rendezvous, Revision, Swap};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one wait for the card of a last life to go lasts: others may wait for theirs
/// on the same connection.
const TAKE_OVER_WAIT: Duration = Duration::from_secs(1);
/// The pause after a wait that was in vain.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(20);

/// A rank that this process has taken, before anybody hears of it.
pub(crate) struct Place {
    pub(crate) rank: Rank,
    pub(crate) incarnation: Incarnation,
    /// What all ranks must have in common.
    pub(crate) common: String,
    prefix: String,
    records: Records,
    store: Arc<dyn Rendezvous>,
}

impl Place {
    /// Takes the rank once its last life is gone. `common`: see [`Place::common`].
    pub(crate) fn take(
        config: &GroupConfig,
        common: String,
        store: Arc<dyn Rendezvous>,
    ) -> Result<Self, Error> {
        let prefix = format!("{}/", config.group);
        let records = Records::new(&prefix, config.secret.as_ref());
        let incarnation = take_over(config, &prefix, &records, store.as_ref())?;
        Ok(Self {
            rank: config.rank,
            incarnation,
            common,
            prefix,
            records,
            store,
        })
    }
}

/// The agent, the lease and what they have to say. Dropping it leaves without a word.
pub(crate) struct Membership {
    place: Place,
    card: Card,
    announced: bool,
    agent: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    /// The agent's and the keeper's.
    stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    events: Mutex<Receiver<MemberEvent>>,
    status: Arc<SharedStatus>,
    presence: Arc<Presence>,
}

impl Membership {
    /// Starts the agent, which changes `control` and `connections` from now on.
    pub(crate) fn begin(
        config: &GroupConfig,
        place: Place,
        card: Card,
        control: Arc<dyn Admission>,
        connections: Arc<dyn Connections>,
    ) -> Result<Self, Error> {
        let (sender, events) = channel();
        let status = Arc::new(SharedStatus::default());
        let (me, incarnation) = (place.rank, place.incarnation);
        let presence = Arc::new(Presence::begin(
            (me, incarnation),
            (&place.prefix, &place.records),
            config.lease,
            &place.store,
            &status,
            sender.clone(),
        )?);
        let mut membership = Self {
            place,
            card,
            announced: false,
            agent: None,
            keeper: None,
            stop: Arc::new(AtomicBool::new(false)),
            rest: Arc::new(AtomicBool::new(false)),
            events: Mutex::new(events),
            status,
            presence,
        };
        membership.keeper = Some(membership.start_keeper()?);
        let agent = Agent {
            me,
            config: membership.place.common.clone(),
            prefix: membership.place.prefix.clone(),
            records: membership.place.records.clone(),
            ahead: config.admission_lead,
            // Half of the time that the whole attempt has.
            quiesce_limit: config.update_time_out / 2,
            store: Arc::clone(&membership.place.store),
            control,
            connections,
            status: Arc::clone(&membership.status),
            events: sender,
            presence: Arc::clone(&membership.presence),
            stop: Arc::clone(&membership.stop),
            protocol: Protocol::new(Setup {
                me,
                incarnation,
                initial: config.initial.clone(),
                alignment: config.ops_per_round,
                time_out: config.update_time_out,
            }),
            born: Instant::now(),
            known: BTreeSet::new(),
            oldest: None,
            dropped: 0,
            collecting: false,
            answers: Vec::new(),
            looked: (Duration::ZERO, None),
            seen: Vec::new(),
        };
        membership.agent = Some(spawn("ep-agent", move || agent.run())?);
        Ok(membership)
    }

    fn start_keeper(&self) -> Result<JoinHandle<()>, Error> {
        let (presence, rest) = (Arc::clone(&self.presence), Arc::clone(&self.rest));
        let status = Arc::clone(&self.status);
        spawn("ep-lease", move || {
            loop {
                std::thread::park_timeout(presence.period());
                if rest.load(Ordering::Relaxed) {
                    return;
                }
                if status.lock().superseded.is_some() {
                    // What this rank was is over; its card must not outlive it.
                    return presence.end();
                }
                presence.renew();
            }
        })
    }

    /// Has nobody renew the lease any more: who finds it ended takes another one and
    /// shows the card again, which must not be behind a goodbye.
    fn rest_keeper(&mut self) {
        self.rest.store(true, Ordering::Relaxed);
        join(self.keeper.take());
    }

    pub(crate) fn rank(&self) -> Rank {
        self.place.rank
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.place.incarnation
    }

    pub(crate) fn announce(&mut self) -> Result<(), Error> {
        if !self.announced {
            self.presence.publish(&self.card)?;
            self.announced = true;
        }
        Ok(())
    }

    pub(crate) fn wait_admitted(&mut self, limit: Duration) -> Result<Epoch, Error> {
        let me = self.place.rank;
        self.announce()?;
        let outcome = self.status.wait(limit, |status| {
            if let Some(by) = status.superseded {
                return Some(Err(Error::Superseded { rank: me, by }));
            }
            if let Some(refusal) = status.refused.values().next() {
                return Some(Err(refusal.clone().into()));
            }
            status.admitted.map(Ok)
        });
        outcome.unwrap_or_else(|| {
            Err(Error::NotAdmitted {
                rank: me,
                limit,
                present: names(self.status.lock().present.iter()),
            })
        })
    }

    pub(crate) fn connection(&self, rank: Rank) -> ConnectionState {
        let status = self.status.lock();
        let state = status.connections.get(&rank).copied();
        state.unwrap_or_default()
    }

    pub(crate) fn superseded(&self) -> Option<Incarnation> {
        self.status.lock().superseded
    }

    pub(crate) fn take_events(&self) -> Vec<MemberEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.try_iter().collect()
    }

    pub(crate) fn finish(&self, limit: Duration) -> Result<(), Error> {
        let place = &self.place;
        let key = keys::finished(&place.prefix, place.rank);
        let record = place.records.encode(&key, &place.incarnation)?;
        place.store.put(&key, &record, None)?;
        let pending = |status: &Status| {
            let pending = status.present.iter();
            names(pending.filter(|life| !status.finished.contains(life)))
        };
        self.wait_for_none(limit, pending)
    }

    pub(crate) fn wait_alone(&self, limit: Duration) -> Result<(), Error> {
        let me = self.place.rank;
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
                rank: self.place.rank,
                limit,
                pending: pending(&self.status.lock()),
            })
    }

    /// Tells the others that this rank leaves.
    pub(crate) fn say_goodbye(&mut self) -> Result<(), Error> {
        self.rest_keeper();
        let place = &self.place;
        let key = keys::left(&place.prefix, place.rank);
        let record = place.records.encode(&key, &place.incarnation)?;
        place.store.put(&key, &record, None)?;
        Ok(())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.rest_keeper();
        self.stop.store(true, Ordering::Relaxed);
        join(self.agent.take());
        self.presence.end();
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        thread.thread().unpark();
        let _ = thread.join();
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

/// Waits for a last life of the rank to be gone and takes the next incarnation.
fn take_over(
    config: &GroupConfig,
    prefix: &str,
    records: &Records,
    store: &dyn Rendezvous,
) -> Result<Incarnation, Error> {
    let rank = config.rank;
    wait_until_free(config, &keys::cards(prefix, rank), store)?;
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

/// Waits until no card of this rank is left under `cards`.
fn wait_until_free(config: &GroupConfig, cards: &str, store: &dyn Rendezvous) -> Result<(), Error> {
    let deadline = crate::clock::deadline(config.take_over_time_out);
    loop {
        // Each time what is there: a store need not say for ever what has gone.
        let mut there = store.changes(cards, Revision(0), Duration::ZERO)?;
        let Some(held) = there.changes.pop() else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let life = held.key.strip_prefix(cards);
            return Err(Error::RankTaken {
                rank: config.rank,
                incarnation: Incarnation(life.and_then(|life| life.parse().ok()).unwrap_or(0)),
                limit: config.take_over_time_out,
            });
        }
        match store.changes(cards, there.revision, left.min(TAKE_OVER_WAIT)) {
            Ok(news) if !news.is_empty() => {}
            // Whether the store is away, the list will tell.
            waited => {
                if let Err(error) = waited {
                    tracing::debug!(rank = config.rank.0, error = %Chain(&error), "wait cut short");
                }
                std::thread::sleep(TAKE_OVER_PAUSE);
            }
        }
    }
}
