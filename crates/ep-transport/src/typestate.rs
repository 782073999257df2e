//! What the tests name that show which calls of a queue pair compile in which state
//! (`verbs::qp::state`). Outside of this crate nobody can have one.

pub use crate::verbs::{
    Init, PathSettings, QueuePair, ReadyToReceive, ReadyToSend, RemoteEnd, Reset, Target,
};
