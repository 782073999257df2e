//! What a group needs to know of the buffer that is to be on it.

use crate::config::Config;
use ep_transport::{GroupConfig, Rank};
use std::time::Duration;

/// An attempt to change the view takes no longer, unless an operation waits less.
const UPDATE_TIME_OUT: Duration = Duration::from_secs(5);

impl Config {
    /// The settings of a group for a buffer of this configuration: as many ranks and lanes,
    /// admissions between two rounds, attempts to change the view that end before an
    /// operation gives up waiting for their decision. Ranks whose buffers have other shapes
    /// or dispatch other rows are refused. The caller may change what is left.
    #[must_use]
    pub fn group(&self, rank: Rank) -> GroupConfig {
        let half = (self.decision_time_out() / 2).max(Duration::from_millis(1));
        GroupConfig {
            lanes: self.lanes(),
            ops_per_round: self.ops_per_round().into(),
            update_time_out: UPDATE_TIME_OUT.min(half),
            common: format!(
                "experts={} hidden={} max_tokens={} max_top_k={} rows={}",
                self.experts(),
                self.hidden(),
                self.max_tokens(),
                self.max_top_k(),
                self.dispatch_type()
            ),
            ..GroupConfig::new(rank, self.capacity())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fp8::ScaleFormat;
    use crate::rows::DispatchType;

    #[test]
    fn buffers_of_other_shapes_do_not_have_the_same_group() {
        let common = |experts, hidden, tokens, top_k| {
            let config = Config::builder(2, experts, hidden, tokens).max_top_k(top_k);
            config.build().unwrap().group(Rank(0)).common
        };
        let ours = common(8, 64, 16, 4);
        assert_eq!(ours, common(8, 64, 16, 4));
        for theirs in [
            common(16, 64, 16, 4),
            common(8, 128, 16, 4),
            common(8, 64, 32, 4),
            common(8, 64, 16, 2),
        ] {
            assert_ne!(ours, theirs);
        }
    }

    #[test]
    fn buffers_that_dispatch_other_rows_do_not_have_the_same_group() {
        let types = [
            DispatchType::Bf16,
            DispatchType::Fp8(ScaleFormat::F32),
            DispatchType::Fp8(ScaleFormat::Ue8m0),
        ];
        let common = |rows| {
            let config = Config::builder(2, 8, 256, 16).dispatch_type(rows);
            config.build().unwrap().group(Rank(0)).common
        };
        for (i, ours) in types.into_iter().enumerate() {
            for (j, theirs) in types.into_iter().enumerate() {
                assert_eq!(i == j, common(ours) == common(theirs), "{ours}, {theirs}");
            }
        }
    }

    #[test]
    fn a_decision_comes_before_operations_stop_waiting_for_it() {
        for seconds in [0, 1, 4, 600] {
            let config = Config::builder(3, 8, 64, 16)
                .lanes(3)
                .ops_per_round(20)
                .decision_time_out(Duration::from_secs(seconds))
                .build()
                .unwrap();
            let group = config.group(Rank(2));
            assert!(seconds == 0 || group.update_time_out < config.decision_time_out());
            assert!(group.update_time_out >= Duration::from_millis(1));
            assert_eq!(
                (group.capacity, group.lanes, group.ops_per_round),
                (3, 3, 20)
            );
        }
    }
}
