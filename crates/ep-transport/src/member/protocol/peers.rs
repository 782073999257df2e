//! What becomes of each peer: cards that come and go, and who counts whom.

use super::{Action, Protocol};
use crate::events::LossKind;
use crate::ids::Rank;
use crate::member::connection::{ConnectionEvent, ConnectionState, Deed};
use crate::member::records::{Card, Life, Masked};
use std::collections::BTreeSet;

/// Looks ranks up in a sequence that ascends, which they do too: in as many steps as it has
/// entries, for all of them together.
pub(super) fn ascending<'a, V: 'a>(
    entries: impl Iterator<Item = (&'a Rank, &'a V)>,
) -> impl FnMut(Rank) -> Option<&'a V> {
    let mut left = entries.peekable();
    move |rank| {
        while left.next_if(|(other, _)| **other < rank).is_some() {}
        let found = left.peek().filter(|(other, _)| **other == rank);
        found.map(|(_, value)| *value)
    }
}

impl Protocol {
    /// Ranks the connections to which have got further or back since this was asked last.
    pub(crate) fn take_moved(&mut self) -> BTreeSet<Rank> {
        std::mem::take(&mut self.moved)
    }

    /// How far the connection to `rank` is.
    pub(crate) fn connection(&self, rank: Rank) -> ConnectionState {
        self.connections.get(&rank).copied().unwrap_or_default()
    }

    pub(super) fn step(&mut self, rank: Rank, event: ConnectionEvent) -> Deed {
        let before = self.connection(rank);
        let (state, deed) = before.after(event);
        if state != before {
            self.connections.insert(rank, state);
            match state {
                ConnectionState::Serving => self.apart.remove(&rank),
                _ => self.apart.insert(rank),
            };
            self.moved.insert(rank);
            self.unsaid = true;
        }
        deed
    }

    /// For every connection that the current attempt remakes.
    pub(super) fn step_all(&mut self, event: ConnectionEvent) {
        let Some(attempt) = &self.attempt else { return };
        for (rank, _) in self.counterparts(&attempt.proposal) {
            self.step(rank, event);
        }
    }

    fn lose(&mut self, life: Life, event: ConnectionEvent, how: LossKind) {
        if self.step(life.0, event) == Deed::Mask {
            self.due.push_back(Action::Mask(life, how));
        }
    }

    pub(super) fn on_card(&mut self, card: Card) {
        let (rank, incarnation) = (card.rank, card.incarnation);
        if rank == self.setup.me {
            if incarnation > self.setup.incarnation {
                // Nobody is admitted after that, whatever was decided before.
                self.over = true;
                self.due.clear();
                self.due.push_back(Action::Superseded(incarnation));
            }
            // The card comes again with another lease. What hung on the last one has gone,
            // also if this rank was not told that it had ended.
            self.told.lives.clear();
            self.cards.insert(rank, card);
            return;
        }
        match self.cards.get(&rank).map(|before| before.incarnation) {
            // A life that is over, and does not know it yet.
            Some(before) if before > incarnation => return,
            Some(before) if before < incarnation => {
                let life = (rank, before);
                self.lose(life, ConnectionEvent::NewLife, LossKind::Replaced);
            }
            _ => {}
        }
        self.cards.insert(rank, card);
        self.step(rank, ConnectionEvent::Card);
    }

    pub(super) fn on_gone(&mut self, life: Life, event: ConnectionEvent, how: LossKind) {
        let held = self.cards.get(&life.0);
        if held.is_none_or(|card| card.incarnation != life.1) {
            return;
        }
        self.cards.remove(&life.0);
        self.masks.remove(&life.0);
        if life.0 == self.setup.me {
            // What hung on the lease has gone with it.
            self.told.lives.clear();
        } else {
            self.lose(life, event, how);
        }
        self.unsaid = true;
        self.look_who_is_gone();
    }

    pub(super) fn on_unanswered(&mut self, life: Life) {
        if self.lives(life) {
            self.step(life.0, ConnectionEvent::Unanswered);
        }
    }

