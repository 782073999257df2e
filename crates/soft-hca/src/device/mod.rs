//! A device: its objects, and who has it open.

mod channel;
mod counter;
mod cq;
mod cqs;
mod event;
mod faults;
mod listener;
mod objects;
mod open;
mod qp;
mod state;
mod thread;

pub(crate) use channel::Channel;
pub(crate) use counter::eventfd_of;
pub(crate) use cq::{Cq, Health};
pub(crate) use cqs::{Cqs, Notice};
pub(crate) use event::{Events, Sink, has_event};
pub(crate) use faults::{Fate, FaultState};
pub(crate) use listener::{Event, Listener};
pub(crate) use objects::{ContextId, Mr, ObjectId, Pd, Span, Uar, Umem};
pub(crate) use open::Device;
pub(crate) use qp::{Landing, Qp, QpBuffers, RECEIVE, ReceiveQueue, Source};
pub(crate) use state::State;

/// What the device can do, at most.
pub(crate) mod limits {
    /// Objects of each kind, as a power of two.
    pub(crate) const LOG_OBJECTS: u32 = 17;
    /// Entries of a send or receive queue, as a power of two.
    pub(crate) const LOG_QUEUE: u32 = 15;
    /// Entries of a completion queue, as a power of two.
    pub(crate) const LOG_CQ: u32 = 22;
    /// Reads and atomics in flight, as a power of two.
    pub(crate) const LOG_READS: u32 = 4;
    /// Bytes of a message, as a power of two.
    pub(crate) const LOG_MESSAGE: u32 = 30;
    /// Bytes of a work queue entry.
    pub(crate) const WQE_BYTES: usize = 1024;
    /// Number of the event queue.
    pub(crate) const EQN: u32 = 11;
    /// Packets that one queue pair has in flight, at most.
    pub(crate) const WINDOW_PACKETS: u32 = 512;
    /// Bytes that one queue pair has in flight, at most.
    pub(crate) const WINDOW_BYTES: u32 = 1 << 20;
}
