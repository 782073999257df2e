//! What a rank's process says, one JSON object a line.

use serde::Serialize;

/// One line. Times are microseconds of `CLOCK_MONOTONIC`, which all processes of a
/// machine share.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The process is set up.
    Ready {
        rank: u32,
        incarnation: u32,
        pid: u32,
    },
    /// One step: a dispatch, the experts, a combine, the check of everything.
    Step(Step),
    /// A peer was masked.
    PeerLost {
        rank: u32,
        incarnation: u32,
        how: String,
        at_us: u64,
    },
    /// A rank counts from an epoch on: a peer, or this rank itself.
    Admitted {
        attempt: u64,
        rank: u32,
        incarnation: u32,
        epoch: u64,
        at_us: u64,
    },
    /// An attempt to change the view has begun.
    UpdateBegun { attempt: u64, at_us: u64 },
    /// What connecting to a peer's new life took.
    Update {
        peer: u32,
        /// Attempts that these commands were spent on; all but one were dropped.
        attempts: u64,
        /// Commands to the NIC for the queue pairs of this peer.
        commands: u64,
        /// Commands to the NIC for whatever reason.
        commands_in_all: u64,
        qps_touched: u64,
        /// Queue pairs to peers that did not change.
        healthy_qps_touched: u64,
        /// Addresses that a captured graph could hold.
        addresses_changed: u64,
        connect_us: u64,
    },
    /// An attempt to admit a rank was given up.
    UpdateDropped {
        attempt: u64,
        by: u32,
        why: String,
        at_us: u64,
    },
    /// Another process has taken this rank.
    Superseded { incarnation: u32, at_us: u64 },
    /// All steps are done.
    Summary(Summary),
    /// The process ends with this.
    Error { message: String },
}

/// The outcome of a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) rank: u32,
    pub(crate) step: u64,
    /// Number of the step's first operation.
    pub(crate) epoch: u64,
    pub(crate) begin_us: u64,
    /// After the combine, before the check.
    pub(crate) end_us: u64,
    pub(crate) verified: bool,
    /// What was wrong, if something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    pub(crate) rel_err: f64,
    pub(crate) missing: u64,
    pub(crate) missing_expected: u64,
    /// Ranks whose contributions are in the results.
    pub(crate) answered: Vec<u32>,
    pub(crate) dispatch_us: u64,
    pub(crate) combine_us: u64,
}

/// All steps of a process.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) rank: u32,
    pub(crate) steps: u64,
    pub(crate) verified_steps: u64,
    pub(crate) missing: u64,
    pub(crate) max_rel_err: f64,
    pub(crate) bytes_sent: u64,
    pub(crate) messages_sent: u64,
    /// By rank, how long this one waited for it, in microseconds.
    pub(crate) waited_us: Vec<u64>,
    /// Objects of the software NIC that were left behind at the end.
    pub(crate) leaked_objects: Option<u64>,
}

pub(crate) use ep_transport::monotonic_us as now_us;
