//! The thread that makes a device go: doorbells, work queues, packets,
//! completions.

mod complete;
mod fetch;
mod memory;
mod receive;
mod receive_queue;
mod transmit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mlx5gda_sys::eqe::EventType;
use mlx5gda_sys::prm::QpState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::device::{Device, State};
use crate::net::{DelayLine, Senders, batch};
use crate::stats::DropReason;

/// Sleeps end at least this often: a bound on how late a doorbell is noticed
/// and on how long closing takes.
pub(crate) const LONGEST_NAP: Duration = Duration::from_millis(1);
/// First sleep after a busy time.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
/// How long the engine looks for more work before it sleeps.
const SPIN: Duration = Duration::from_micros(100);
/// System calls that receive, before anything else is looked at.
const RECEIVE_BATCH: usize = 16;

/// Serves `device` until `stop` is set.
pub(crate) fn run(device: &Device, stop: &AtomicBool) {
    let mut engine = Engine {
        senders: Senders::new(
            device.port().address,
            device.socket(),
            device.lock().batching,
        ),
        delayed: DelayLine::default(),
        inbox: vec![0; 1 << 16],
        looked_at: Instant::now(),
    };
    let mut idle_since = Instant::now();
    let mut nap = SHORTEST_NAP;
    let mut readable = true;
    while !stop.load(Ordering::Acquire) {
        let now = Instant::now();
        let (busy, deadline) = engine.turn(device, now, readable);
        let now = Instant::now();
        if busy {
            idle_since = now;
            nap = SHORTEST_NAP;
            readable = true;
        } else if now.duration_since(idle_since) < SPIN {
            std::thread::yield_now();
            readable = true;
        } else {
            let until = deadline.map_or(nap, |at| at.saturating_duration_since(now).min(nap));
            readable = wait_readable(device, until);
            nap = (nap * 2).min(LONGEST_NAP);
        }
    }
}

/// Sleeps until a datagram arrives, at most `time`; whether one has.
fn wait_readable(device: &Device, time: Duration) -> bool {
    let mut fds = [PollFd::new(device.socket(), PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => ready > 0,
        // Interrupted by a signal: look.
        Err(_) => true,
    }
}

/// What the engine has for itself.
struct Engine<'a> {
    senders: Senders<'a>,
    delayed: DelayLine,
    inbox: Vec<u8>,
    /// When the receive queues in error were looked at.
    looked_at: Instant,
}

impl Engine<'_> {
    /// Does what there is to do now; whether that was anything, and when to
    /// look again at the latest.
    fn turn(&mut self, device: &Device, now: Instant, readable: bool) -> (bool, Option<Instant>) {
        let mut state = device.lock_last();
        state.tick(now);
        let mut busy = self.release(&mut state, now);
        if readable {
            for _ in 0..RECEIVE_BATCH {
                let Ok((len, from, segment)) = batch::receive(device.socket(), &mut self.inbox)
                else {
                    break;
                };
                busy = true;
                for datagram in self.inbox[..len].chunks(segment) {
                    state.receive(now, from, datagram);
                }
            }
        }
        let mut deadline = self.delayed.due();
        if state.faults.is_frozen() {
            return (busy, deadline);
        }
        state.answer_doorbells();
        if now.duration_since(self.looked_at) >= LONGEST_NAP {
            self.looked_at = now;
            state.look_at_receives();
        }
        for qpn in std::mem::take(&mut state.hot) {
            busy |= state.fetch(qpn) | state.flush_receives(qpn);
            busy |= self.transmit(&mut state, qpn, now);
            busy |= state.complete(qpn);
            let Some(qp) = state.qps.get_mut(&qpn) else {
                continue;
            };
            let waiting = qp.requester.as_ref().is_some_and(|r| r.pending() > 0);
            let answering = qp.responder.as_ref().is_some_and(|r| r.has_answers());
            qp.hot = waiting || answering || qp.has_posted();
            if qp.hot {
                let at = qp.requester.as_ref().and_then(|r| r.deadline());
                deadline = deadline.into_iter().chain(at).min();
                state.hot.push(qpn);
            }
        }
        state.tell();
        let lost = self.senders.flush();
        state.stats.drop_packets(DropReason::Send, lost);
        (busy, deadline.into_iter().chain(self.delayed.due()).min())
    }
}

impl State {
    /// Finds what was posted to receive queues in error, where no message comes
    /// that would look: there is no register for it, only the record.
    fn look_at_receives(&mut self) {
        for qp in self.qps.values_mut() {
            if qp.state == QpState::Err && !qp.hot && qp.has_receives() {
                qp.hot = true;
                self.hot.push(qp.number);
            }
        }
    }

    /// Starts what doorbells ask for, and nothing else. Several queues may share
    /// a register and overwrite each other's value, so a write to one has the
    /// records of all queues of its page looked at.
    fn answer_doorbells(&mut self) {
        let Self {
            qps,
            hot,
            uars,
            cqs,
            events,
            ..
        } = self;
        for (&page, uar) in &*uars {
            if let Some(value) = uar.page.cq_rung() {
                cqs.rung(page, value);
                cqs.look_at_arming(page);
            }
            if !uar.page.rung() {
                continue;
            }
            for qp in qps.values_mut().filter(|qp| qp.qpc.uar_page() == page) {
                if !qp.ring() {
                    qp.enter_error();
                    events.queue_pair(qp.number, EventType::WqCatastrophic);
                }
                // What is in the requester is completed even so.
                if !qp.hot && qp.has_posted() {
                    qp.hot = true;
                    hot.push(qp.number);
                }
            }
        }
    }
}
