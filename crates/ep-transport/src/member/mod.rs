//! Who is in the group, and how that changes.
//!
//! [`records`] is what ranks publish at the rendezvous, [`protocol`] decides what
//! to do next from what was published (data in, data out), and the agent carries
//! it out in the background while operations run.

pub(crate) mod agent;
pub(crate) mod connection;
pub(crate) mod keys;
pub(crate) mod membership;
pub(crate) mod presence;
pub(crate) mod protocol;
pub(crate) mod records;
pub(crate) mod status;
