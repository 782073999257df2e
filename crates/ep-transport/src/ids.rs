//! Ranks, epochs and incarnations: numbers that must not mix by accident.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A place in the group, `0 .. capacity`. The process that fills it may change.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Rank(pub u32);

impl Rank {
    /// The rank as an index into per-rank tables.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// The number of one operation (a dispatch or a combine). All ranks count alike.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Which of the two halves of every double-buffered area this operation uses.
    #[must_use]
    pub fn half(self) -> Half {
        if self.0.is_multiple_of(2) {
            Half::Even
        } else {
            Half::Odd
        }
    }

    /// The epoch `n` operations later.
    #[must_use]
    pub fn plus(self, n: u64) -> Epoch {
        Epoch(self.0.saturating_add(n))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// One of the two halves of a double-buffered area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// Used by operations with an even epoch.
    Even,
    /// Used by operations with an odd epoch.
    Odd,
}

impl Half {
    /// 0 or 1.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Half::Even => 0,
            Half::Odd => 1,
        }
    }
}

/// Which life of a rank: each process that takes a rank gets a number one higher
/// than the last. 0 means that nobody has been there yet.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Incarnation(pub u32);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {}", self.0)
    }
}

/// A set of ranks below a fixed capacity.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RankSet {
    words: Vec<u64>,
}

impl RankSet {
    /// The empty set for ranks `0 .. capacity`.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            words: vec![0; (capacity as usize).div_ceil(64)],
        }
    }

    /// Adds `rank`. A rank at or above the capacity is not added.
    pub fn insert(&mut self, rank: Rank) {
        if let Some(word) = self.words.get_mut(rank.index() / 64) {
            *word |= 1 << (rank.index() % 64);
        }
    }

    /// Takes `rank` out.
    pub fn remove(&mut self, rank: Rank) {
        if let Some(word) = self.words.get_mut(rank.index() / 64) {
            *word &= !(1 << (rank.index() % 64));
        }
    }

    /// Empties the set and keeps its capacity.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether `rank` is in the set.
    #[must_use]
    pub fn contains(&self, rank: Rank) -> bool {
        self.words
            .get(rank.index() / 64)
            .is_some_and(|word| word & (1 << (rank.index() % 64)) != 0)
    }

    /// How many ranks are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no rank is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// The ranks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Rank> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            (0..64u32)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| Rank(i as u32 * 64 + bit))
        })
    }
}

impl FromIterator<Rank> for RankSet {
    fn from_iter<I: IntoIterator<Item = Rank>>(ranks: I) -> Self {
        let ranks: Vec<Rank> = ranks.into_iter().collect();
        let capacity = ranks.iter().map(|r| r.0 + 1).max().unwrap_or(0);
        let mut set = RankSet::new(capacity);
        for rank in ranks {
            set.insert(rank);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_set_holds_what_was_put_in() {
        let mut set = RankSet::new(130);
        for r in [0, 63, 64, 129] {
            set.insert(Rank(r));
        }
        set.insert(Rank(5000));
        set.remove(Rank(63));
        let ranks: Vec<u32> = set.iter().map(|r| r.0).collect();
        assert_eq!(ranks, [0, 64, 129]);
        assert_eq!(set.len(), 3);
        assert!(!set.contains(Rank(63)) && set.contains(Rank(64)));
        set.clear();
        assert!(set.is_empty());
    }

    #[test]
    fn halves_alternate() {
        assert_eq!(Epoch(6).half(), Half::Even);
        assert_eq!(Epoch(7).half(), Half::Odd);
    }
}
