//! Who hears of asynchronous events.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::counter;

/// What happened to the port.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    PortActive,
    PortError,
}

/// A context's events that nobody has fetched yet.
#[derive(Debug)]
pub(crate) struct Listener {
    /// An eventfd that counts what waits, one for each read.
    counter: Arc<OwnedFd>,
    waiting: VecDeque<Event>,
}

impl Listener {
    pub(crate) const fn new(counter: Arc<OwnedFd>) -> Self {
        Self {
            counter,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn announce(&mut self, event: Event) {
        self.waiting.push_back(event);
        if let Err(error) = counter::add(&self.counter) {
            tracing::error!(%error, ?event, "event not announced");
        }
    }

    /// The oldest event, for whoever read the counter.
    pub(crate) fn fetch(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }
}
