//! Events of the device and who has subscribed to them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mlx5gda_sys::eqe::{Eqe, EventType};
use rustix::io::Errno;

use super::channel::Channel;
use super::{ContextId, ObjectId, counter};
use crate::rc::Fault;

/// How often clients are looked after that read a channel's descriptor themselves.
const ROUND: Duration = Duration::from_millis(1);

/// Where an event goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To the channel, with this cookie.
    Cookie(u64),
    /// To an eventfd, see [`super::eventfd_of`], as 1.
    Counter(OwnedFd),
}

/// Somebody's interest in one kind of event of one object, or of the device.
#[derive(Debug)]
struct Subscription {
    /// No other has it.
    number: u64,
    channel: u32,
    object: Option<ObjectId>,
    event: EventType,
    sink: Sink,
}

/// Channels and subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) channels: HashMap<u32, Channel>,
    subscriptions: Vec<Subscription>,
    /// Subscriptions so far.
    made: u64,
    /// When all channels were flushed.
    flushed: Option<Instant>,
}

/// Whether an object has events of this kind; `None` is the device itself.
pub(crate) const fn has_event(object: Option<ObjectId>, event: EventType) -> bool {
    matches!(
        (object, event),
        (
            Some(ObjectId::Cq(_)),
            EventType::Completion | EventType::CqError
        ) | (
            Some(ObjectId::Qp(_)),
            EventType::CommunicationEstablished
                | EventType::WqCatastrophic
                | EventType::InvalidRequest
                | EventType::AccessViolation
        ) | (None, EventType::PortChange)
    )
}

impl Events {
    /// Adds a subscription of a channel.
    pub(crate) fn subscribe(
        &mut self,
        channel: u32,
        object: Option<ObjectId>,
        event: EventType,
        sink: Sink,
    ) {
        self.made += 1;
        self.subscriptions.push(Subscription {
            number: self.made,
            channel,
            object,
            event,
            sink,
        });
    }

    /// Ends a channel and its subscriptions.
    pub(crate) fn close(&mut self, channel: u32) {
        self.channels.remove(&channel);
        self.subscriptions.retain(|to| to.channel != channel);
    }

    /// Ends the channels of a context.
    pub(crate) fn close_context(&mut self, context: ContextId) {
        self.channels.retain(|_, channel| channel.owner != context);
        let channels = &self.channels;
        self.subscriptions
            .retain(|to| channels.contains_key(&to.channel));
    }

    /// Ends the subscriptions to an object that is gone.
    pub(crate) fn forget(&mut self, object: ObjectId) {
        self.subscriptions.retain(|to| to.object != Some(object));
    }

    /// Tells those who have subscribed.
    pub(crate) fn raise(&mut self, object: Option<ObjectId>, eqe: &Eqe) {
        let interested = |to: &&Subscription| to.object == object && eqe.event() == Ok(to.event);
        for to in self.subscriptions.iter().filter(interested) {
            match &to.sink {
                Sink::Counter(counter) => {
                    if let Err(error) = counter::add(counter) {
                        tracing::warn!(%error, ?object, event = ?to.event, "event not counted");
                    }
                }
                Sink::Cookie(cookie) => {
                    if let Some(channel) = self.channels.get_mut(&to.channel) {
                        channel.deliver(to.number, *cookie, *eqe);
                    }
                }
            }
        }
    }

    /// Makes a channel ready for a client that is about to read it.
    ///
    /// # Errors
    /// `EOVERFLOW`, once, if events were lost.
    pub(crate) fn prepare(&mut self, channel: u32) -> Result<(), Errno> {
        let channel = self.channels.get_mut(&channel);
        channel.map_or(Err(Errno::INVAL), Channel::prepare)
    }

    /// Sends what waits for room in the channels, now and then.
    pub(super) fn tick(&mut self, now: Instant) {
        let fresh = |at: Instant| now.saturating_duration_since(at) < ROUND;
        if !self.flushed.is_some_and(fresh) {
            self.flushed = Some(now);
            self.channels.values_mut().for_each(Channel::flush);
        }
    }

    /// Tells of something that happened to a queue pair.
    pub(crate) fn queue_pair(&mut self, qpn: u32, event: EventType) {
        let object = Some(ObjectId::Qp(qpn));
        self.raise(object, &Eqe::queue_pair(event, qpn));
    }

    /// Tells why a responder refused a request for good, unless a completion
    /// says so.
    pub(crate) fn refused(&mut self, qpn: u32, fault: Option<Fault>) {
        match fault {
            Some(Fault::Access) => self.queue_pair(qpn, EventType::AccessViolation),
            Some(Fault::Unsupported) => self.queue_pair(qpn, EventType::InvalidRequest),
            Some(Fault::Queue) => self.queue_pair(qpn, EventType::WqCatastrophic),
            Some(Fault::Length | Fault::Operation | Fault::NotReady) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    use super::*;

    #[test]
    fn what_is_gone_is_not_told_of() {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(family, kind, SocketFlags::NONBLOCK, None).unwrap();
        let mut events = Events::default();
        events
            .channels
            .insert(7, Channel::new(ContextId(1), ours, false));
        let cq = ObjectId::Cq(5);
        let object = Some(cq);
        let heard = || {
            let mut message = [0; 100];
            recv(&theirs, &mut message[..], RecvFlags::DONTWAIT).map(|(len, _)| len)
        };
        events.subscribe(7, object, EventType::Completion, Sink::Cookie(1));
        events.raise(object, &Eqe::completion(5));
        events.raise(object, &Eqe::cq_error(5, Eqe::CQ_OVERRUN));
        events.raise(Some(ObjectId::Cq(6)), &Eqe::completion(6));
        assert_eq!(heard(), Ok(72));
        assert_eq!(heard(), Err(Errno::AGAIN));
        events.forget(cq);
        events.raise(object, &Eqe::completion(5));
        assert_eq!(heard(), Err(Errno::AGAIN));
        events.subscribe(7, object, EventType::Completion, Sink::Cookie(1));
        events.close_context(ContextId(1));
        events.raise(object, &Eqe::completion(5));
        // The device's end is closed.
        assert_eq!(heard(), Ok(0));
        assert!(events.subscriptions.is_empty());
    }
}
