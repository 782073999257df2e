//! Raw mlx5: the layouts a ConnectX reads and writes, and the C functions that reach it.
//!
//! Nothing here decides anything: no policy, no ownership, no allocation. The modules are
//!
//! * [`be`]: big-endian integers, the byte order of everything the device touches;
//! * [`wqe`], [`cqe`], [`doorbell`]: work queue entries with a builder and a parser, completion
//!   queue entries, doorbell records and the doorbell page;
//! * [`prm`]: command mailboxes, their contexts and codes.

pub mod be;
pub mod cqe;
pub mod doorbell;
pub mod prm;
pub mod wqe;
