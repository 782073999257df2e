//! What a rank says of one configuration: its times, and whether everything was right.

use serde::Deserialize;

/// One line of a rank's process. All times are microseconds of one pair, or one dispatch, by the
/// GPU's clock: a value for each replay of a graph.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Timing {
    pub(crate) rank: u32,
    /// What the driver calls the GPU.
    pub(crate) device: String,
    pub(crate) dispatch_us: Vec<f64>,
    /// A dispatch and a combine.
    pub(crate) pair_us: Vec<f64>,
    /// The same bytes to the same peers by plain stores.
    pub(crate) wire_us: Vec<f64>,
    /// Two kernels that do nothing.
    pub(crate) launch_us: Vec<f64>,
    /// What a pair of this rank puts on the wire.
    pub(crate) bytes_moved: u64,
    /// What the buffer takes on this rank.
    pub(crate) buffer_bytes: u64,
    /// Whether every value agreed with the reference, on fresh data, before and after the replays.
    pub(crate) verified: bool,
    /// The same for the same sums, to the bit.
    #[serde(default)]
    pub(crate) sums: Option<String>,
    /// What was wrong, if something was.
    #[serde(default)]
    pub(crate) problem: Option<String>,
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
