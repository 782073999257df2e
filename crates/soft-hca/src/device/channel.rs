//! The device's end of an event channel.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use mlx5gda_sys::eqe::Eqe;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use zerocopy::IntoBytes;

use super::ContextId;

/// Events that wait for room in the socket, at most.
const MOST: usize = 1 << 16;

/// An event for which the socket has no room yet.
#[derive(Debug)]
struct Waiting {
    subscription: u64,
    cookie: u64,
    eqe: Eqe,
}

/// The device's end of an event channel. Each message is one event: the
/// subscription's cookie, then the entry unless it is left out.
///
/// A socket holds a few hundred messages. Further events wait here, as they do in the
/// kernel: each of them, or, where entries are left out, one for each subscription.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) owner: ContextId,
    socket: OwnedFd,
    /// Only cookies are sent.
    omit_data: bool,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    /// An event was lost, and nobody was told.
    overflow: bool,
}

impl Channel {
    pub(crate) const fn new(owner: ContextId, socket: OwnedFd, omit_data: bool) -> Self {
        Self {
            owner,
            socket,
            omit_data,
            waiting: VecDeque::new(),
            overflow: false,
        }
    }

    /// Has an event arrive, now or when there is room.
    pub(super) fn deliver(&mut self, subscription: u64, cookie: u64, eqe: Eqe) {
        let mut waiting = self.waiting.iter();
        if self.omit_data && waiting.any(|other| other.subscription == subscription) {
            return;
        }
        if self.waiting.len() == MOST {
            tracing::warn!(limit = MOST, ?eqe, "event lost: nobody reads the channel");
            self.overflow = true;
            return;
        }
        self.waiting.push_back(Waiting {
            subscription,
            cookie,
            eqe,
        });
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.waiting.front() {
            match self.send(event) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => return,
                Err(error) => {
                    // The client has closed its end.
                    tracing::debug!(%error, events = self.waiting.len(), "nobody to tell");
                    self.waiting.clear();
                }
            }
        }
    }

    fn send(&self, event: &Waiting) -> Result<(), Errno> {
        let mut message = event.cookie.to_ne_bytes().to_vec();
        if !self.omit_data {
            message.extend_from_slice(event.eqe.as_bytes());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        send(&self.socket, &message, flags).map(drop)
    }

    /// Makes ready for a client that is about to read.
    ///
    /// # Errors
    /// `EOVERFLOW`, once, if events were lost since.
    pub(super) fn prepare(&mut self) -> Result<(), Errno> {
        self.flush();
        if std::mem::take(&mut self.overflow) {
            return Err(Errno::OVERFLOW);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    use super::*;

    fn channel(omit_data: bool) -> (Channel, OwnedFd) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(family, kind, SocketFlags::NONBLOCK, None).unwrap();
        (Channel::new(ContextId(1), ours, omit_data), theirs)
    }

    /// The cookies that there are to read.
    fn read(channel: &mut Channel, socket: &OwnedFd) -> Vec<u64> {
        let mut cookies = Vec::new();
        loop {
            channel.prepare().unwrap();
            let mut message = [0; 100];
            if recv(socket, &mut message[..], RecvFlags::DONTWAIT).is_err() {
                return cookies;
            }
            cookies.push(u64::from_ne_bytes(*message.first_chunk().unwrap()));
        }
    }

    /// One event after the other, until one has to wait; how many were sent.
    fn fill(channel: &mut Channel) -> u64 {
        (0..)
            .find(|n| {
                channel.deliver(*n, *n, Eqe::completion(5));
                !channel.waiting.is_empty()
            })
            .unwrap()
    }

    #[test]
    fn with_entries_every_event_counts_up_to_a_limit() {
        let (mut channel, socket) = channel(false);
        let sent = fill(&mut channel);
        for _ in 1..MOST {
            channel.deliver(sent, sent, Eqe::completion(5));
        }
        assert_eq!(channel.prepare(), Ok(()));
        channel.deliver(sent, sent, Eqe::completion(5));
        assert_eq!(channel.prepare(), Err(Errno::OVERFLOW));
        assert_eq!(channel.prepare(), Ok(()));
        let cookies = read(&mut channel, &socket);
        let expected = (0..sent).chain(std::iter::repeat_n(sent, MOST));
        assert!(cookies.into_iter().eq(expected));
    }

    #[test]
    fn without_entries_a_subscription_waits_once() {
        let (mut channel, socket) = channel(true);
        let sent = fill(&mut channel);
        for _ in 0..3 {
            for subscription in [sent, sent + 1] {
                // They may have the same cookie.
                channel.deliver(subscription, 7, Eqe::completion(5));
            }
        }
        let cookies = read(&mut channel, &socket);
        assert!(cookies.into_iter().eq((0..=sent).chain([7])));
    }

    #[test]
    fn nothing_waits_for_a_client_that_has_closed_its_end() {
        let (mut channel, socket) = channel(false);
        fill(&mut channel);
        drop(socket);
        channel.flush();
        assert!(channel.waiting.is_empty());
    }
}
