//! The host's side of the table in GPU memory.
//!
//! Kernels and graphs run on while the host changes who takes part. All thread blocks of an
//! operation must see the same, so there are three ways to change the table and no other:
//!
//! - *gone*: one word of a row, which may change at any time, since kernels agree among
//!   themselves on what it means for the operation that is running;
//! - a *hold*: no operation at or beyond an epoch begins, so what is only about those can
//!   be written in peace. Operations before that epoch run on and read the table meanwhile;
//! - a *stop*: nothing begins. Only for moments, and where nobody would notice: this GPU is
//!   idle, or this rank is alone.

use super::error::CudaError;
use super::memory::DeviceMemory;
use super::table::{Head, MAX_RANKS, NEVER, OPERATION, Row, Table, Waits};
use super::words::Words;
use crate::control::{Admission, Participation};
use crate::error::{Error, Refusal};
use crate::ids::{Epoch, Incarnation, Rank};
use std::mem::{offset_of, size_of};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

/// A thread block reads head and rows within this time. Whatever the host writes before and
/// after such a pause, no thread block has seen only one of the two out of order.
const SETTLED: Duration = Duration::from_millis(1);
const POLL: Duration = Duration::from_micros(100);
/// How often a change is tried that operations can come before.
const TRIES: u32 = 64;

const HEAD: usize = offset_of!(Table, head);
const RUN_LIMIT: usize = HEAD + offset_of!(Head, run_limit);
const BEGUN: usize = offset_of!(Table, begun);
const ENDED: usize = offset_of!(Table, ended);
const SHARED_UNTIL: usize = offset_of!(Table, shared_until);
const NS: usize = offset_of!(Table, waits) + offset_of!(Waits, ns);
const OPS: usize = offset_of!(Table, waits) + offset_of!(Waits, ops);

fn row(rank: usize) -> usize {
    offset_of!(Table, rows) + rank * size_of::<Row>()
}

/// What does not change during a rank's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ranks that there can be, at most [`MAX_RANKS`].
    pub capacity: u32,
    /// This rank's incarnation.
    pub own: Incarnation,
    /// Operations of a round: the epoch goes on elsewhere only between two rounds.
    pub round: u64,
    /// How long a kernel waits for a peer.
    pub time_out: Duration,
    /// How long it waits for a decision about who takes part. Longer than a decision takes:
    /// `GroupConfig::update_time_out`.
    pub decision_time_out: Duration,
}

/// How epochs are counted, as the host has written it.
#[derive(Clone, Copy, Debug)]
struct Count {
    switch_op: u64,
    base_before: u64,
    base_after: u64,
}

impl Count {
    fn epoch(&self, op: u64) -> u64 {
        op.wrapping_add(if op < self.switch_op {
            self.base_before
        } else {
            self.base_after
        })
    }

    /// The epoch after which the next operations count: that of `op`, or the one at which
    /// this rank is about to go on.
    fn next(&self, op: u64) -> u64 {
        match self.switch_op {
            NEVER => self.epoch(op),
            switch => self.epoch(op.max(switch)),
        }
    }
}

/// A hold that kernels keep to.
#[derive(Clone, Copy, Debug)]
struct Hold {
    limit: u64,
    /// Before it was written.
    since: Duration,
    ahead: u64,
}

#[derive(Clone, Copy, Debug)]
struct Done {
    begun: u64,
    ended: u64,
}

impl Done {
    /// The operation that runs, or is the next to begin.
    fn op(self) -> u64 {
        self.ended / OPERATION
    }

    /// Whether nothing of that operation has begun.
    fn idle(self) -> bool {
        self.begun == self.ended && self.ended.is_multiple_of(OPERATION)
    }
}

#[derive(Debug)]
struct State {
    count: Count,
    hold: Option<Hold>,
}

/// The table of one rank, in the memory of its GPU.
#[derive(Debug)]
pub struct DeviceControl<W = DeviceMemory> {
    words: W,
    settings: Settings,
    state: Mutex<State>,
}

