//! A software ConnectX.

mod abi;
mod cmd;
mod config;
mod device;
mod engine;
mod error;
mod mem;
mod net;
pub mod psn;
pub mod rc;
mod registry;
mod stats;
pub mod wire;

pub use abi::fn_table;
pub use cmd::Reason;
pub use config::{Config, ConfigError, Faults};
pub use error::Error;
pub use registry::{set_faults, stats};
pub use stats::{DropReason, Live, Stats};
