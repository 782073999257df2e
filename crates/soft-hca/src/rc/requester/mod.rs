//! The requester half of a reliable connection: segments work requests,
//! retransmits, and reports completions in order.

mod answers;
mod recovery;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::psn::{Psn, Seq};
use crate::rc::Status;
use crate::rc::queue::{Entry, Op, WorkRequest};
use crate::rc::segment::{READ_CHUNK, TxPacket};

/// Packets in flight at first; the window grows from there while nothing is
/// lost.
const FIRST_WINDOW: u64 = 64;
/// The window never shrinks below this many packets.
const MIN_WINDOW: u64 = 4;
/// First delay before the last packet is sent again to provoke an answer.
const PROBE_AFTER: Duration = Duration::from_millis(2);
/// Value of the RNR retry count that means *for ever*.
const RNR_FOREVER: u8 = 7;

/// What a connection is set up with (fields of `qpc`).
#[derive(Copy, Clone, Debug)]
pub struct RequesterConfig {
    /// Queue pair number at the peer.
    pub dest_qpn: u32,
    /// Path MTU in bytes.
    pub mtu: u32,
    /// First PSN.
    pub start_psn: Psn,
    /// Time without progress after which packets are sent again; `None` waits
    /// for ever.
    pub ack_timeout: Option<Duration>,
    /// Times to try again without progress.
    pub retry_count: u8,
    /// Times to try again when the peer has no receive buffer; 7 is for ever.
    pub rnr_retry: u8,
    /// READs and atomics in flight.
    pub max_reads: u32,
    /// Packets in flight, at most.
    pub window: u32,
}

/// A work request's end. Successes that nobody asked about are not reported.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Index of the WQE.
    pub index: u16,
    /// What it did.
    pub op: Op,
    /// Bytes of local data.
    pub len: u32,
    /// How it ended.
    pub status: Status,
}

/// The requester state of one queue pair.
///
/// # Invariants
/// `una <= next <= sent`, the queue's entries follow each other without gaps,
/// and `una` lies in the first entry (or is its end, if that entry is empty).
#[derive(Debug)]
pub struct Requester<P> {
    config: RequesterConfig,
    queue: VecDeque<Entry<P>>,
    completions: VecDeque<Completion>,
    /// Oldest packet that is not acknowledged.
    una: Seq,
    /// Next packet to send, and the entry to look for it from.
    next: Seq,
    next_entry: usize,
    /// End of what was ever sent.
    sent: Seq,
    /// End of what was ever posted.
    posted: Seq,
    window: u64,
    threshold: u64,
    grown: u64,
    retries_left: u8,
    rnr_left: u8,
    deadline: Option<Instant>,
    probe_at: Option<Instant>,
    probe_delay: Duration,
    probe_due: bool,
    rnr_until: Option<Instant>,
    /// Entry whose packet was polled last.
    polled: usize,
    /// `una` when it last went back, to go back once per loss.
    went_back_at: Option<Seq>,
    /// `una` when the peer last reported it missing, until that is worth
    /// hearing again.
    reported_at: Option<Seq>,
    failed: bool,
    retransmitted: u64,
}

impl<P> Requester<P> {
    /// A requester with an empty queue.
    pub fn new(config: RequesterConfig) -> Self {
        let start = Seq::start(config.start_psn);
        let threshold = u64::from(config.window).max(MIN_WINDOW);
        let window = threshold.min(FIRST_WINDOW);
        Self {
            config,
            queue: VecDeque::new(),
            completions: VecDeque::new(),
            una: start,
            next: start,
            next_entry: 0,
            sent: start,
            posted: start,
            window,
            threshold,
            grown: 0,
            retries_left: config.retry_count,
            rnr_left: config.rnr_retry,
            deadline: None,
            probe_at: None,
            probe_delay: PROBE_AFTER,
            probe_due: false,
            rnr_until: None,
            polled: 0,
            went_back_at: None,
            reported_at: None,
            failed: false,
            retransmitted: 0,
        }
    }

    /// Work requests that have not ended.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Whether a work request has failed: nothing is sent any more and
    /// everything posted is flushed.
    pub const fn failed(&self) -> bool {
        self.failed
    }

    /// Packets sent more than once so far.
    pub const fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// PSN of the next new packet, and of the oldest that is not acknowledged.
    pub const fn psns(&self) -> (Psn, Psn) {
        (self.sent.psn(), self.una.psn())
    }

    /// Queues a work request.
    pub fn post(&mut self, wr: WorkRequest<P>) {
        self.enqueue(wr, None);
    }

    /// Queues a work request that cannot be executed. It ends with `status`
    /// once all before it have ended.
    pub fn post_failed(&mut self, wr: WorkRequest<P>, status: Status) {
        self.enqueue(wr, Some(status));
    }

