//! Which rank owns which expert.

use ep_transport::Rank;
use std::ops::Range;

/// Experts spread over all ranks of the capacity in contiguous runs. Where they do
/// not divide evenly, the first `experts % capacity` ranks own one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    base: u32,
    extra: u32,
    capacity: u32,
}

impl Placement {
    /// The placement of `experts` experts over `capacity` ranks (at least 1).
    #[must_use]
    pub fn new(capacity: u32, experts: u32) -> Self {
        let capacity = capacity.max(1);
        Self {
            base: experts / capacity,
            extra: experts % capacity,
            capacity,
        }
    }

    /// The experts that `rank` owns; empty beyond the capacity.
    #[must_use]
    pub fn experts_of(&self, rank: Rank) -> Range<u32> {
        let first = |r: u32| r * self.base + r.min(self.extra);
        let rank = rank.0.min(self.capacity);
        first(rank)..first((rank + 1).min(self.capacity))
    }

    /// How many experts `rank` owns.
    #[must_use]
    pub fn local_experts(&self, rank: Rank) -> u32 {
        self.experts_of(rank).len() as u32
    }

    /// The owner of `expert`, which must be below the number of experts.
    #[must_use]
    pub fn owner(&self, expert: u32) -> Rank {
        let in_long_runs = self.extra * (self.base + 1);
        if expert < in_long_runs {
            Rank(expert / (self.base + 1))
        } else {
            Rank(self.extra + (expert - in_long_runs) / self.base.max(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expert_has_one_owner_and_runs_differ_by_at_most_one() {
        for capacity in 1..20 {
            for experts in 1..70 {
                let placement = Placement::new(capacity, experts);
                let mut next = 0;
                for rank in (0..capacity).map(Rank) {
                    let run = placement.experts_of(rank);
                    assert_eq!(run.start, next);
                    assert!(run.len() as u32 - experts / capacity <= 1);
                    for expert in run.clone() {
                        assert_eq!(placement.owner(expert), rank);
                    }
                    next = run.end;
                }
                assert_eq!(next, experts);
                assert!(placement.experts_of(Rank(capacity)).is_empty());
            }
        }
    }
}
