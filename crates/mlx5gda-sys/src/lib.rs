//! Raw mlx5: the layouts a ConnectX reads and writes, and the C functions that reach it.
//!
//! Nothing here decides anything: no policy, no ownership, no allocation. The modules are
//!
//! * [`be`]: big-endian integers, the byte order of everything the device touches;
//! * [`wqe`], [`cqe`], [`eqe`], [`doorbell`]: work queue entries with a builder and a parser,
//!   completion and event queue entries, doorbell records and the doorbell page;
//! * [`prm`]: command mailboxes, their contexts and codes;
//! * [`ffi`], [`table`]: the C types, and the C functions looked up at run time, never linked.

pub mod be;
pub mod cqe;
pub mod doorbell;
pub mod eqe;
pub mod ffi;
pub mod prm;
pub mod table;
pub mod wqe;
