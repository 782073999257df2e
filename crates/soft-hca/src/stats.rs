//! Counters, for tests and for the curious.

use std::collections::BTreeMap;

use mlx5gda_sys::prm::CmdOpcode;

/// Why a datagram was not acted upon.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Not an RC packet.
    Malformed,
    /// Wrong invariant CRC.
    Icrc,
    /// Of another partition.
    Partition,
    /// No such queue pair.
    UnknownQp,
    /// The queue pair is not in a state to receive it.
    QpState,
    /// It does not come from the queue pair's peer.
    WrongSource,
    /// Lost on purpose.
    Injected,
    /// The socket did not take it.
    Send,
}

/// Live objects.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Protection domains.
    pub pds: usize,
    /// Transport domains.
    pub transport_domains: usize,
    /// Memory regions, and memory keys made by command.
    pub mrs: usize,
    /// User memories (devx umem).
    pub umems: usize,
    /// Doorbell pages.
    pub uars: usize,
    /// Completion queues.
    pub cqs: usize,
    /// Queue pairs.
    pub qps: usize,
}

impl Live {
    /// All of them together.
    pub const fn total(&self) -> usize {
        self.pds + self.transport_domains + self.mrs + self.umems + self.uars + self.cqs + self.qps
    }
}

/// A device's counters, from when it was made or picked for somebody new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands executed, refused ones included.
    pub commands: BTreeMap<CmdOpcode, u64>,
    /// Commands refused.
    pub refused: u64,
    /// Datagrams received.
    pub packets_in: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// Payload bytes sent, headers not counted.
    pub payload_out: u64,
    /// Request packets sent again.
    pub retransmits: u64,
    /// Requests that had been executed already.
    pub duplicates: u64,
    /// Requests that came before their turn.
    pub out_of_order: u64,
    /// Work requests fetched from send queues.
    pub work_requests: u64,
    /// Completions written.
    pub completions: u64,
    /// Completions lost because a completion queue was full.
    pub cq_overruns: u64,
    /// Datagrams dropped.
    pub drops: BTreeMap<DropReason, u64>,
    /// Objects alive now.
    pub live: Live,
    /// Objects that were alive when their context was closed.
    pub leaked: u64,
}

impl Stats {
    pub(crate) fn drop_packet(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(crate) fn drop_packets(&mut self, reason: DropReason, count: u64) {
        if count > 0 {
            *self.drops.entry(reason).or_default() += count;
        }
    }

    /// Commands executed in all.
    pub fn total_commands(&self) -> u64 {
        self.commands.values().sum()
    }
}
