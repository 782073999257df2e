//! What a buffer is for: shapes, limits and time-outs, checked once.

use crate::layout::Layout;
use crate::placement::Placement;
use crate::rows::DispatchType;
use std::time::Duration;

/// Top-k entries that fit the `u32` bit mask of missing contributions.
pub const MAX_TOP_K: u32 = 32;

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number outside of its limits.
    #[error("{what} is {value}, allowed are {min} to {max}")]
    OutOfRange {
        /// The setting.
        what: &'static str,
        /// The value asked for.
        value: u64,
        /// The least value allowed.
        min: u64,
        /// The greatest value allowed.
        max: u64,
    },
    /// A number that must be a multiple of another.
    #[error("{what} is {value}, which is not a multiple of {multiple}")]
    NotMultiple {
        /// The setting.
        what: &'static str,
        /// The value asked for.
        value: u64,
        /// What it has to be a multiple of.
        multiple: u64,
    },
    /// More choices per token than there are experts.
    #[error("max_top_k is {max_top_k}, but there are only {experts} experts")]
    TopKBeyondExperts {
        /// The top-k asked for.
        max_top_k: u32,
        /// The number of experts.
        experts: u32,
    },
}

/// The checked configuration of an expert-parallel buffer. All ranks use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    capacity: u32,
    experts: u32,
    hidden: u32,
    max_tokens: u32,
    max_top_k: u32,
    lanes: u32,
    ops_per_round: u32,
    dispatch_type: DispatchType,
    time_out: Duration,
    decision_time_out: Duration,
}

impl Config {
    /// Starts a configuration for up to `capacity` ranks, `experts` experts in all,
    /// rows of `hidden` elements, and at most `max_tokens` tokens per rank and
    /// dispatch.
    pub fn builder(capacity: u32, experts: u32, hidden: u32, max_tokens: u32) -> ConfigBuilder {
        ConfigBuilder(Config {
            capacity,
            experts,
            hidden,
            max_tokens,
            max_top_k: experts.min(8),
            lanes: 2,
            ops_per_round: 2,
            dispatch_type: DispatchType::Bf16,
            time_out: Duration::from_secs(1),
            decision_time_out: Duration::from_secs(10),
        })
    }

    /// Ranks that the group can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Experts of the whole group.
    #[must_use]
    pub fn experts(&self) -> u32 {
        self.experts
    }

    /// Elements of a row.
    #[must_use]
    pub fn hidden(&self) -> u32 {
        self.hidden
    }

    /// Tokens that one rank may bring to one dispatch.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Experts that one token may choose.
    #[must_use]
    pub fn max_top_k(&self) -> u32 {
        self.max_top_k
    }

    /// Independent ordered channels to each peer.
    #[must_use]
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Operations after which all ranks are at the same point of the caller's loop
    /// (2 for one dispatch and one combine). The buffer does not use it; the group
    /// admits ranks only at multiples of it.
    #[must_use]
    pub fn ops_per_round(&self) -> u32 {
        self.ops_per_round
    }

    /// What rows are dispatched as.
    #[must_use]
    pub fn dispatch_type(&self) -> DispatchType {
        self.dispatch_type
    }

    /// How long an operation waits for a peer that shows no sign of life.
    #[must_use]
    pub fn time_out(&self) -> Duration {
        self.time_out
    }

    /// How long an operation waits at its beginning for the decision about an
    /// admission that the agent has promised to wait for.
    #[must_use]
    pub fn decision_time_out(&self) -> Duration {
        self.decision_time_out
    }

    /// Which rank owns which expert.
    #[must_use]
    pub fn placement(&self) -> Placement {
        Placement::new(self.capacity, self.experts)
    }

    /// Bytes of shared memory that one rank needs, whatever the number of experts.
    #[must_use]
    pub fn footprint(&self) -> u64 {
        Layout::new(self).bytes()
    }

    /// Rows that one local expert has room for: every token of every rank.
    #[must_use]
    pub fn rows_per_expert(&self) -> usize {
        self.capacity as usize * self.max_tokens as usize
    }

    /// Bytes of a row in a dispatch.
    pub(crate) fn dispatch_row_bytes(&self) -> u64 {
        self.dispatch_type.row_bytes(self.hidden)
    }

    /// Bytes of a partial sum in a combine, whatever rows are dispatched as.
    pub(crate) fn sum_bytes(&self) -> u64 {
        DispatchType::Bf16.row_bytes(self.hidden)
    }
}

/// Collects settings for a [`Config`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigBuilder(Config);

impl ConfigBuilder {
    /// Experts that one token may choose, 1 to 32. Default: 8, or the number of
    /// experts if that is less.
    pub fn max_top_k(mut self, max_top_k: u32) -> Self {
        self.0.max_top_k = max_top_k;
        self
    }