    fn enqueue(&mut self, wr: WorkRequest<P>, failure: Option<Status>) {
        if self.failed {
            self.completions.push_back(ended(&wr, Status::Flushed));
            return;
        }
        let mut entry = Entry::new(wr, self.posted, self.config.mtu);
        entry.failure = failure;
        self.posted = entry.end;
        self.queue.push_back(entry);
        self.retire();
    }

    /// The next completion, oldest first.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Ends everything that is queued as flushed, and everything posted later.
    pub fn flush(&mut self) {
        self.failed = true;
        self.deadline = None;
        self.probe_at = None;
        self.rnr_until = None;
        let queue = std::mem::take(&mut self.queue);
        self.completions
            .extend(queue.iter().map(|entry| ended(&entry.wr, Status::Flushed)));
    }

    /// The next packet to send now, if any.
    pub fn poll_tx(&mut self, now: Instant) -> Option<TxPacket<'_, P>> {
        if self.failed || self.rnr_until.is_some() {
            return None;
        }
        if std::mem::take(&mut self.probe_due) && self.una < self.next {
            let (position, seq) = self.last_sent()?;
            self.retransmitted += 1;
            self.polled = position;
            return self.packet(position, seq);
        }
        while self
            .queue
            .get(self.next_entry)
            .is_some_and(|entry| entry.end <= self.next && entry.failure.is_none())
        {
            self.next_entry += 1;
        }
        let entry = self.queue.get(self.next_entry)?;
        if entry.failure.is_some() {
            return None;
        }
        if entry.wr.op.wants_data() {
            if self.reads_in_flight() >= u64::from(self.config.max_reads) {
                return None;
            }
        } else if self.next.since(self.una) >= self.window {
            return None;
        }
        if entry.wr.fence && self.next == entry.first && self.reads_in_flight() > 0 {
            return None;
        }
        let seq = self.next;
        let position = self.next_entry;
        let end = seq.plus(entry.span(seq));
        if entry.wr.op.wants_data() && end.since(self.una) > self.window.max(READ_CHUNK) {
            return None;
        }
        if seq < self.sent {
            self.retransmitted += 1;
        }
        self.next = end;
        self.sent = self.sent.max(end);
        if self.deadline.is_none() && self.probe_at.is_none() {
            self.arm(now);
        }
        self.polled = position;
        self.packet(position, seq)
    }

    /// The data of the packet polled last could not be read: its work request
    /// ends with `status` once all before it have ended.
    pub fn fail_polled(&mut self, status: Status) {
        if let Some(entry) = self.queue.get_mut(self.polled) {
            entry.failure = Some(status);
        }
        self.retire();
    }

    /// Ends what is done at the head of the queue.
    fn retire(&mut self) {
        while let Some(entry) = self.queue.front() {
            if let Some(status) = entry.failure
                && entry.first <= self.una
            {
                self.fail_first(status);
                return;
            }
            if entry.end > self.una {
                return;
            }
            if entry.wr.signalled {
                let completion = ended(&entry.wr, Status::Success);
                self.completions.push_back(completion);
            }
            self.queue.pop_front();
            self.next_entry = self.next_entry.saturating_sub(1);
        }
    }

    /// The oldest work request ends with `status`, all others are flushed.
    fn fail_first(&mut self, status: Status) {
        if let Some(entry) = self.queue.pop_front() {
            self.completions.push_back(ended(&entry.wr, status));
        }
        self.flush();
    }

    /// READ and atomic request packets whose answers are not complete.
    fn reads_in_flight(&self) -> u64 {
        self.queue
            .iter()
            .take_while(|entry| entry.first < self.next)
            .filter(|entry| entry.wr.op.wants_data())
            .map(|entry| {
                // Whole request packets: one of which a part is answered counts.
                let answered = self.una.max(entry.first).since(entry.first);
                let asked = self.next.min(entry.end).since(entry.first);
                asked.div_ceil(READ_CHUNK) - answered / READ_CHUNK
            })
            .sum()
    }

    /// The request packet that was sent last: its entry and first packet.
    fn last_sent(&self) -> Option<(usize, Seq)> {
        let position = self
            .queue
            .iter()
            .rposition(|entry| entry.first < self.next && entry.end > entry.first)?;
        let start = self.queue.get(position)?.last_start(self.next);
        Some((position, start.max(self.una)))
    }

    /// The request packet at `seq` of an entry. Acknowledgements are asked for
    /// where the sender will have to wait for them: at the end of a message,
    /// and twice per window.
    fn packet(&self, position: usize, seq: Seq) -> Option<TxPacket<'_, P>> {
        let ack_every = (self.window / 2).max(1);
        self.queue
            .get(position)?
            .packet(seq, &self.config, ack_every)
    }
}

fn ended<P>(wr: &WorkRequest<P>, status: Status) -> Completion {
    Completion {
        index: wr.index,
        op: wr.op,
        len: wr.len,
        status,
    }
}
