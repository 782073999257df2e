//! A completion queue.

use mlx5gda_sys::cqe::{Cqe64, CqeOpcode, CqeOrigin};
use mlx5gda_sys::eqe::Eqe;
use mlx5gda_sys::prm::Cqc;
use zerocopy::transmute;

use super::{ContextId, Span};

/// Counters of completions have 24 bits.
pub(super) const COUNTER: u32 = 0x00ff_ffff;
/// Place of the arming word in the doorbell record.
const ARM: u64 = 4;
/// Bit of the arming word: solicited completions and errors only.
const SOLICITED_ONLY: u32 = 1 << 24;

/// When a completion is an event.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Arming {
    /// Nobody has asked yet.
    Never,
    /// At the next one.
    Next,
    /// At the next one that is solicited, or an error.
    Solicited,
    /// It was one; it has to be asked for again.
    Fired,
}

impl Arming {
    /// `cqc.st`.
    const fn code(self) -> u32 {
        match self {
            Self::Never => 0,
            Self::Solicited => 6,
            Self::Next => 9,
            Self::Fired => 10,
        }
    }
}

/// How a queue is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// A completion was lost because the ring was full.
    Overflow,
    /// The ring could not be written, or the doorbell record not read.
    Inaccessible,
}

impl Health {
    /// `cqc.status`.
    const fn code(self) -> u32 {
        match self {
            Self::Good => 0,
            Self::Overflow => 9,
            Self::Inaccessible => 10,
        }
    }

    /// Syndrome of the event; `None` if there is nothing to tell.
    pub(crate) const fn syndrome(self) -> Option<u8> {
        match self {
            Self::Good => None,
            Self::Overflow => Some(Eqe::CQ_OVERRUN),
            Self::Inaccessible => Some(Eqe::CQ_ACCESS),
        }
    }
}

/// What became of a completion.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Written, and nobody waits for it.
    Quietly,
    /// Written, and the queue was armed for it.
    Event,
    /// Lost: the queue is in error from now on.
    Broken,
    /// Lost: the queue was in error before.
    Lost,
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) owner: ContextId,
    /// As it was created and modified.
    pub(crate) cqc: Cqc,
    pub(crate) ring: Span,
    pub(crate) doorbell: Span,
    pub(crate) health: Health,
    /// Queue pairs that complete here.
    pub(crate) users: u32,
    pub(super) arming: Arming,
    /// The arming word when it was looked at last.
    pub(super) arm_seen: u32,
    /// Completions written so far.
    produced: u32,
    /// Completions written when the last solicited one was.
    solicited: u32,
    /// Completions written when the last event was.
    notified: u32,
}

impl Cq {
    pub(crate) fn new(owner: ContextId, cqc: Cqc, ring: Span, doorbell: Span) -> Self {
        let mut cq = Self {
            owner,
            cqc,
            ring,
            doorbell,
            health: Health::Good,
            users: 0,
            arming: Arming::Never,
            arm_seen: 0,
            produced: 0,
            solicited: 0,
            notified: 0,
        };
        cq.arm_seen = cq.arm_word().unwrap_or(0);
        cq
    }

    /// Completions consumed so far, low 24 bits, by the doorbell record if that
    /// is there.
    fn consumed(&self) -> Option<u32> {
        let counter = self.doorbell.region.load_be32(self.doorbell.offset)?;
        Some(counter & COUNTER)
    }

    /// Completions that were not consumed yet, if the doorbell record is there.
    pub(crate) fn waiting(&self) -> Option<u32> {
        Some(self.produced.wrapping_sub(self.consumed()?) & COUNTER)
    }

    /// The arming word of the doorbell record, if that is there.
    pub(super) fn arm_word(&self) -> Option<u32> {
        self.doorbell.region.load_be32(self.doorbell.offset + ARM)
    }

    /// The context as a query shows it.
    pub(crate) fn context(&self) -> Cqc {
        let mut cqc = self.cqc;
        let fits = [
            cqc.set_producer_counter(self.produced & COUNTER),
            cqc.set_consumer_counter(self.consumed().unwrap_or(0)),
            cqc.set_status(self.health.code()),
            cqc.set_st(self.arming.code()),
            cqc.set_last_solicit_index(self.solicited & COUNTER),
            cqc.set_last_notified_index(self.notified & COUNTER),
        ];
        debug_assert!(fits.iter().all(Result::is_ok));
        cqc
    }

    /// Writes a completion, made for the owner bit given.
    pub(super) fn push(&mut self, solicited: bool, make: impl FnOnce(bool) -> Cqe64) -> Pushed {
        if let Err(lost) = self.write(make) {
            return lost;
        }
        if solicited {
            self.solicited = self.produced;
        }
        match self.arming {
            Arming::Next => self.fire(),
            Arming::Solicited if solicited => self.fire(),
            _ => Pushed::Quietly,
        }
    }

    /// Writes an entry, made for the owner bit given; says how it was lost.
    ///
    /// A collapsed queue has every completion in entry 0.
    fn write(&mut self, make: impl FnOnce(bool) -> Cqe64) -> Result<(), Pushed> {
        if self.health != Health::Good {
            return Err(Pushed::Lost);
        }
        let log = self.cqc.log_cq_size();
        if !self.cqc.oi() {
            match self.waiting() {
                Some(waiting) if waiting < 1 << log => {}
                Some(_) => return Err(self.fail(Health::Overflow)),
                None => return Err(self.fail(Health::Inaccessible)),
            }
        }
        let owner = self.produced >> log & 1 != 0;
        let entry = if self.cqc.cc() {
            0
        } else {
            u64::from(self.produced & ((1 << log) - 1))
        };
        let bytes: [u8; 64] = transmute!(make(owner));
        if !self
            .ring
            .region
            .write_cqe(self.ring.offset + entry * 64, &bytes)
        {
            return Err(self.fail(Health::Inaccessible));
        }
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }

    const fn fail(&mut self, health: Health) -> Pushed {
        self.health = health;
        Pushed::Broken
    }

    fn fire(&mut self) -> Pushed {
        self.arming = Arming::Fired;
        self.notified = self.produced;
        Pushed::Event
    }

    /// Acts on the arming word; whether there is an event at once, because of
    /// completions that came after those that its writer has seen.
    pub(super) fn arm(&mut self, word: u32) -> bool {
        self.arm_seen = word;
        let seen = word & COUNTER;
        let (arming, newest) = if word & SOLICITED_ONLY != 0 {
            (Arming::Solicited, self.solicited)
        } else {
            (Arming::Next, self.produced)
        };
        self.arming = arming;
        let unseen = newest.wrapping_sub(seen) & COUNTER;
        // More than half of all counter values ahead is behind.
        let late = unseen > 0 && unseen <= COUNTER / 2;
        late && self.fire() == Pushed::Event
    }

    /// Has completions go to another ring of `2^log` entries. The old ring ends
    /// with an entry that says so. That is no completion of any work, so the
    /// queue stays armed as it is. If the entry cannot be written, the old ring
    /// stays.
    pub(super) fn resize(&mut self, log: u32, ring: Span) -> Result<(), Pushed> {
        self.write(|owner| {
            let origin = CqeOrigin {
                qpn: 0,
                wqe_counter: 0,
                owner,
            };
            Cqe64::responder(origin, CqeOpcode::Resize, 0, None, 0)
        })?;
        let fits = self.cqc.set_log_cq_size(log);
        debug_assert!(fits.is_ok());
        self.ring = ring;
        Ok(())
    }
}
