//! What a buffer counts.

use std::time::Duration;

/// What was handed to the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of slots; signals are not counted.
    pub bytes: u64,
    /// Writes and signals.
    pub messages: u64,
}

/// Counters of one buffer. Health at a glance: a rank that others always wait for
/// shows in [`EpStats::wait`], an overloaded expert in [`EpStats::tokens_per_expert`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EpStats {
    /// Operations ended.
    pub operations: u64,
    /// What the last operation sent.
    pub last: Traffic,
    /// What all operations sent.
    pub total: Traffic,
    /// By source rank, how long the last operation waited for it after everything
    /// had been posted.
    pub last_wait: Vec<Duration>,
    /// By source rank, the sum of these waits.
    pub wait: Vec<Duration>,
    /// By local expert, tokens received.
    pub tokens_per_expert: Vec<u64>,
    /// Peers masked by operations.
    pub losses: u64,
    /// Times that this rank told others that it waits for somebody.
    pub stall_reports: u64,
}

impl EpStats {
    pub(crate) fn new(capacity: usize, local_experts: usize) -> Self {
        Self {
            operations: 0,
            last: Traffic::default(),
            total: Traffic::default(),
            last_wait: vec![Duration::ZERO; capacity],
            wait: vec![Duration::ZERO; capacity],
            tokens_per_expert: vec![0; local_experts],
            losses: 0,
            stall_reports: 0,
        }
    }

    pub(crate) fn begin(&mut self) {
        self.last = Traffic::default();
        self.last_wait.fill(Duration::ZERO);
    }

    pub(crate) fn end(&mut self) {
        self.operations += 1;
        self.total.bytes += self.last.bytes;
        self.total.messages += self.last.messages;
        for (sum, last) in self.wait.iter_mut().zip(&self.last_wait) {
            *sum += *last;
        }
    }
}