    /// Other members that live and are counted.
    pub(crate) fn serving(&self) -> impl Iterator<Item = Life> + '_ {
        let mut connection = ascending(self.connections.iter());
        self.view()
            .filter(move |(rank, _)| connection(*rank) == Some(&ConnectionState::Serving))
    }

    /// Other members that live and are not counted.
    pub(crate) fn masked(&self) -> Vec<Life> {
        if !self.is_member() {
            return Vec::new();
        }
        // Whoever has a card has a connection, in some state.
        let apart = self.apart.iter();
        let lives = apart.filter_map(|rank| Some((*rank, *self.view.get(rank)?)));
        lives.filter(|life| self.lives(*life)).collect()
    }

    /// What is to be told of them, if that has changed. What was said before a commit
    /// does not count after it.
    pub(super) fn news_of_masks(&mut self) -> Option<Masked> {
        if !std::mem::take(&mut self.unsaid) {
            return None;
        }
        let (lives, told) = (self.masked(), &self.told);
        // Without a card there is no lease for it to hang on.
        let silent = !self.lives(self.me());
        if silent || lives == told.lives && (lives.is_empty() || self.last_commit == told.after) {
            return None;
        }
        Some(Masked {
            incarnation: self.setup.incarnation,
            after: self.last_commit,
            lives,
        })
    }

    /// Whether a record speaks of the present view: every commit joins some who did
    /// not count each other, and a record from before does not know.
    pub(super) fn is_fresh(&self, rank: Rank, masked: &Masked) -> bool {
        masked.after >= self.last_commit && self.in_view((rank, masked.incarnation))
    }

    /// Who does not count this rank is not counted by it either: nothing will come
    /// from there, and both sides must agree before they can be joined again.
    pub(super) fn heed(&mut self, rank: Rank, masked: &Masked) {
        if rank != self.setup.me && self.is_fresh(rank, masked) && masked.lives.contains(&self.me())
        {
            let life = (rank, masked.incarnation);
            self.lose(life, ConnectionEvent::GaveUp, LossKind::GaveUp);
        }
    }

    /// A view was decided.
    pub(super) fn on_view(&mut self) {
        // Those who are not in it.
        let outside: Vec<Life> = {
            let present = self.cards.values();
            let present = present.map(|card| (card.rank, card.incarnation));
            let mut member = ascending(self.view.iter());
            present
                .filter(|(rank, life)| member(*rank) != Some(life))
                .collect()
        };
        for life in outside {
            self.lose(life, ConnectionEvent::GaveUp, LossKind::GaveUp);
        }
        // Those who gave this rank up again before it has heard of the commit.
        let me = self.me();
        let masks = self.masks.iter();
        let again = masks.filter(|(_, masked)| masked.lives.contains(&me));
        let again: Vec<(Rank, Masked)> = again.map(|(r, m)| (*r, m.clone())).collect();
        for (rank, masked) in again {
            self.heed(rank, &masked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;
    use crate::member::protocol::Setup;
    use crate::member::records::Proposal;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Few ranks in few lives, so that they meet.
    fn lives() -> impl Strategy<Value = BTreeMap<Rank, Incarnation>> {
        let life = (0..12u32, 1..4u32).prop_map(|(rank, life)| (Rank(rank), Incarnation(life)));
        prop::collection::vec(life, 0..12).prop_map(|lives| lives.into_iter().collect())
    }

    proptest! {
        #[test]
        fn ranks_that_ascend_are_found_as_one_by_one(there in lives(), asked in lives()) {
            let mut find = ascending(there.iter());
            for rank in asked.keys() {
                prop_assert_eq!(find(*rank), there.get(rank));
            }
        }

        #[test]
        fn a_view_becomes_what_was_proposed(view in lives(), members in lives(), joining in lives()) {
            let mut protocol = Protocol::new(Setup {
                me: Rank(0),
                incarnation: Incarnation(1),
                initial: Vec::new(),
                alignment: 1,
                time_out: Duration::from_secs(1),
            });
            protocol.view = view;
            let proposal = Proposal {
                joining: joining.into_iter().filter(|life| !members.contains_key(&life.0)).collect(),
                members: members.into_iter().collect(),
                pairs: Vec::new(),
            };
            protocol.take_view(&proposal);
            let everybody: BTreeMap<Rank, Incarnation> = proposal.everybody().collect();
            prop_assert_eq!(protocol.view, everybody);
        }
    }
}
