//! A software ConnectX: RDMA for machines that have none.
//!
//! To its clients it is libibverbs and libmlx5, as far as devx clients call
//! them: [`fn_table`] hands out the same C functions, and what goes through them
//! is what a ConnectX understands. Commands are mailboxes of the device's
//! reference manual, work is posted by writing entries, doorbell records and
//! doorbell registers, and completions appear in memory. To its peers it is an
//! RoCE v2 port: reliable connections over UDP, with everything on the wire
//! that the specification wants there.
//!
//! ```text
//! abi      C functions; pointers in, pointers checked
//! cmd      mailboxes: parsed, validated, answered with status and syndrome
//! device   objects behind one lock; who has the device open
//! engine   one thread per open device: doorbells, WQEs, packets, CQEs
//! rc       the reliable connected transport as plain data
//! wire     packets, invariant CRC
//! mem      the clients' memory; with abi, where the unsafe code is
//! net      UDP sockets
//! ```
//!
//! Each device has one port with one IPv4 or IPv6 address, on loopback or not;
//! several ranks on a machine are several addresses. Loopback has 127.0.0.0/8
//! for that, and of IPv6 only `::1`, unless somebody gives it more: `ip -6 route
//! add local fd00:4791::/64 dev lo`. A port is RoCE v2 or InfiniBand, see
//! [`LinkLayer`]. A configuration says all this, or the environment does, see
//! [`Config::from_env`].
//!
//! Who wants to know what is on the wire asks `tracing` for the target
//! `soft_hca::packets` at level `TRACE`: an event for each datagram sent, in
//! order, with its headers as fields.

mod abi;
mod cmd;
mod config;
mod device;
mod engine;
mod error;
mod mem;
mod net;
mod process;
pub mod psn;
pub mod rc;
mod registry;
mod stats;
pub mod wire;

pub use abi::fn_table;
pub use cmd::Reason;
pub use config::{Config, ConfigError, Faults, Lids, LinkLayer, Outage};
pub use error::Error;
pub use registry::{set_faults, set_link, stats};
pub use stats::{DropReason, Live, Stats};
