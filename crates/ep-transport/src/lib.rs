//! Connections that heal, members that come and go.
//!
//! The layer between raw mlx5 queues and the expert-parallel buffer. It owns
//! every verbs object, connects ranks to each other, learns who is alive and
//! agrees with the other ranks when a newcomer counts. The data path sees it as
//! a [`Fabric`]: a memory region that every peer has at the same layout, one-way
//! writes into a peer's region, and a [`Control`] block that says who takes part
//! in which operation. [`Group`] is one rank's end of all that.

mod clock;
mod config;
pub mod control;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod events;
pub mod fabric;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
pub mod ids;
mod links;
mod member;
mod pci;
pub mod region;
mod secret;
pub mod store;
#[doc(hidden)]
pub mod typestate;
mod verbs;
mod window;

pub use config::{GidChoice, GroupConfig, Nic, NicConfig, Path};
pub use control::{Control, Participation};
pub use error::Error;
pub use events::{LossKind, MemberEvent, monotonic_us};
pub use fabric::{Fabric, PeerFault};
pub use group::{Group, Snapshot};
pub use ids::{Epoch, Half, Incarnation, Rank, RankSet};
pub use links::QueuePairReport;
pub use member::connection::ConnectionState;
pub use member::records::{RECORD_VERSION, RecordError};
pub use pci::PciAddress;
pub use region::{Region, RegionError};
pub use secret::Secret;
pub use verbs::{GpuMemory, GpuRange, VerbsError};
