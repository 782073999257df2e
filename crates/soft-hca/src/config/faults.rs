//! Faults made on purpose.

use std::time::Duration;

use super::env::Env;
use super::{ConfigError, Outage};

/// Faults made on purpose. Probabilities are between 0 and 1 and count for each
/// datagram that a device sends.
#[derive(Copy, Clone, Debug, PartialEq, Default)]
pub struct Faults {
    /// Probability that it is lost.
    pub loss: f64,
    /// Probability that it is sent twice.
    pub duplicate: f64,
    /// Probability that one of its bits is flipped.
    pub corrupt: f64,
    /// Probability that it is held back until later ones have overtaken it, up
    /// to half a millisecond.
    pub reorder: f64,
    /// How long each is under way.
    pub delay: Duration,
    /// Seed of all that happens by chance.
    pub seed: u64,
    /// When the device neither sends nor looks at what it receives, and takes
    /// no work from its queues, counted from when the faults were set or, if
    /// it is opened later, from then.
    pub frozen: Option<Outage>,
    /// When the link is down, counted likewise. Beyond these changes the link
    /// stays as [`crate::set_link`] has it.
    pub link_down: Option<Outage>,
    /// The command with this number, from 0, fails; counted from when the
    /// faults were set.
    pub fail_command: Option<u64>,
}

impl Faults {
    pub(super) fn read(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            loss: env.probability("SOFT_HCA_LOSS")?,
            duplicate: env.probability("SOFT_HCA_DUPLICATE")?,
            corrupt: env.probability("SOFT_HCA_CORRUPT")?,
            reorder: env.probability("SOFT_HCA_REORDER")?,
            delay: Duration::from_micros(env.number("SOFT_HCA_DELAY_US")?.unwrap_or(0)),
            seed: env.number("SOFT_HCA_SEED")?.unwrap_or(0),
            frozen: env.outage("SOFT_HCA_FREEZE_MS")?,
            link_down: env.outage("SOFT_HCA_LINK_DOWN_MS")?,
            fail_command: env.number("SOFT_HCA_FAIL_COMMAND")?,
        })
    }
}
