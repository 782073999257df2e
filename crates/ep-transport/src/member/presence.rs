//! This rank's sign of life at the rendezvous: a lease, and what hangs on it: at first that
//! this rank is coming, then its card.

use super::keys;
use super::records::{Card, Records};
use super::status::SharedStatus;
use crate::error::{Chain, Error};
use crate::events::{MemberEvent, monotonic_us};
use crate::ids::{Incarnation, Rank};
use crate::store::{LeaseId, Rendezvous, StoreError};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct Held {
    lease: LeaseId,
    /// The card, once it was published.
    card: Option<Vec<u8>>,
}

/// Keeps the lease, and the card with it, for as long as this life lasts.
pub(crate) struct Presence {
    me: Rank,
    incarnation: Incarnation,
    prefix: String,
    records: Records,
    ttl: Duration,
    store: Arc<dyn Rendezvous>,
    status: Arc<SharedStatus>,
    events: Sender<MemberEvent>,
    held: Mutex<Held>,
}

impl Presence {
    pub(crate) fn begin(
        (me, incarnation): (Rank, Incarnation),
        (prefix, records): (&str, &Records),
        ttl: Duration,
        store: &Arc<dyn Rendezvous>,
        status: &Arc<SharedStatus>,
        events: Sender<MemberEvent>,
    ) -> Result<Self, Error> {
        let coming = keys::coming(prefix, (me, incarnation));
        let record = records.encode(&coming, &())?;
        let lease = store.grant(ttl)?;
        let presence = Self {
            me,
            incarnation,
            prefix: prefix.to_owned(),
            records: records.clone(),
            ttl,
            store: Arc::clone(store),
            status: Arc::clone(status),
            events,
            held: Mutex::new(Held { lease, card: None }),
        };
        if let Err(error) = presence.store.put(&coming, &record, Some(lease)) {
            presence.end();
            return Err(error.into());
        }
        Ok(presence)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often to call [`Presence::renew`].
    pub(crate) fn period(&self) -> Duration {
        self.ttl / 4
    }

    /// The lease that holds now.
    pub(crate) fn lease(&self) -> LeaseId {
        self.lock().lease
    }

    /// Publishes this life's card, now and whenever the lease has to be taken anew.
    pub(crate) fn publish(&self, card: &Card) -> Result<(), Error> {
        let key = keys::card(&self.prefix, (self.me, self.incarnation));
        let card = self.records.encode(&key, card)?;
        let mut held = self.lock();
        self.store.put(&key, &card, Some(held.lease))?;
        held.card = Some(card);
        Ok(())
    }

    /// Renews the lease. If it has ended (this process was stopped for long, or the
    /// store was), the others count this rank as dead, but nobody need have taken its
    /// place: then it takes another lease and shows its card again.
    pub(crate) fn renew(&self) {
        let lease = self.lease();
        let outcome = match self.store.keep_alive(lease) {
            Err(StoreError::LeaseEnded { .. }) => self.regain(),
            other => other.map_err(Error::from),
        };
        if let Err(error) = outcome {
            tracing::warn!(rank = self.me.0, error = %Chain(&error), "lease not renewed");
        }
    }

    fn regain(&self) -> Result<(), Error> {
        let key = keys::incarnation(&self.prefix, self.me);
        if let Some(entry) = self.store.get(&key)? {
            let newest: Incarnation = self.records.decode(&key, &entry.value)?;
            if newest > self.incarnation {
                self.superseded(newest);
                return Ok(());
            }
        }
        let lease = self.store.grant(self.ttl)?;
        let mut held = self.lock();
        if let Some(card) = &held.card {
            // A life that begins meanwhile has a card of its own.
            let key = keys::card(&self.prefix, (self.me, self.incarnation));
            self.store.put(&key, card, Some(lease))?;
        }
        held.lease = lease;
        tracing::warn!(rank = self.me.0, "the lease had ended; taken anew");
        let at_us = monotonic_us();
        // Nobody listens any more: fine.
        let _ = self.events.send(MemberEvent::LeaseRegained { at_us });
        Ok(())
    }

    /// Notes that another process has this rank now.
    pub(crate) fn superseded(&self, by: Incarnation) {
        let mut first = false;
        self.status.update(|status| {
            first = status.superseded.is_none();
            status.superseded = Some(by);
        });
        if first {
            let at_us = monotonic_us();
            let _ = self.events.send(MemberEvent::Superseded { by, at_us });
        }
    }

    /// Ends the lease, and the card with it.
    pub(crate) fn end(&self) {
        if let Err(error) = self.store.revoke(self.lease()) {
            tracing::debug!(rank = self.me.0, error = %Chain(&error), "lease left to run out");
        }
    }
}
