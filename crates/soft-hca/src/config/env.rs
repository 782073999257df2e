//! Values of environment variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
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

/// What the names of all settings begin with.
const PREFIX: &str = "SOFT_HCA_";

/// The settings that there are, without [`PREFIX`].
pub(super) const NAMES: [&str; 15] = [
    "ADDRS",
    "BATCH",
    "CORRUPT",
    "DELAY_US",
    "DEVICES",
    "DUPLICATE",
    "FAIL_COMMAND",
    "FREEZE_MS",
    "LIDS",
    "LINK_DOWN_MS",
    "LINK_LAYER",
    "LOSS",
    "MTU",
    "REORDER",
    "SEED",
];

/// The settings in an environment, by name; those that are empty are not set.
pub(super) struct Env(BTreeMap<String, String>);

impl Env {
    /// Picks the settings from all variables. What is no valid text is set to
    /// something that no setting can be.
    pub(super) fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let text = |(name, value): (OsString, OsString)| {
            let name = name.to_string_lossy().into_owned();
            (name, value.to_string_lossy().into_owned())
        };
        let ours = |(name, value): &(String, String)| name.starts_with(PREFIX) && !value.is_empty();
        let found: BTreeMap<_, _> = variables.into_iter().map(text).filter(ours).collect();
        let known = |name: &&String| NAMES.contains(&&name[PREFIX.len()..]);
        match found.keys().find(|name| !known(name)) {
            Some(name) => Err(ConfigError::Unknown { name: name.clone() }),
            None => Ok(Self(found)),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        debug_assert!(NAMES.contains(&&name[PREFIX.len()..]), "{name}");
        self.0.get(name).cloned()
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
