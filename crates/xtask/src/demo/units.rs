//! Small arithmetic over times.

/// Milliseconds from `from` to `until`, negative if it is the other way round.
pub(crate) fn ms(from: u64, until: u64) -> f64 {
    (until as f64 - from as f64) / 1e3
}

/// The largest value, if there is one.
pub(crate) fn largest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

/// The upper median.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