    /// Channels to each peer, 1 to 64. Default: 2.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.0.lanes = lanes;
        self
    }

    /// See [`Config::ops_per_round`]; 1 to 1,024. Default: 2.
    pub fn ops_per_round(mut self, ops: u32) -> Self {
        self.0.ops_per_round = ops;
        self
    }

    /// See [`Config::dispatch_type`]. In FP8 `hidden` has to be a multiple of 128. Results of
    /// experts and their sums are bf16 in any case. Default: bf16.
    pub fn dispatch_type(mut self, dispatch_type: DispatchType) -> Self {
        self.0.dispatch_type = dispatch_type;
        self
    }

    /// See [`Config::time_out`]; 100 us to 10 min. Default: 1 s.
    pub fn time_out(mut self, time_out: Duration) -> Self {
        self.0.time_out = time_out;
        self
    }

    /// See [`Config::decision_time_out`]; 0 to 10 min. Default: 10 s.
    pub fn decision_time_out(mut self, time_out: Duration) -> Self {
        self.0.decision_time_out = time_out;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The first setting that is outside of its limits, with value and limits.
    pub fn build(self) -> Result<Config, ConfigError> {
        const TEN_MINUTES: u64 = 600_000_000;
        let config = self.0;
        let micros = |t: Duration| u64::try_from(t.as_micros()).unwrap_or(u64::MAX);
        for (what, value, min, max) in [
            ("capacity", config.capacity.into(), 1, 1024),
            ("experts", config.experts.into(), 1, 65_536),
            ("hidden", config.hidden.into(), 8, 65_536),
            ("max_tokens", config.max_tokens.into(), 1, 65_536),
            ("max_top_k", config.max_top_k.into(), 1, MAX_TOP_K.into()),
            ("lanes", config.lanes.into(), 1, 64),
            ("ops_per_round", config.ops_per_round.into(), 1, 1024),
            (
                "time_out in microseconds",
                micros(config.time_out),
                100,
                TEN_MINUTES,
            ),
            (
                "decision_time_out in microseconds",
                micros(config.decision_time_out),
                0,
                TEN_MINUTES,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::OutOfRange {
                    what,
                    value,
                    min,
                    max,
                });
            }
        }
        let multiple = config.dispatch_type.multiple();
        if !config.hidden.is_multiple_of(multiple) {
            return Err(ConfigError::NotMultiple {
                what: config.dispatch_type.hidden_name(),
                value: config.hidden.into(),
                multiple: multiple.into(),
            });
        }
        if config.max_top_k > config.experts {
            return Err(ConfigError::TopKBeyondExperts {
                max_top_k: config.max_top_k,
                experts: config.experts,
            });
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footprint_depends_on_ranks_and_tokens_not_on_experts() {
        for experts in [8, 288, 65_536] {
            let config = Config::builder(4, experts, 7168, 128)
                .max_top_k(8)
                .build()
                .unwrap();
            assert!(
                config.footprint() <= 64 << 20,
                "{} bytes",
                config.footprint()
            );
        }
        let few = Config::builder(4, 8, 7168, 128).build().unwrap();
        let many = Config::builder(4, 288, 7168, 128).build().unwrap();
        assert_eq!(few.footprint(), many.footprint());
    }

    #[test]
    fn rows_in_fp8_make_no_buffer_larger_and_partial_sums_still_fit() {
        use crate::ScaleFormat::{F32, Ue8m0};
        let footprint = |hidden, top_k, rows| {
            let config = Config::builder(4, 288, hidden, 128).max_top_k(top_k);
            config.dispatch_type(rows).build().unwrap().footprint()
        };
        let bf16 = |hidden, top_k| footprint(hidden, top_k, DispatchType::Bf16);
        for rows in [DispatchType::Fp8(F32), DispatchType::Fp8(Ue8m0)] {
            // Partial sums in bf16 are what takes most, the choices of tokens are gone.
            let saved = bf16(7168, 8) - footprint(7168, 8, rows);
            assert_eq!(saved, 16 * 128 * crate::slot::meta_stride(8));
            // Of short rows with many choices a full dispatch takes most.
            assert!(footprint(128, 32, rows) < bf16(128, 32));
            assert!(footprint(128, 32, rows) > bf16(128, 32) - 16 * 128 * 128);
        }
    }

    #[test]
    fn every_refusal_names_value_and_limit() {
        let refused = |builder: ConfigBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            refused(Config::builder(0, 8, 64, 1)),
            "capacity is 0, allowed are 1 to 1024"
        );
        assert_eq!(
            refused(Config::builder(2, 8, 65_544, 1)),
            "hidden is 65544, allowed are 8 to 65536"
        );
        assert_eq!(
            refused(Config::builder(2, 8, 12, 1)),
            "hidden is 12, which is not a multiple of 8"
        );
        let fp8 = DispatchType::Fp8(crate::ScaleFormat::F32);
        assert_eq!(
            refused(Config::builder(2, 8, 264, 1).dispatch_type(fp8)),
            "hidden of rows in FP8 is 264, which is not a multiple of 128"
        );
        assert_eq!(
            refused(Config::builder(2, 64, 64, 1).max_top_k(33)),
            "max_top_k is 33, allowed are 1 to 32"
        );
        assert_eq!(
            refused(Config::builder(2, 4, 64, 1).max_top_k(5)),
            "max_top_k is 5, but there are only 4 experts"
        );
        assert_eq!(
            refused(Config::builder(2, 4, 64, 1).time_out(Duration::ZERO)),
            "time_out in microseconds is 0, allowed are 100 to 600000000"
        );
        for bad in [
            Config::builder(2, 0, 64, 1),
            Config::builder(2, 4, 64, 0),
            Config::builder(2, 4, 64, 1).lanes(0),
            Config::builder(2, 4, 64, 1).ops_per_round(0),
            Config::builder(2, 4, 64, 1).decision_time_out(Duration::MAX),
        ] {
            bad.build().unwrap_err();
        }
    }
}
