//! One operation's exchange: a slot to every peer, a slot from every peer.
//!
//! Everything is posted before anything is waited for, and everything that is
//! waited for is waited for at once, so an operation takes as long as its slowest
//! peer, and a dead peer costs one time-out however many there are.
//!
//! # Why two halves are enough
//!
//! Epoch `e` uses the half of `e`'s parity: receive slots, staging slots and signal
//! words. Let A and B both take part in `e` and `e - 1`, whatever kinds of operation
//! these are (any sequence of dispatches and combines: each exchanges a slot, maybe
//! an empty one, with *every* active peer).
//!
//! - *B's receive slot.* A writes B's slot for `e` only after its own `e - 1` has
//!   ended, so after it has seen B's signal for `e - 1`. B posts that only after its
//!   `e - 2` has ended, and with it every read of the half that `e` uses. If A ended
//!   `e - 1` without B's signal it has masked B and writes nothing to it in `e`.
//! - *B's signal word.* The same, and the wait for the word in `e - 2` is over too.
//! - *A's staging slot.* Filled only when everything that reads it has completed
//!   ([`Fabric::reusable`]). This also orders lanes: what an earlier operation of
//!   this half had on one lane is in B's memory before A posts the next on another.
//! - *Admission.* A rank that begins to take part at `E`, new or after a false
//!   alarm, was masked by everybody before the decision, so nobody reads its slots
//!   in any epoch before `E`, and nobody writes to it before `E`. From `E` on the
//!   points above hold. `E` may be odd or even: the half follows from the epoch and
//!   not from a count of one's own operations.
//! - *Old lives.* A signal of another epoch or incarnation is not the one awaited
//!   and is ignored; the slot behind it is not read.
//!
//! # Waiting for one that waits
//!
//! A rank that waits for a dead one would itself look dead to a third that is
//! already in the next operation. So whoever has waited for an eighth of the
//! time-out tells all others so, and again after each further eighth, by changing its
//! *stall word* in their regions; a wait for a peer lasts one time-out from the last
//! change seen, and at most three in all.

mod patience;
mod send;

use crate::config::Config;
use crate::error::{Loss, LossCause};
use crate::layout::Layout;
use crate::pause::Pause;
use crate::signal::{Signal, StallReport};
use crate::stats::EpStats;
use ep_transport::{Epoch, Fabric, Half, Incarnation, Rank, RankSet, Region, RegionError};
use patience::{Patience, REPORTS_PER_TIME_OUT};
use send::{Route, Sending};
use std::time::{Duration, Instant};

/// Turns of the wait loop between two looks at completion queues.
const TURNS_PER_POLL: u32 = 16;

/// Fills the slot for a rank at an offset of the local region, and says how many
/// bytes of it are used.
pub(crate) type Stage<'a> = dyn FnMut(&Region, Rank, u64) -> Result<u64, RegionError> + 'a;

/// One peer in one operation.
#[derive(Clone, Copy, Debug)]
struct Peer {
    takes_part: bool,
    incarnation: Incarnation,
    sending: Sending,
    /// Lanes whose signal has been seen.
    lanes_seen: u32,
    patience: Patience,
}

/// The state of exchanges, kept so that none of them allocates.
#[derive(Debug)]
pub(crate) struct Exchange {
    peers: Vec<Peer>,
    answered: RankSet,
    losses: Vec<Loss>,
    reports: u64,
}

/// What stays the same throughout one exchange.
struct Call<'a, F> {
    fabric: &'a mut F,
    layout: &'a Layout,
    stats: &'a mut EpStats,
    epoch: Epoch,
    half: Half,
    me: Rank,
    lanes: u32,
    time_out: Duration,
    began: Instant,
}

impl Exchange {
    pub(crate) fn new(capacity: usize) -> Self {
        let peer = Peer {
            takes_part: false,
            incarnation: Incarnation(0),
            sending: Sending::Done,
            lanes_seen: 0,
            patience: Patience::new(Instant::now(), 0),
        };
        Self {
            peers: vec![peer; capacity],
            answered: RankSet::new(capacity as u32),
            losses: Vec::with_capacity(capacity),
            reports: 0,
        }
    }

    /// The ranks whose slots can be read, this one included.
    pub(crate) fn answered(&self) -> &RankSet {
        &self.answered
    }

    /// Peers masked in the last operation.
    pub(crate) fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// The life of `rank` that takes part in this operation.
    pub(crate) fn incarnation(&self, rank: Rank) -> Incarnation {
        self.peers[rank.index()].incarnation
    }

