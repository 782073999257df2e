//! Connections that heal, members that come and go.
//!
//! The layer between raw mlx5 queues and the expert-parallel buffer. It owns
//! every verbs object, connects ranks to each other, learns who is alive and
//! agrees with the other ranks when a newcomer counts. The data path sees it as
//! a [`Fabric`]: a memory region that every peer has at the same layout, one-way
//! writes into a peer's region, and a [`Control`] block that says who takes part
//! in which operation.

pub mod control;
pub mod fabric;
pub mod ids;
pub mod region;
pub mod store;

pub use control::{Control, Participation};
pub use fabric::{Fabric, PeerFault};
pub use ids::{Epoch, Half, Incarnation, Rank, RankSet};
pub use region::{Region, RegionError};
