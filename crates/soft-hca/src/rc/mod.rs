//! The reliable connected transport as plain data: packets and time go in,
//! packets and completions come out. No sockets, clocks, threads or pointers.
//!
//! One queue pair is a [`Requester`] (its send queue) and a [`Responder`] (what
//! the peer asks of it). InfiniBand Architecture specification, volume 1,
//! chapter 9.7.

mod answer;
mod queue;
mod requester;
mod responder;
mod segment;
mod target;

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod sim;

pub use mlx5gda_sys::wqe::AtomicOp;

pub use answer::{ReadSource, Reply};
pub use queue::{Op, WorkRequest};
pub use requester::{Completion, Requester, RequesterConfig};
pub use responder::{Responder, ResponderConfig};
pub use segment::TxPacket;
pub use target::{Access, Fault, MessageEnd, Target};

/// How a work request ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done.
    Success,
    /// The work request is malformed or not allowed on this queue pair.
    LocalOperation,
    /// The message is longer than the queue pair allows.
    LocalLength,
    /// A local address is not covered by its key.
    LocalProtection,
    /// The answer does not fit the request.
    BadResponse,
    /// The responder refused the request as invalid.
    RemoteInvalidRequest,
    /// The responder refused access.
    RemoteAccess,
    /// The responder failed.
    RemoteOperation,
    /// No answer within the time-out and all retries.
    RetryExceeded,
    /// The responder had no receive buffer, through all retries.
    RnrRetryExceeded,
    /// Queued behind one that failed, or posted after that.
    Flushed,
}
