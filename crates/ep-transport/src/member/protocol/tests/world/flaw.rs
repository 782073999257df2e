//! What a rank can get wrong about the lives of ranks: the exploration has to find it.

use super::super::super::*;
use std::sync::Arc;

/// A check that a rank does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Flaw {
    /// It goes on as a member after it was told that its place is taken.
    GoesOn,
    /// It does not look at the numbers of lives, and takes each for the first of its rank.
    MixesLives,
    /// It leaves a connection as it is if it has one to that rank, in whichever life.
    KeepsConnections,
}

impl Flaw {
    /// An event, as a rank with this flaw understands it.
    pub(super) fn understand(flaw: Option<Self>, event: Arc<Event>) -> Event {
        let event = Arc::unwrap_or_clone(event);
        let first = |(rank, _): Life| (rank, Incarnation(1));
        match event {
            event if flaw != Some(Self::MixesLives) => event,
            Event::Card(card) => Event::Card(Card {
                incarnation: Incarnation(1),
                ..card
            }),
            Event::Gone(life) => Event::Gone(first(life)),
            Event::Proposal(number, proposal) => Event::Proposal(
                number,
                Proposal {
                    members: proposal.members.into_iter().map(first).collect(),
                    joining: proposal.joining.into_iter().map(first).collect(),
                    ..proposal
                },
            ),
            other => other,
        }
    }
}