impl<W: Words> DeviceControl<W> {
    /// Writes a table in which nobody takes part and the next operation has epoch 0, into
    /// zeroed memory with room for a [`Table`] that no kernel uses yet.
    ///
    /// # Errors
    /// The capacity is beyond [`MAX_RANKS`], or the memory cannot be reached.
    pub fn new(words: W, settings: Settings) -> Result<Self, CudaError> {
        let capacity = settings.capacity as usize;
        if capacity > MAX_RANKS {
            return Err(CudaError::TooManyRanks {
                capacity: settings.capacity,
                limit: MAX_RANKS as u32,
            });
        }
        let count = Count {
            switch_op: NEVER,
            base_before: 0,
            base_after: 0,
        };
        let control = Self {
            words,
            settings: Settings {
                round: settings.round.max(1),
                ..settings
            },
            state: Mutex::new(State { count, hold: None }),
        };
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER);
        let own = u64::from(settings.own.0) | u64::from(settings.capacity) << 32;
        let (time_out, decision) = (ns(settings.time_out), ns(settings.decision_time_out));
        control.put(HEAD, &[NEVER, NEVER, 0, 0, NEVER, time_out, decision, own])?;
        for rank in 0..MAX_RANKS {
            control.put(row(rank), &[NEVER, 0])?;
        }
        Ok(control)
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &W {
        &self.words
    }

