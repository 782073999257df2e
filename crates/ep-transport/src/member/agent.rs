//! Carries out what the membership protocol asks for, in the background.

use super::keys;
use super::presence::Presence;
use super::protocol::{Action, Event, Protocol};
use super::records::{
    Card, Decision, Life, Masked, Offers, Proposal, QpOffer, Ready, RecordError, Records,
};
use super::status::SharedStatus;
use crate::control::Admission;
use crate::error::{Chain, Error, Refusal};
use crate::events::{MemberEvent, monotonic_us};
use crate::ids::{Incarnation, Rank};
use crate::store::{Changes, LeaseId, Rendezvous, Revision, StoreError, Swap};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How long one wait for changes lasts; bounds how late a time-out is noticed.
const POLL: Duration = Duration::from_millis(50);
/// How long after a look for losses another one is worth its while: what is read at the
/// rendezvous comes in many small parts.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Attempts that were dropped and stay in the store, for whoever is a little behind.
const KEPT: u64 = 8;
const STORE_RETRY: Duration = Duration::from_millis(100);

/// The connections, as the agent changes them. The data path uses the same ones.
pub(crate) trait Connections: Send + Sync {
    /// Takes the links to these ranks back to the start and makes offers for them.
    fn prepare(&self, ranks: &[Rank]) -> Result<Offers, Error>;
    /// Connects the links to these peers.
    fn connect(&self, peers: &[(Card, Vec<QpOffer>)]) -> Result<(), Error>;
    /// Takes the links to these ranks down.
    fn forget(&self, ranks: &[Rank]);
}

pub(crate) struct Agent {
    pub(crate) me: Rank,
    pub(crate) config: String,
    pub(crate) prefix: String,
    pub(crate) records: Records,
    pub(crate) ahead: u64,
    pub(crate) quiesce_limit: Duration,
    pub(crate) store: Arc<dyn Rendezvous>,
    pub(crate) control: Arc<dyn Admission>,
    pub(crate) connections: Arc<dyn Connections>,
    pub(crate) status: Arc<SharedStatus>,
    pub(crate) events: Sender<MemberEvent>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) protocol: Protocol,
    pub(crate) born: Instant,
    /// What every rank watches, as far as this one has heard of it and not of its end.
    pub(crate) known: BTreeSet<String>,
    /// The oldest attempt that the store still knows of.
    pub(crate) oldest: Option<u64>,
    /// Attempts before this one that were dropped have been taken out of the store.
    pub(crate) dropped: u64,
    /// Whether this rank watches what everybody answers.
    pub(crate) collecting: bool,
    /// What this rank answered in the present attempt.
    pub(crate) answers: Vec<String>,
    /// When the agent has last looked whom operations have masked, and after how many
    /// losses.
    pub(crate) looked: (Duration, Option<u64>),
    /// Who has come (`true`) and gone since that was last shown.
    pub(crate) seen: Vec<(Life, bool)>,
}

impl Agent {
    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn report(&self, event: MemberEvent) {
        // Nobody listens any more: fine.
        let _ = self.events.send(event);
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut seen = Revision(0);
        while !self.stopped() {
            let watched = match self.collecting {
                true => self.prefix.clone(),
                false => keys::common(&self.prefix),
            };
            let wait = self.protocol.holds_back(self.now()).min(POLL);
            let changes = self.store.changes(&watched, seen, wait);
            // While nothing is left to be done of what was decided: whoever is yet to
            // be admitted would seem masked.
            self.look_for_losses();
            match changes {
                Ok(changes) => seen = self.take_in(changes),
                Err(error) => {
                    // Serving goes on without the store; updates wait for it.
                    tracing::warn!(rank = self.me.0, error = %Chain(&error), "rendezvous does not answer");
                    std::thread::sleep(STORE_RETRY);
                }
            }
            while let Some(action) = self.protocol.next(self.now()) {
                self.perform(action);
                if self.stopped() {
                    return;
                }
            }
            self.collecting = self.protocol.hears_all();
            self.show_lives();
            self.show_connections();
        }
    }

    /// Shows who has come and gone, after what had to be done about it and was reported.
    fn show_lives(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        self.status.update(|status| {
            for (life, present) in self.seen.drain(..) {
                status.present.retain(|other| *other != life);
                if present {
                    status.present.push(life);
                }
            }
        });
    }

