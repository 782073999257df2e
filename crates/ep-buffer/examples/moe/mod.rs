//! A mixture-of-experts layer whose every result can be checked: any rank can
//! compute what any other brings to any step.

pub(crate) mod events;
pub(crate) mod layer;
pub(crate) mod model;
pub(crate) mod routing;
pub(crate) mod text;
pub(crate) mod verify;
pub(crate) mod workload;