    /// What does not change.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get<const N: usize>(&self, offset: usize) -> Result<[u64; N], CudaError> {
        let mut bytes = [[0_u8; 8]; N];
        self.words.load(offset, bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_le_bytes))
    }

    fn word(&self, offset: usize) -> Result<u64, CudaError> {
        let [word] = self.get(offset)?;
        Ok(word)
    }

    fn put(&self, offset: usize, words: &[u64]) -> Result<(), CudaError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.words.store(offset, &bytes)
    }

    fn put_half(&self, offset: usize, half: u32) -> Result<(), CudaError> {
        self.words.store(offset, &half.to_le_bytes())
    }

    fn done(&self) -> Result<Done, CudaError> {
        Ok(Done {
            begun: self.word(BEGUN)?,
            ended: self.word(ENDED)?,
        })
    }

    fn op(&self) -> Result<u64, CudaError> {
        Ok(self.word(ENDED)? / OPERATION)
    }

    fn check(&self, rank: Rank) -> Result<usize, CudaError> {
        let capacity = self.settings.capacity;
        if rank.0 < capacity {
            Ok(row(rank.index()))
        } else {
            Err(CudaError::NoSuchRank { rank, capacity })
        }
    }

    fn row(&self, rank: Rank) -> Result<Row, CudaError> {
        let [active_from, active_until, life, reserved] = self.get(self.check(rank)?)?;
        Ok(Row {
            active_from,
            active_until,
            incarnation: life as u32,
            gone: (life >> 32) as u32,
            reserved,
        })
    }

    /// When `rank` takes part, as the table says it. A rank that is gone takes part in no
    /// more operations than have begun.
    ///
    /// # Errors
    /// There is no such rank, or the memory cannot be reached.
    pub fn participation(&self, rank: Rank) -> Result<Participation, CudaError> {
        let row = self.row(rank)?;
        Ok(Participation {
            active_from: Epoch(row.active_from),
            active_until: Epoch(row.active_until),
            incarnation: Incarnation(row.incarnation),
        })
    }

    /// Whether this life of `rank` was admitted and not masked since.
    ///
    /// # Errors
    /// There is no such rank, or the memory cannot be reached.
    pub fn counts(&self, rank: Rank, incarnation: Incarnation) -> Result<bool, CudaError> {
        let row = self.row(rank)?;
        Ok(row.incarnation == incarnation.0 && row.active_until == NEVER && row.gone == 0)
    }

    /// The epoch of the operation that runs or is the next to begin, or at which this rank
    /// is about to go on.
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn next_epoch(&self) -> Result<Epoch, CudaError> {
        let state = self.lock();
        Ok(Epoch(state.count.next(self.op()?)))
    }

    /// The first epoch that this rank has not used together with others.
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn unshared(&self) -> Result<Epoch, CudaError> {
        Ok(Epoch(self.word(SHARED_UNTIL)?))
    }

    /// Time that operations have waited for each rank, and how many were measured.
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn waits(&self) -> Result<(Vec<Duration>, u64), CudaError> {
        let ns: [u64; MAX_RANKS] = self.get(NS)?;
        let ranks = ns.iter().take(self.settings.capacity as usize);
        let times = ranks.map(|ns| Duration::from_nanos(*ns)).collect();
        Ok((times, self.word(OPS)?))
    }

    /// Masks `rank` at once, unless it is masked: nothing is stored into its memory by
    /// operations that begin from now on, and nobody waits for it.
    ///
    /// # Errors
    /// There is no such rank, or the memory cannot be reached.
    pub fn mask_now(&self, rank: Rank) -> Result<(), CudaError> {
        let _state = self.lock();
        let row = self.row(rank)?;
        if row.active_until != NEVER || row.gone != 0 {
            return Ok(());
        }
        self.put_half(self.check(rank)? + offset_of!(Row, gone), 1)
    }

    /// Waits until every operation that had begun when this was called has ended, and no
    /// later one counts a rank that is gone. Returns false if that took longer than `limit`.
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn quiesce(&self, limit: Duration) -> Result<bool, CudaError> {
        let deadline = self.words.now().saturating_add(limit);
        // Those who are gone are taken out by the operations that find them absent. While
        // there are none, it is done here.
        self.poll(deadline, || {
            let gone = self.gone()?;
            Ok(gone.is_empty() || self.take_out(&gone)?)
        })
        .and_then(|out| Ok(out && self.quiet(deadline)?))
    }

    /// Waits for the operation that runs now, if any.
    fn quiet(&self, deadline: Duration) -> Result<bool, CudaError> {
        let then = self.op()?;
        self.words.pause(SETTLED);
        self.poll(deadline, || {
            let done = self.done()?;
            Ok(done.op() > then || done.idle())
        })
    }

    fn poll(
        &self,
        deadline: Duration,
        mut reached: impl FnMut() -> Result<bool, CudaError>,
    ) -> Result<bool, CudaError> {
        while !reached()? {
            if self.words.now() >= deadline {
                return Ok(false);
            }
            self.words.pause(POLL);
        }
        Ok(true)
    }

    /// Ranks that are gone and that no operation has taken out yet.
    fn gone(&self) -> Result<Vec<Rank>, CudaError> {
        let mut gone = Vec::new();
        for rank in (0..self.settings.capacity).map(Rank) {
            let row = self.row(rank)?;
            if row.gone != 0 && row.active_until == NEVER {
                gone.push(rank);
            }
        }
        Ok(gone)
    }

    /// Takes these ranks out, if nothing runs.
    fn take_out(&self, gone: &[Rank]) -> Result<bool, CudaError> {
        if !self.done()?.idle() {
            return Ok(false);
        }
        let state = self.lock();
        let stopped = self.stop()?;
        let idle = stopped.idle();
        if idle {
            for rank in gone {
                self.put(self.check(*rank)? + offset_of!(Row, active_until), &[0])?;
            }
            self.words.pause(SETTLED);
        }
        // Whoever promised something goes on promising it.
        let limit = state.hold.map_or(NEVER, |hold| hold.limit);
        self.put(RUN_LIMIT, &[limit])?;
        Ok(idle)
    }

    /// From when this returns until `run_limit` is written again no thread block passes,
    /// and none is still reading the table, save those that passed before.
    fn stop(&self) -> Result<Done, CudaError> {
        self.put(RUN_LIMIT, &[0])?;
        self.words.pause(SETTLED);
        self.done()
    }

    /// Promises to begin no operation at or beyond the returned epoch, which lies `ahead`
    /// operations ahead or more, until [`DeviceControl::release`] or
    /// [`DeviceControl::admit`].
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn promise(&self, ahead: u64) -> Result<Epoch, CudaError> {
        let mut state = self.lock();
        Ok(Epoch(self.hold(&mut state, ahead)?.limit))
    }

    fn hold(&self, state: &mut State, ahead: u64) -> Result<Hold, CudaError> {
        let mut step = ahead.max(1);
        for _ in 0..TRIES {
            let since = self.words.now();
            let limit = state.count.next(self.op()?).saturating_add(step);
            self.put(RUN_LIMIT, &[limit])?;
            // Whatever passed before the limit was there had seen the end of the operation
            // before it, and so does this.
            if state.count.next(self.op()?) < limit {
                let hold = Hold {
                    limit,
                    since,
                    ahead,
                };
                state.hold = Some(hold);
                return Ok(hold);
            }
            step = step.saturating_mul(2);
        }
        self.let_go(state)?;
        Err(CudaError::NeverQuiet { tries: TRIES })
    }

    /// Whether kernels still keep to it, and will do so for a while.
    fn in_force(&self, hold: &Hold) -> Result<bool, CudaError> {
        let age = self.words.now().saturating_sub(hold.since);
        Ok(age < self.settings.decision_time_out / 2 && self.word(RUN_LIMIT)? == hold.limit)
    }

    /// Ends the promise.
    ///
    /// # Errors
    /// The memory cannot be reached.
    pub fn release(&self) -> Result<(), CudaError> {
        self.let_go(&mut self.lock())
    }

    fn let_go(&self, state: &mut State) -> Result<(), CudaError> {
        state.hold = None;
        self.put(RUN_LIMIT, &[NEVER])
    }

    fn check_masked(&self, ranks: &[(Rank, Incarnation)]) -> Result<(), CudaError> {
        for (rank, _) in ranks {
            if self.row(*rank)?.active_until == NEVER {
                return Err(CudaError::NotMasked { rank: *rank });
            }
        }
        Ok(())
    }

    /// Admits these ranks from epoch `from` on, or as soon after it as is still possible,
    /// and ends the promise. Only for ranks that are masked, after
    /// [`DeviceControl::quiesce`]. Returns the epoch.
    ///
    /// # Errors
    /// A rank is not masked, or the memory cannot be reached; the promise has ended then.
    pub fn admit(&self, ranks: &[(Rank, Incarnation)], from: Epoch) -> Result<Epoch, CudaError> {
        let mut state = self.lock();
        let admitted = self.admit_others(&mut state, ranks, from.0);
        let released = self.let_go(&mut state);
        let admitted = admitted?;
        released?;
        Ok(Epoch(admitted))
    }

    fn admit_others(
        &self,
        state: &mut State,
        ranks: &[(Rank, Incarnation)],
        from: u64,
    ) -> Result<u64, CudaError> {
        self.check_masked(ranks)?;
        for _ in 0..TRIES {
            let hold = match state.hold {
                Some(hold) if self.in_force(&hold)? => hold,
                Some(hold) => self.hold(state, hold.ahead)?,
                None => self.hold(state, 1)?,
            };
            let from = from.max(hold.limit);
            // The row says "not active" by its other end until no operation that runs can
            // have read the old beginning.
            for (rank, _) in ranks {
                self.put(self.check(*rank)? + offset_of!(Row, active_from), &[from])?;
            }
            self.words.pause(SETTLED);
            if !self.in_force(&hold)? {
                continue;
            }
            self.put_lives(ranks)?;
            self.words.pause(SETTLED);
            return Ok(from);
        }
        Err(CudaError::NeverQuiet { tries: TRIES })
    }

    /// The rest of the rows.
    fn put_lives(&self, ranks: &[(Rank, Incarnation)]) -> Result<(), CudaError> {
        for (rank, incarnation) in ranks {
            let row = self.check(*rank)?;
            // `gone` is the other half.
            self.put(
                row + offset_of!(Row, incarnation),
                &[u64::from(incarnation.0)],
            )?;
            self.put(row + offset_of!(Row, active_until), &[NEVER])?;
        }
        Ok(())
    }

    /// Has this rank come in among others at epoch `from`: with the next operation if
    /// nothing runs, else with the next round that has not begun. Until then it counts
    /// nobody. Only for ranks that are masked, after [`DeviceControl::quiesce`].
    ///
    /// # Errors
    /// A rank is not masked, or the memory cannot be reached.
    pub fn admit_self(&self, ranks: &[(Rank, Incarnation)], from: Epoch) -> Result<(), CudaError> {
        let mut state = self.lock();
        let admitted = self.enter(&mut state, ranks, from.0);
        let released = self.let_go(&mut state);
        admitted.and(released)
    }

    fn enter(
        &self,
        state: &mut State,
        ranks: &[(Rank, Incarnation)],
        from: u64,
    ) -> Result<(), CudaError> {
        self.check_masked(ranks)?;
        state.hold = None;
        for _ in 0..TRIES {
            let stop = Hold {
                limit: 0,
                since: self.words.now(),
                ahead: 0,
            };
            let done = self.stop()?;
            // Thread blocks of an operation that has begun may have passed.
            let first = done.op() + u64::from(!done.idle());
            let Some(switch_op) = first.checked_next_multiple_of(self.settings.round) else {
                break;
            };
            let count = Count {
                switch_op,
                // Operations before the switch are counted as they were. An earlier switch
                // that was not reached is none any more.
                base_before: state.count.epoch(done.op()).wrapping_sub(done.op()),
                base_after: from.wrapping_sub(switch_op),
            };
            // Before the rows: if the stop does not last long enough, nobody counts.
            self.put(HEAD + offset_of!(Head, attached_op), &[NEVER])?;
            for (rank, _) in ranks {
                self.put(self.check(*rank)? + offset_of!(Row, active_from), &[from])?;
            }
            self.put_lives(ranks)?;
            if !self.in_force(&stop)? {
                self.take_back(ranks)?;
                continue;
            }
            self.put(
                HEAD + offset_of!(Head, switch_op),
                &[
                    count.switch_op,
                    count.base_before,
                    count.base_after,
                    count.switch_op,
                ],
            )?;
            state.count = count;
            self.words.pause(SETTLED);
            return Ok(());
        }
        Err(CudaError::NeverQuiet { tries: TRIES })
    }

    fn take_back(&self, ranks: &[(Rank, Incarnation)]) -> Result<(), CudaError> {
        for (rank, _) in ranks {
            self.put(self.check(*rank)? + offset_of!(Row, active_until), &[0])?;
        }
        Ok(())
    }
}