    /// Sends to and hears from every rank that is active in `epoch`.
    pub(crate) fn run<F: Fabric>(
        &mut self,
        fabric: &mut F,
        layout: &Layout,
        config: &Config,
        stats: &mut EpStats,
        epoch: Epoch,
        stage: &mut Stage<'_>,
    ) -> Result<(), RegionError> {
        let me = fabric.rank();
        let mut call = Call {
            fabric,
            layout,
            stats,
            epoch,
            half: epoch.half(),
            me,
            lanes: config.lanes(),
            time_out: config.time_out(),
            began: Instant::now(),
        };
        self.enter(&mut call)?;
        // Each rank begins with its successor, so that not all send to one at once.
        let capacity = self.peers.len();
        for i in 1..capacity {
            let peer = Rank(((me.index() + i) % capacity) as u32);
            self.send(&mut call, peer, stage)?;
        }
        stage(call.fabric.region(), me, layout.receive(call.half, me))?;
        self.wait(&mut call, stage)
    }

    fn enter<F: Fabric>(&mut self, call: &mut Call<'_, F>) -> Result<(), RegionError> {
        let control = call.fabric.control();
        self.losses.clear();
        self.answered.clear();
        self.answered.insert(call.me);
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let rank = Rank(i as u32);
            // In this order: a rank that is active now keeps its row, incarnation
            // included, until this operation has ended.
            peer.takes_part = rank != call.me && control.is_active(rank, call.epoch);
            let row = control.participation(rank);
            peer.incarnation = if rank == call.me {
                control.own_incarnation()
            } else {
                row.map_or(Incarnation(0), |row| row.incarnation)
            };
            peer.sending = Sending::Stage;
            peer.lanes_seen = 0;
        }
        if self.peers.iter().any(|peer| peer.takes_part) {
            control.share(call.epoch);
        }
        Ok(())
    }

    fn send<F: Fabric>(
        &mut self,
        call: &mut Call<'_, F>,
        rank: Rank,
        stage: &mut Stage<'_>,
    ) -> Result<(), RegionError> {
        let peer = &self.peers[rank.index()];
        if !peer.takes_part || peer.sending == Sending::Done {
            return Ok(());
        }
        if peer.sending == Sending::Stage {
            match call.fabric.reusable(rank, call.half) {
                Ok(true) => {
                    let at = call.layout.staging(call.half, rank);
                    let used = stage(call.fabric.region(), rank, at)?;
                    self.peers[rank.index()].sending = Sending::Post { used, step: 0 };
                }
                Ok(false) => {}
                Err(fault) => {
                    self.lose(call, rank, fault.into());
                    return Ok(());
                }
            }
        }
        self.post(call, rank);
        Ok(())
    }

    fn post<F: Fabric>(&mut self, call: &mut Call<'_, F>, rank: Rank) {
        if let Sending::Post { used, step } = self.peers[rank.index()].sending {
            let route = Route {
                me: call.me,
                peer: rank,
                half: call.half,
                lanes: call.lanes,
                signal: Signal::new(call.epoch, call.fabric.control().own_incarnation()),
            };
            match route.post(call.fabric, call.layout, used, step, &mut call.stats.last) {
                Ok(sending) => self.peers[rank.index()].sending = sending,
                Err(fault) => return self.lose(call, rank, fault.into()),
            }
        }
        let waited = call.began.elapsed();
        let what = match self.peers[rank.index()].sending {
            Sending::Done => return,
            Sending::Stage => "an earlier operation has not completed",
            Sending::Post { .. } => "the send queue stayed full",
        };
        if waited >= call.time_out {
            self.lose(call, rank, LossCause::Unsendable { waited, what });
        }
    }

    fn wait<F: Fabric>(
        &mut self,
        call: &mut Call<'_, F>,
        stage: &mut Stage<'_>,
    ) -> Result<(), RegionError> {
        let start = Instant::now();
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let stall = call.layout.stall(Rank(i as u32));
            peer.patience = Patience::new(start, call.fabric.region().load_acquire(stall)?);
        }
        let report_every = call.time_out / REPORTS_PER_TIME_OUT;
        let mut next_report = start + report_every;
        let mut pause = Pause::default();
        for turn in 1u32.. {
            let mut open = false;
            for i in 0..self.peers.len() {
                let rank = Rank(i as u32);
                self.send(call, rank, stage)?;
                self.receive(call, rank)?;
                let peer = &self.peers[i];
                open |= peer.takes_part
                    && (peer.sending != Sending::Done || !self.answered.contains(rank));
            }
            if !open {
                break;
            }
            if turn.is_multiple_of(TURNS_PER_POLL) {
                self.poll_completions(call);
            }
            let now = Instant::now();
            if now >= next_report {
                self.report_stall(call);
                next_report = now + report_every;
            }
            pause.wait();
        }
        Ok(())
    }

    /// Looks for the peer's signals, and decides whether to go on waiting.
    fn receive<F: Fabric>(
        &mut self,
        call: &mut Call<'_, F>,
        rank: Rank,
    ) -> Result<(), RegionError> {
        let peer = &mut self.peers[rank.index()];
        if !peer.takes_part || self.answered.contains(rank) {
            return Ok(());
        }
        let region = call.fabric.region();
        let expected = Signal::new(call.epoch, peer.incarnation).word();
        while peer.lanes_seen < call.lanes {
            let at = call.layout.signal(call.half, rank, peer.lanes_seen);
            if region.load_acquire(at)? != expected {
                break;
            }
            peer.lanes_seen += 1;
        }
        let now = Instant::now();
        let waited = peer.patience.waited(now);
        if peer.lanes_seen == call.lanes {
            self.answered.insert(rank);
            call.stats.last_wait[rank.index()] = waited;
            return Ok(());
        }
        let word = region.load_acquire(call.layout.stall(rank))?;
        peer.patience.observe(word, peer.incarnation, now);
        if !call.fabric.control().is_active(rank, call.epoch) {
            self.lose(call, rank, LossCause::Withdrawn);
        } else if peer.patience.is_over(now, call.time_out) {
            call.stats.last_wait[rank.index()] = waited;
            self.lose(call, rank, LossCause::Silent { waited });
        }
        Ok(())
    }

    /// Looks for error completions of peers that nothing has been heard of.
    fn poll_completions<F: Fabric>(&mut self, call: &mut Call<'_, F>) {
        for rank in (0..self.peers.len() as u32).map(Rank) {
            if self.peers[rank.index()].takes_part
                && let Err(fault) = call.fabric.reusable(rank, call.half)
            {
                self.lose(call, rank, fault.into());
            }
        }
    }

    /// Tells all others that this rank is alive and waits for somebody: those that
    /// take part, and those that are admitted from a later epoch on, as they may be
    /// waiting for this rank there already.
    fn report_stall<F: Fabric>(&mut self, call: &mut Call<'_, F>) {
        self.reports += 1;
        call.stats.stall_reports += 1;
        let own = call.fabric.control().own_incarnation();
        let word = StallReport::new(self.reports, own).word();
        let to = call.layout.stall(call.me);
        for rank in (0..self.peers.len() as u32).map(Rank) {
            let takes_part = self.peers[rank.index()].takes_part;
            if !takes_part && !is_ahead(call.fabric, rank, call.epoch) {
                continue;
            }
            let posted = call.fabric.signal(rank, 0, to, word);
            match posted.and_then(|()| call.fabric.ring(rank, call.half)) {
                Ok(()) => call.stats.last.messages += 1,
                // The next report is as good; and who is still to come is not judged.
                Err(fault) if fault.is_transient() || !takes_part => {}
                Err(fault) => self.lose(call, rank, fault.into()),
            }
        }
    }

    fn lose<F: Fabric>(&mut self, call: &mut Call<'_, F>, rank: Rank, cause: LossCause) {
        if let Sending::Post { .. } = self.peers[rank.index()].sending {
            // What was posted must not wait for a later ring, when its source would
            // hold something else. A fault here changes nothing: it is lost anyway.
            let _ = call.fabric.ring(rank, call.half);
        }
        self.mask(call.fabric, call.stats, rank, call.epoch, cause);
    }

    /// Masks `rank` from `epoch` on and leaves out what it sent.
    pub(crate) fn mask<F: Fabric>(
        &mut self,
        fabric: &F,
        stats: &mut EpStats,
        rank: Rank,
        epoch: Epoch,
        cause: LossCause,
    ) {
        let peer = &mut self.peers[rank.index()];
        peer.takes_part = false;
        fabric.control().mask(rank, epoch);
        self.answered.remove(rank);
        stats.losses += 1;
        tracing::warn!(%rank, incarnation = %peer.incarnation, %epoch, %cause, "peer masked");
        self.losses.push(Loss {
            rank,
            incarnation: peer.incarnation,
            epoch,
            cause,
        });
    }
}

/// Whether `rank` is admitted, but from an epoch after this one.
fn is_ahead<F: Fabric>(fabric: &F, rank: Rank, epoch: Epoch) -> bool {
    let row = fabric.control().participation(rank);
    rank != fabric.rank()
        && row.is_some_and(|row| row.active_from > epoch && row.active_until > epoch)
}
