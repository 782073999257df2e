//! A software ConnectX.

pub mod psn;
pub mod rc;
pub mod wire;
