//! Points in time.

use std::time::{Duration, Instant};

/// Longer than any process lives; stands for limits that the clock cannot add.
const ALWAYS: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When `limit` will have passed. No limit is too long.
pub(crate) fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit.min(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_too_long() {
        assert!(deadline(Duration::MAX) > deadline(Duration::from_secs(1)));
    }
}
