//! Completion queues.

use mlx5gda_sys::cqe::Cqe64;
use mlx5gda_sys::prm::Cqc;
use zerocopy::transmute;

use super::{ContextId, Span};

/// A completion queue.
#[derive(Debug)]
pub(crate) struct Cq {
    pub(crate) owner: ContextId,
    /// As it was created.
    pub(crate) cqc: Cqc,
    pub(crate) ring: Span,
    pub(crate) doorbell: Span,
    /// Completions written so far.
    pub(crate) produced: u32,
    /// A completion was lost because the ring was full.
    pub(crate) overrun: bool,
    /// Queue pairs that complete here.
    pub(crate) users: u32,
}

impl Cq {
    /// Completions consumed so far, low 24 bits, by the doorbell record.
    pub(crate) fn consumed(&self) -> u32 {
        let counter = self.doorbell.region.load_be32(self.doorbell.offset);
        counter.unwrap_or(0) & 0x00ff_ffff
    }

    /// Writes a completion, made for the owner bit given. `false` if the ring
    /// is full, which ends the queue.
    ///
    /// A collapsed queue has every completion in entry 0.
    pub(crate) fn push(&mut self, make: impl FnOnce(bool) -> Cqe64) -> bool {
        let log = self.cqc.log_cq_size();
        let waiting = self.produced.wrapping_sub(self.consumed()) & 0x00ff_ffff;
        if self.overrun || (!self.cqc.oi() && waiting >= 1 << log) {
            self.overrun = true;
            return false;
        }
        let owner = self.produced >> log & 1 != 0;
        let entry = if self.cqc.cc() {
            0
        } else {
            u64::from(self.produced & ((1 << log) - 1))
        };
        let bytes: [u8; 64] = transmute!(make(owner));
        let written = self
            .ring
            .region
            .write_cqe(self.ring.offset + entry * 64, &bytes);
        self.produced = self.produced.wrapping_add(1);
        written
    }
}
