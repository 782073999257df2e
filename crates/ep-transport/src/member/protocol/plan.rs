//! Who should be in the next view: a pure function of who lives and who has masked
//! whom.

use crate::ids::{Incarnation, Rank};
use crate::member::records::{Life, Proposal};
use std::collections::{BTreeMap, BTreeSet};

/// What a proposal is made from.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    /// Members of the last view.
    pub(super) view: &'a BTreeMap<Rank, Incarnation>,
    /// Who lives and means to stay.
    pub(super) living: BTreeSet<Life>,
    /// Who does not count whom any more, among living members.
    pub(super) masks: BTreeSet<(Life, Life)>,
    /// Whose attempts have failed lately.
    pub(super) left_out: BTreeSet<Life>,
}

impl Situation<'_> {
    fn at_odds(&self, a: Life, b: Life) -> bool {
        self.masks.contains(&(a, b)) || self.masks.contains(&(b, a))
    }

    /// Living members that count each other, directly or through others: the largest
    /// such set, or of equal ones that with the lowest rank. Their counters go in
    /// step, since everybody waits for those it counts. Whoever is not among them
    /// is somewhere else by now.
    pub(super) fn core(&self) -> Vec<Life> {
        let is_member = |life: &Life| self.view.get(&life.0) == Some(&life.1);
        let mut left: Vec<Life> = self.living.iter().copied().filter(is_member).collect();
        if self.masks.is_empty() {
            return left;
        }
        let mut largest = Vec::new();
        while !left.is_empty() {
            let mut part = vec![left.remove(0)];
            let mut next = 0;
            while next < part.len() {
                let from = part[next];
                next += 1;
                let (apart, together) = left.iter().partition(|life| self.at_odds(from, **life));
                left = apart;
                let together: Vec<Life> = together;
                part.extend(together);
            }
            if part.len() > largest.len() {
                largest = part;
            }
        }
        largest.sort_unstable();
        largest
    }

    /// The view that everybody alive should come to; `None` if that is the one that is.
    pub(super) fn plan(&self) -> Option<Proposal> {
        let members = self.core();
        let joining: Vec<Life> = self
            .living
            .iter()
            .filter(|life| !members.contains(life) && !self.left_out.contains(life))
            .copied()
            .collect();
        let mut pairs: Vec<(Rank, Rank)> = self
            .masks
            .iter()
            .filter(|(a, b)| members.contains(a) && members.contains(b))
            // Who was given up shows that it lives by giving up the other.
            .filter(|(a, b)| self.masks.contains(&(*b, *a)))
            .filter(|(a, b)| !self.left_out.contains(a) && !self.left_out.contains(b))
            .map(|((a, _), (b, _))| (*a.min(b), *a.max(b)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        let proposal = Proposal {
            members,
            joining,
            pairs,
        };
        (!proposal.joining.is_empty() || !proposal.pairs.is_empty()).then_some(proposal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life(rank: u32) -> Life {
        (Rank(rank), Incarnation(1))
    }

    fn plan(members: u32, living: u32, masks: &[(u32, u32)]) -> Option<Proposal> {
        let view = (0..members).map(life).collect();
        let situation = Situation {
            view: &view,
            living: (0..living).map(life).collect(),
            masks: masks.iter().map(|(a, b)| (life(*a), life(*b))).collect(),
            left_out: BTreeSet::new(),
        };
        situation.plan()
    }

    fn ranks(lives: &[Life]) -> Vec<u32> {
        lives.iter().map(|(rank, _)| rank.0).collect()
    }

    #[test]
    fn nothing_is_to_be_done_when_all_count_each_other() {
        assert_eq!(plan(4, 4, &[]), None);
        let newcomer = plan(3, 4, &[]).unwrap();
        assert_eq!(
            (ranks(&newcomer.members), ranks(&newcomer.joining)),
            (vec![0, 1, 2], vec![3])
        );
    }

    #[test]
    fn two_that_masked_each_other_stay_and_are_joined_again() {
        let both = plan(4, 4, &[(1, 2), (2, 1)]).unwrap();
        assert_eq!(ranks(&both.members), [0, 1, 2, 3]);
        assert_eq!(both.joining, []);
        assert_eq!(both.pairs, [(Rank(1), Rank(2))]);
        // Rank 2 has not answered yet: it may be dead.
        assert_eq!(plan(4, 4, &[(1, 2)]), None);
    }

    #[test]
    fn who_counts_nobody_or_is_counted_by_nobody_comes_in_anew() {
        for masks in [&[(0, 3), (1, 3), (2, 3)][..], &[(3, 0), (3, 1), (3, 2)]] {
            let plan = plan(4, 4, masks).unwrap();
            assert_eq!(ranks(&plan.members), [0, 1, 2]);
            assert_eq!(ranks(&plan.joining), [3]);
            assert_eq!(plan.pairs, []);
        }
        // Of two, the lower stays.
        let plan = plan(2, 2, &[(0, 1)]).unwrap();
        assert_eq!(
            (ranks(&plan.members), ranks(&plan.joining)),
            (vec![0], vec![1])
        );
    }

    proptest! {
        #[test]
        fn everybody_alive_is_in_the_plan_once(
            members in 0..8u32,
            dead in prop::collection::btree_set(0..8u32, 0..4),
            masks in prop::collection::vec((0..8u32, 0..8u32), 0..20),
        ) {
            let view = (0..members).map(life).collect();
            let living: BTreeSet<Life> =
                (0..8).filter(|rank| !dead.contains(rank)).map(life).collect();
            let among = |rank: &u32| *rank < members && !dead.contains(rank);
            let masks: BTreeSet<(Life, Life)> = masks
                .iter()
                .filter(|(a, b)| a != b && among(a) && among(b))
                .map(|(a, b)| (life(*a), life(*b)))
                .collect();
            let situation = Situation { view: &view, living, masks, left_out: BTreeSet::new() };
            let core = situation.core();
            match situation.plan() {
                Some(plan) => {
                    prop_assert_eq!(&plan.members, &core);
                    let mut all: Vec<Life> = plan.everybody().collect();
                    all.sort_unstable();
                    prop_assert!(all.iter().eq(situation.living.iter()));
                    for ((a, _), (b, _)) in situation.masks.iter().filter(|(a, b)| {
                        plan.members.contains(a) && plan.members.contains(b)
                            && situation.masks.contains(&(*b, *a))
                    }) {
                        prop_assert!(plan.pairs.contains(&(*a.min(b), *a.max(b))));
                    }
                }
                None => {
                    prop_assert_eq!(core.len(), situation.living.len());
                    let mut masks = situation.masks.iter();
                    prop_assert!(masks.all(|(a, b)| !situation.masks.contains(&(*b, *a))));
                }
            }
            // Members on different sides never count each other both ways.
            for a in &core {
                for b in situation.living.iter().filter(|b| !core.contains(b)) {
                    prop_assert!(b.0.0 >= members || situation.at_odds(*a, *b));
                }
            }
        }
    }
}