    fn show_connections(&mut self) {
        let moved = self.protocol.take_moved();
        if moved.is_empty() {
            return;
        }
        self.status.update(|status| {
            for rank in moved {
                let state = self.protocol.connection(rank);
                status.connections.insert(rank, state);
            }
        });
    }

    /// Returns up to where it has read.
    fn take_in(&mut self, changes: Changes) -> Revision {
        let common = keys::common(&self.prefix);
        let mut read = changes.revision;
        for change in changes.changes {
            match change.value {
                Some(_) if change.key.starts_with(&common) => {
                    self.known.insert(change.key.clone());
                }
                _ => {
                    self.known.remove(&change.key);
                }
            }
            self.hear(&change.key, change.value.as_deref());
            if !self.collecting && self.protocol.hears_all() {
                // What is answered to this proposal is elsewhere, and comes after it.
                self.collecting = true;
                read = change.revision;
                break;
            }
        }
        if let Some(there) = changes.there {
            for key in self.known.difference(&there).cloned().collect::<Vec<_>>() {
                self.known.remove(&key);
                self.hear_farewell(&key, &there);
                self.hear(&key, None);
            }
        }
        read
    }

    /// Who leaves says so before its card goes; that record may be among those that are yet to
    /// be read when the card is found missing.
    fn hear_farewell(&mut self, card: &str, there: &BTreeSet<String>) {
        let path = card.strip_prefix(&self.prefix);
        let parts: Vec<&str> = path.unwrap_or_default().split('/').collect();
        let ["all", "card", rank, _] = parts.as_slice() else {
            return;
        };
        let Ok(rank) = rank.parse() else { return };
        let left = keys::left(&self.prefix, Rank(rank));
        if there.contains(&left)
            && !self.known.contains(&left)
            && let Ok(Some(entry)) = self.store.get(&left)
        {
            self.hear(&left, Some(&entry.value));
        }
    }

    /// Takes in what has become of a key.
    fn hear(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(path) = key.strip_prefix(&self.prefix) else {
            return;
        };
        match self.understand(path, value) {
            Ok(event) => {
                self.forgive(key);
                if let Some(event) = event {
                    let now = self.now();
                    self.protocol.on(event, now);
                }
            }
            Err(refusal) => self.refuse(key, refusal),
        }
    }

    /// A member goes on without what it cannot understand; one that wants to
    /// become a member cannot.
    fn refuse(&self, key: &str, refusal: Refusal) {
        let error = Error::from(refusal.clone());
        tracing::warn!(rank = self.me.0, error = %Chain(&error), "record refused");
        if !self.protocol.is_member() {
            self.status.update(|status| {
                status.refused.insert(key.to_owned(), refusal);
            });
        }
    }

    /// What stood under this key is in nobody's way any more.
    fn forgive(&self, key: &str) {
        self.status.lock().refused.remove(key);
    }

