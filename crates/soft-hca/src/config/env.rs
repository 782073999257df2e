//! Values of environment variables.

use std::net::IpAddr;
use std::time::Duration;

use super::ConfigError;

/// A stretch of time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it begins.
    pub from: Duration,
    /// When it is over.
    pub until: Duration,
}

impl Outage {
    /// From the beginning, and for good.
    pub const FOREVER: Self = Self {
        from: Duration::ZERO,
        until: Duration::MAX,
    };

    /// Whether it is on when this much time has passed.
    pub fn covers(&self, passed: Duration) -> bool {
        (self.from..self.until).contains(&passed)
    }

    /// Reads `FROM..UNTIL` or `FROM..`, in milliseconds.
    fn parse(text: &str) -> Option<Self> {
        let (from, until) = text.trim().split_once("..")?;
        let millis = |text: &str| text.trim().parse().ok().map(Duration::from_millis);
        let from = millis(from)?;
        let until = if until.trim().is_empty() {
            Duration::MAX
        } else {
            millis(until)?
        };
        (from < until).then_some(Self { from, until })
    }
}

/// Looks variables up.
pub(super) struct Env<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Env<'_> {
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, ConfigError> {
        self.text(name)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|source| ConfigError::Number { name, text, source })
            })
            .transpose()
    }

    pub(super) fn probability(&self, name: &'static str) -> Result<f64, ConfigError> {
        let Some(text) = self.text(name) else {
            return Ok(0.0);
        };
        match text.trim().parse::<f64>() {
            Ok(probability) if (0.0..=1.0).contains(&probability) => Ok(probability),
            Ok(_) => Err(ConfigError::ProbabilityRange { name, text }),
            Err(source) => Err(ConfigError::Probability { name, text, source }),
        }
    }

    pub(super) fn outage(&self, name: &'static str) -> Result<Option<Outage>, ConfigError> {
        self.text(name)
            .map(|text| Outage::parse(&text).ok_or(ConfigError::Outage { name, text }))
            .transpose()
    }
}

/// Reads an address.
pub(super) fn address(name: &'static str, text: &str) -> Result<IpAddr, ConfigError> {
    text.trim().parse().map_err(|source| ConfigError::Address {
        name,
        text: text.to_owned(),
        source,
    })
}