impl<W: Words> Admission for DeviceControl<W> {
    fn capacity(&self) -> u32 {
        self.settings.capacity
    }

    fn counts(&self, rank: Rank, incarnation: Incarnation) -> Result<bool, Error> {
        Ok(self.counts(rank, incarnation)?)
    }

    fn losses(&self) -> Option<u64> {
        // Kernels write into the rows and count nothing.
        None
    }

    fn mask_now(&self, rank: Rank) -> Result<(), Error> {
        Ok(self.mask_now(rank)?)
    }

    fn quiesce(&self, limit: Duration) -> Result<bool, Error> {
        Ok(self.quiesce(limit)?)
    }

    fn promise(&self, ahead: u64) -> Result<Epoch, Error> {
        Ok(self.promise(ahead)?)
    }

    fn unshared(&self) -> Result<Epoch, Error> {
        Ok(self.unshared()?)
    }

    fn admit(
        &self,
        ranks: &[(Rank, Incarnation)],
        from: Epoch,
        own: bool,
    ) -> Result<Epoch, Refusal> {
        if own {
            self.admit_self(ranks, from)?;
            return Ok(from);
        }
        Ok(self.admit(ranks, from)?)
    }

    fn release(&self) -> Result<(), Error> {
        Ok(self.release()?)
    }
}