    fn understand(&mut self, path: &str, value: Option<&[u8]>) -> Result<Option<Event>, Refusal> {
        let parts: Vec<&str> = path.split('/').collect();
        let number = |text: &str| text.parse::<u64>().ok();
        let rank = |text: &str| text.parse().ok().map(Rank);
        Ok(match (parts.as_slice(), value) {
            (["all", "card", of, life], value) => match (rank(of), life.parse().ok(), value) {
                (Some(rank), Some(life), Some(value)) if rank.0 < self.control.capacity() => {
                    let card: Card = self.records.decode(path, value)?;
                    self.check((rank, Incarnation(life)), path, &card)?;
                    self.seen.push(((rank, card.incarnation), true));
                    Some(Event::Card(card))
                }
                (Some(rank), Some(life), None) => {
                    self.seen.push(((rank, Incarnation(life)), false));
                    Some(Event::Gone((rank, Incarnation(life))))
                }
                _ => None,
            },
            (["all", "coming", of, life], value) => match (rank(of), life.parse().ok()) {
                (Some(rank), Some(life)) if rank.0 < self.control.capacity() => {
                    if let Some(value) = value {
                        self.records.decode::<()>(path, value)?;
                    }
                    let life = (rank, Incarnation(life));
                    Some(Event::Coming(life, value.is_some()))
                }
                _ => None,
            },
            (["all", "masked", of], value) => match (rank(of), value) {
                (Some(rank), Some(value)) => {
                    let masked = self.records.decode::<Masked>(path, value)?;
                    Some(Event::Masked(rank, masked))
                }
                _ => None,
            },
            (["all", "left", of], Some(value)) => match rank(of) {
                Some(rank) => Some(Event::Left((rank, self.records.decode(path, value)?))),
                None => None,
            },
            (["all", "finished", of], Some(value)) => {
                if let Some(rank) = rank(of) {
                    let incarnation = self.records.decode(path, value)?;
                    self.status
                        .update(|status| status.finished.push((rank, incarnation)));
                }
                None
            }
            (["all", "proposal", n], Some(value)) => match number(n) {
                Some(n) => {
                    let oldest = self.oldest.get_or_insert(n);
                    *oldest = n.min(*oldest);
                    Some(match self.proposal(path, value) {
                        Ok(proposal) => Event::Proposal(n, proposal),
                        Err(error) => {
                            tracing::warn!(rank = self.me.0, error = %Chain(&error), "proposal passed over");
                            Event::Illegible(n)
                        }
                    })
                }
                None => None,
            },
            (["all" | "few", "offers", n, of], Some(value)) => match (number(n), rank(of)) {
                (Some(n), Some(of)) => Some(Event::Offers(
                    n,
                    of,
                    self.records.decode_offers(path, value, self.me)?,
                )),
                _ => None,
            },
            (["few", "linked", n, of], Some(value)) => match (number(n), rank(of)) {
                (Some(n), Some(of)) => {
                    self.records.decode::<()>(path, value)?;
                    Some(Event::Linked(n, of))
                }
                _ => None,
            },
            (["all", "go", n], Some(value)) => match number(n) {
                Some(n) => {
                    self.records.decode::<()>(path, value)?;
                    Some(Event::Go(n))
                }
                None => None,
            },
            (["few", "ready", n, of], Some(value)) => match (number(n), rank(of)) {
                (Some(n), Some(of)) => Some(Event::Ready(
                    n,
                    of,
                    self.records.decode::<Ready>(path, value)?,
                )),
                _ => None,
            },
            (["all", "decision", n], Some(value)) => match number(n) {
                Some(n) => Some(Event::Decision(
                    n,
                    self.records.decode::<Decision>(path, value)?,
                )),
                None => None,
            },
            _ => None,
        })
    }

    fn proposal(&self, key: &str, value: &[u8]) -> Result<Proposal, RecordError> {
        let proposal = self.records.decode::<Proposal>(key, value)?;
        let capacity = self.control.capacity();
        let beyond = proposal.everybody().find(|(rank, _)| rank.0 >= capacity);
        match beyond {
            Some((rank, _)) => Err(RecordError::Malformed {
                key: key.to_owned(),
                bytes: value.len(),
                what: format!("{rank} is in it, and there are {capacity}"),
            }),
            None => Ok(proposal),
        }
    }

    fn check(&self, (rank, incarnation): Life, key: &str, card: &Card) -> Result<(), Refusal> {
        if (card.rank, card.incarnation) != (rank, incarnation) {
            return Err(Refusal::Record(RecordError::Malformed {
                key: key.to_owned(),
                bytes: 0,
                what: format!("it is the card of {}, {}", card.rank, card.incarnation),
            }));
        }
        if card.config != self.config {
            return Err(Refusal::ConfigMismatch {
                rank,
                theirs: card.config.clone(),
                ours: self.config.clone(),
            });
        }
        Ok(())
    }

