//! What the processes of the demo say on their standard output.
//!
//! One JSON object a line. All times are `CLOCK_MONOTONIC` microseconds, which all
//! processes of one machine share. Unknown fields and events are passed over, so
//! the example may say more than the demo needs.

use crate::gpu::timing::Timing;
use serde::Deserialize;
use std::collections::BTreeSet;

/// One line of a rank's process.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The process is part of the group's set-up.
    Ready {},
    /// One step of the layer: a dispatch, the experts, a combine, the check.
    Step(Step),
    /// A peer counts as dead.
    PeerLost {
        rank: u32,
        #[serde(default)]
        how: String,
        at_us: u64,
    },
    /// A peer, or this process itself, counts from `epoch` on.
    Admitted {
        #[serde(default)]
        attempt: u64,
        rank: u32,
        epoch: u64,
        at_us: u64,
    },
    /// An attempt to change the view has begun.
    UpdateBegun { attempt: u64, at_us: u64 },
    /// A peer's connections were made anew, in place.
    Update(Update),
    /// An attempt to take a rank in was given up; it is made again.
    UpdateDropped {
        #[serde(default)]
        attempt: u64,
        by: u32,
        why: String,
        #[serde(default)]
        at_us: u64,
    },
    /// Another process has taken this rank.
    Superseded {},
    /// The process has done all its steps.
    Summary {
        /// Objects of the software NIC that were left behind at the end.
        #[serde(default)]
        leaked_objects: Option<u64>,
    },
    /// Why the process ends with an error.
    Error { message: String },
    /// How fast a rank on a GPU was.
    Timing(Timing),
    /// Anything that the demo does not use.
    #[serde(other)]
    Other,
}

/// The outcome of one step on one rank.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: u64,
    /// The number of the step's first operation.
    pub(crate) epoch: u64,
    pub(crate) begin_us: u64,
    pub(crate) end_us: u64,
    /// Whether every value agreed with the reference.
    pub(crate) verified: bool,
    /// What was wrong, if something was.
    #[serde(default)]
    pub(crate) problem: Option<String>,
    pub(crate) rel_err: f64,
    /// Contributions (token, expert) that the step reported as missing...
    pub(crate) missing: u64,
    /// ... and how many the reference says are missing.
    pub(crate) missing_expected: u64,
    /// Ranks whose contributions are in.
    pub(crate) answered: Vec<u32>,
}

impl Step {
    /// Whose contributions are in.
    pub(crate) fn ranks(&self) -> BTreeSet<u32> {
        self.answered.iter().copied().collect()
    }
}

/// What taking a peer's new process in cost a survivor.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Update {
    pub(crate) peer: u32,
    /// Attempts that took these commands, dropped ones included.
    pub(crate) attempts: u64,
    pub(crate) commands: u64,
    pub(crate) qps_touched: u64,
    pub(crate) healthy_qps_touched: u64,
    pub(crate) addresses_changed: u64,
    pub(crate) connect_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_with_more_than_is_needed() -> Result<(), serde_json::Error> {
        let line = r#"{"event":"step","rank":1,"step":7,"epoch":14,"begin_us":10,"end_us":30,
            "verified":true,"rel_err":0.001,"missing":3,"missing_expected":3,"answered":[0,1]}"#;
        let Event::Step(step) = serde_json::from_str(line)? else {
            panic!("not a step");
        };
        assert_eq!((step.step, step.epoch, step.missing), (7, 14, 3));
        assert_eq!(step.answered, [0, 1]);
        let ready = r#"{"event":"ready","rank":1,"incarnation":1,"pid":5}"#;
        assert_eq!(serde_json::from_str::<Event>(ready)?, Event::Ready {});
        let later = r#"{"event":"something_new","x":1}"#;
        assert_eq!(serde_json::from_str::<Event>(later)?, Event::Other);
        assert!(serde_json::from_str::<Event>(r#"{"event":"step","step":1}"#).is_err());
        Ok(())
    }
}