    fn key(&self, path: std::fmt::Arguments<'_>) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Repeats a store call until it is done: what is published is owed to the others.
    fn persist<T>(&self, mut call: impl FnMut() -> Result<T, StoreError>) -> Option<T> {
        while !self.stopped() {
            match call() {
                Ok(done) => return Some(done),
                Err(error @ (StoreError::TooLarge { .. } | StoreError::LeaseEnded { .. })) => {
                    tracing::error!(rank = self.me.0, error = %Chain(&error), "cannot be published");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(rank = self.me.0, error = %Chain(&error), "rendezvous does not answer");
                    std::thread::sleep(STORE_RETRY);
                }
            }
        }
        None
    }

    /// Encodes a record and repeats `call` with it until it is done.
    fn publish_by<T: serde::Serialize, D>(
        &self,
        key: &str,
        record: &T,
        call: impl Fn(&[u8]) -> Result<D, StoreError>,
    ) -> Option<D> {
        match self.records.encode(key, record) {
            Ok(bytes) => self.persist(|| call(&bytes)),
            Err(error) => {
                tracing::error!(rank = self.me.0, key, error = %Chain(&error), "cannot be encoded");
                None
            }
        }
    }

    fn publish<T: serde::Serialize>(&self, key: &str, record: &T, lease: Option<LeaseId>) {
        self.publish_by(key, record, |bytes| self.store.put(key, bytes, lease));
    }

    /// First come, first served; whoever was first, all learn it by watching.
    fn publish_once<T: serde::Serialize>(&self, key: &str, record: &T) {
        let swap = |bytes: &[u8]| self.store.compare_and_swap(key, None, bytes);
        if let Some(Swap::Lost(_)) = self.publish_by(key, record, swap) {
            tracing::debug!(rank = self.me.0, key, "somebody else was first");
        }
    }

    fn perform(&mut self, action: Action) {
        let at_us = monotonic_us();
        match action {
            Action::Mask((rank, incarnation), how) => {
                self.mask(rank);
                self.report(MemberEvent::PeerLost {
                    rank,
                    incarnation,
                    how,
                    at_us,
                });
            }
            Action::TellMasked(masked) => {
                let key = self.key(format_args!("all/masked/{}", self.me.0));
                // If the lease has ended, the card is gone too, and this is told again
                // with the next one.
                self.publish(&key, &masked, Some(self.presence.lease()));
            }
            Action::Superseded(by) => {
                // Whatever operations still run, they reach nobody.
                for rank in (0..self.control.capacity()).map(Rank) {
                    self.mask(rank);
                }
                self.note("promise not ended", self.control.release());
                self.presence.superseded(by);
            }
            Action::Propose(number, proposal) => {
                self.publish_once(&self.key(format_args!("all/proposal/{number}")), &proposal);
                self.forget_dropped(number);
            }
            Action::Prepare(number, ranks) => {
                self.report(MemberEvent::UpdateBegun {
                    attempt: number,
                    peers: ranks.clone(),
                    at_us,
                });
                let outcome = self.prepare(&ranks).map(|o| Event::Prepared(number, o));
                self.feed(number, outcome, None);
            }
            Action::PublishOffers {
                number,
                offers,
                everybody,
            } => {
                let kind = if everybody {
                    "all/offers"
                } else {
                    "few/offers"
                };
                self.answer(kind, number, &offers);
            }
            Action::Connect(number, peers) => {
                let mut peers = peers.iter();
                let refused = peers.find_map(|peer| {
                    let outcome = self.connections.connect(std::slice::from_ref(peer));
                    Some((peer.0.rank, outcome.err()?))
                });
                match refused {
                    None => self.feed(number, Ok(Event::Connected(number)), None),
                    Some((peer, error)) => self.feed(number, Err(error), Some(peer)),
                }
            }
            Action::PublishLinked(number) => {
                self.report(MemberEvent::Connected {
                    attempt: number,
                    at_us,
                });
                self.answer("few/linked", number, &());
            }
            Action::PublishGo(number) => {
                self.publish(&self.key(format_args!("all/go/{number}")), &(), None);
            }
            Action::Promise { number, member } => {
                let limit = match member {
                    true => self.control.promise(self.ahead),
                    false => self.control.unshared(),
                };
                let masked = self.protocol.masked();
                let ready = limit.map(|limit| Ready { limit, masked });
                self.feed(
                    number,
                    ready.map(|ready| Event::Promised(number, ready)),
                    None,
                );
            }
            Action::PublishReady(number, ready) => {
                self.answer("few/ready", number, &ready);
            }
            Action::Decide(number, decision) => {
                self.publish_once(&self.key(format_args!("all/decision/{number}")), &decision);
            }
            Action::Admit {
                attempt,
                from,
                ranks,
                own,
            } => {
                // What waits for this must not wait for the store to be tidied.
                match self.control.admit(&ranks, from, own) {
                    Ok(from) => {
                        // Whoever has waited for this finds the event.
                        self.report(MemberEvent::Admitted {
                            attempt,
                            from,
                            ranks,
                            own,
                            at_us: monotonic_us(),
                        });
                        let view = self.protocol.view().collect();
                        self.status.update(|status| {
                            status.view = view;
                            if own {
                                status.admitted = Some(from);
                                status.refused.clear();
                            }
                        });
                    }
                    Err(refusal) => self.cannot_admit(refusal, own),
                }
                self.tidy();
                if own {
                    self.forget_before(attempt);
                }
            }
            Action::Forget {
                attempt,
                ranks,
                by,
                why,
            } => {
                self.connections.forget(&ranks);
                self.note("promise not ended", self.control.release());
                self.tidy();
                self.report(MemberEvent::UpdateDropped {
                    attempt,
                    by,
                    why,
                    at_us,
                });
            }
        }
    }

    /// Tells the protocol whom operations have masked.
    fn look_for_losses(&mut self) {
        let (now, losses) = (self.now(), self.control.losses());
        let (last, known) = self.looked;
        if now < last + BETWEEN_LOOKS || (losses.is_some() && losses == known) {
            return;
        }
        self.looked = (now, losses);
        let serving: Vec<Life> = self.protocol.serving().collect();
        for (rank, incarnation) in serving {
            let counts = self.control.counts(rank, incarnation);
            if self.note("table not read", counts) == Some(false) {
                let event = Event::Unanswered((rank, incarnation));
                self.protocol.on(event, now);
            }
        }
    }

    fn mask(&self, rank: Rank) {
        self.note("rank not masked", self.control.mask_now(rank));
    }

    /// The table is out of reach: nothing here can mend that.
    fn note<T>(&self, what: &str, outcome: Result<T, Error>) -> Option<T> {
        outcome
            .inspect_err(|error| tracing::error!(rank = self.me.0, error = %Chain(error), "{what}"))
            .ok()
    }

    /// What was decided cannot be written down here.
    fn cannot_admit(&self, refusal: Refusal, own: bool) {
        let error = Error::from(refusal.clone());
        tracing::error!(rank = self.me.0, error = %Chain(&error), "nobody admitted");
        if own {
            self.status.update(|status| {
                status.refused.insert(String::new(), refusal);
            });
        }
    }

    fn prepare(&self, ranks: &[Rank]) -> Result<Offers, Error> {
        for rank in ranks {
            self.control.mask_now(*rank)?;
        }
        // From here on no operation begins that counts them; those under way must
        // end before anything of theirs is touched.
        if !self.control.quiesce(self.quiesce_limit)? {
            return Err(Error::NotQuiet {
                limit: self.quiesce_limit,
            });
        }
        self.connections.prepare(ranks)
    }

    /// `peer`: with whom it failed, if it did.
    fn feed(&mut self, attempt: u64, outcome: Result<Event, Error>, peer: Option<Rank>) {
        let event = outcome.unwrap_or_else(|error| {
            tracing::warn!(rank = self.me.0, attempt, error = %Chain(&error), "update step failed");
            Event::Failed(attempt, format!("{}: {}", self.me, Chain(&error)), peer)
        });
        let now = self.now();
        self.protocol.on(event, now);
    }

    /// Publishes what the others need until the attempt is decided, or this rank is gone.
    fn answer<T: serde::Serialize>(&mut self, kind: &str, attempt: u64, record: &T) {
        let key = self.key(format_args!("{kind}/{attempt}/{}", self.me.0));
        self.publish(&key, record, Some(self.presence.lease()));
        self.answers.push(key);
    }

    /// Takes what this rank answered in an attempt that was decided out of the store.
    fn tidy(&mut self) {
        for key in std::mem::take(&mut self.answers) {
            if let Err(error) = self.store.delete(&key) {
                tracing::debug!(rank = self.me.0, key, error = %Chain(&error), "left in the store");
            }
        }
    }

    /// Takes attempts before a committed one out of the store: everybody who was
    /// ready for this one has learned how those ended.
    fn forget_before(&mut self, attempt: u64) {
        self.forget(self.oldest.unwrap_or(attempt)..attempt);
        self.oldest = Some(attempt);
    }

    /// Takes attempts that were dropped since the last commit out of the store, but for the
    /// last few. Who has not read how one ended finds a later one, and knows that it was not
    /// taken in by this one.
    fn forget_dropped(&mut self, proposed: u64) {
        let committed = self.protocol.last_commit();
        let begin = self
            .dropped
            .max(committed + 1)
            .max(self.oldest.unwrap_or(proposed));
        let end = proposed.saturating_sub(KEPT).max(begin);
        self.forget(begin..end);
        self.dropped = end;
    }

    fn forget(&self, attempts: std::ops::Range<u64>) {
        for number in attempts {
            for kind in ["proposal", "go", "decision"] {
                let key = self.key(format_args!("all/{kind}/{number}"));
                if let Err(error) = self.store.delete(&key) {
                    tracing::debug!(rank = self.me.0, key, error = %Chain(&error), "left in the store");
                }
            }
        }
    }
}
