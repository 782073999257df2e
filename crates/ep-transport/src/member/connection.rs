//! The connection to one peer: a table of states and events, data in, data out.
//!
//! The protocol drives one of these for each peer and does what it says. What is not
//! in the table does not change anything: the event is late, or was meant for
//! another state.

use ConnectionEvent as Event;
use ConnectionState as State;

/// How far the connection to a peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Nobody has this rank, as far as is known.
    #[default]
    Absent,
    /// Somebody has this rank and is not connected.
    Down,
    /// An update is under way; the queue pairs are being reset.
    Resetting,
    /// Reset; numbers are published, those of the peer are awaited.
    Offering,
    /// The queue pairs are being connected, or the window is being mapped.
    Connecting,
    /// Connected, not counted yet.
    Linked,
    /// Counted from the agreed epoch on.
    Serving,
    /// Not counted any more, although it lives.
    Lost,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ConnectionEvent {
    /// Its card has appeared.
    Card,
    /// Its lease has ended.
    Gone,
    /// It leaves on purpose.
    Left,
    /// Another life has the rank.
    NewLife,
    /// An update begins that remakes this connection.
    Update,
    /// The commands that reset it are done.
    Reset,
    /// The peer's part is known.
    Offers,
    /// The commands that connect it are done.
    Connected,
    /// Some of these commands have failed.
    Failed,
    /// The update was decided: commit.
    Committed,
    /// The update was decided: dropped.
    Dropped,
    /// An operation has met an error completion, or waited in vain.
    Unanswered,
    /// The peer does not count this rank any more, or a view was decided without it.
    GaveUp,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Nothing,
    /// Count it no more.
    Mask,
    /// Count it no more, reset its queue pairs, make an offer.
    Reset,
    /// Connect to what it offers.
    Connect,
    /// Count it from the agreed epoch on.
    Admit,
    /// Unmap its window, take its queue pairs back to Reset.
    TakeDown,
    /// Tell the others that it is not counted although it lives.
    Tell,
}

/// From, event, to, deed.
const TABLE: &[(State, Event, State, Deed)] = &[
    (State::Absent, Event::Card, State::Down, Deed::Nothing),
    (State::Absent, Event::Dropped, State::Absent, Deed::TakeDown),
    // In all other states somebody is there, who may go or be followed by another.
    (State::Down, Event::Gone, State::Absent, Deed::Mask),
    (State::Down, Event::Left, State::Absent, Deed::Mask),
    (State::Down, Event::NewLife, State::Down, Deed::Mask),
    (State::Resetting, Event::Gone, State::Absent, Deed::Mask),
    (State::Resetting, Event::Left, State::Absent, Deed::Mask),
    (State::Resetting, Event::NewLife, State::Down, Deed::Mask),
    (State::Offering, Event::Gone, State::Absent, Deed::Mask),
    (State::Offering, Event::Left, State::Absent, Deed::Mask),
    (State::Offering, Event::NewLife, State::Down, Deed::Mask),
    (State::Connecting, Event::Gone, State::Absent, Deed::Mask),
    (State::Connecting, Event::Left, State::Absent, Deed::Mask),
    (State::Connecting, Event::NewLife, State::Down, Deed::Mask),
    (State::Linked, Event::Gone, State::Absent, Deed::Mask),
    (State::Linked, Event::Left, State::Absent, Deed::Mask),
    (State::Linked, Event::NewLife, State::Down, Deed::Mask),
    (State::Serving, Event::Gone, State::Absent, Deed::Mask),
    (State::Serving, Event::Left, State::Absent, Deed::Mask),
    (State::Serving, Event::NewLife, State::Down, Deed::Mask),
    (State::Lost, Event::Gone, State::Absent, Deed::Mask),
    (State::Lost, Event::Left, State::Absent, Deed::Mask),
    (State::Lost, Event::NewLife, State::Down, Deed::Mask),
    // The way in.
    (State::Down, Event::Update, State::Resetting, Deed::Reset),
    (State::Lost, Event::Update, State::Resetting, Deed::Reset),
    (State::Serving, Event::Update, State::Resetting, Deed::Reset),
    (
        State::Resetting,
        Event::Reset,
        State::Offering,
        Deed::Nothing,
    ),
    (
        State::Offering,
        Event::Offers,
        State::Connecting,
        Deed::Connect,
    ),
    (
        State::Connecting,
        Event::Connected,
        State::Linked,
        Deed::Nothing,
    ),
    (State::Linked, Event::Committed, State::Serving, Deed::Admit),
    // The ways back.
    (State::Resetting, Event::Failed, State::Down, Deed::Nothing),
    (State::Connecting, Event::Failed, State::Down, Deed::Nothing),
    (State::Down, Event::Dropped, State::Down, Deed::TakeDown),
    (
        State::Resetting,
        Event::Dropped,
        State::Down,
        Deed::TakeDown,
    ),
    (State::Offering, Event::Dropped, State::Down, Deed::TakeDown),
    (
        State::Connecting,
        Event::Dropped,
        State::Down,
        Deed::TakeDown,
    ),
    (State::Linked, Event::Dropped, State::Down, Deed::TakeDown),
    (State::Serving, Event::Unanswered, State::Lost, Deed::Tell),
    (State::Serving, Event::GaveUp, State::Lost, Deed::Mask),
];

impl ConnectionState {
    /// The state after `event`, and what is to be done.
    pub(crate) fn after(self, event: ConnectionEvent) -> (Self, Deed) {
        TABLE
            .iter()
            .find(|(from, on, ..)| (*from, *on) == (self, event))
            .map_or((self, Deed::Nothing), |(.., to, deed)| (*to, *deed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write;

    /// `INSTA_UPDATE=always` writes it anew; look at what has changed.
    #[test]
    fn the_table_is_as_it_was_reviewed() {
        let mut table = String::new();
        for (from, event, to, deed) in TABLE {
            writeln!(table, "{from:?} + {event:?} -> {to:?}, {deed:?}").unwrap();
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn no_two_rows_speak_of_the_same() {
        let rows: BTreeSet<_> = TABLE.iter().map(|(from, on, ..)| (from, on)).collect();
        assert_eq!(rows.len(), TABLE.len());
    }

    /// Every state is reached, and from every state one can come to serve.
    #[test]
    fn there_is_a_way_in_and_out_of_every_state() {
        let reach = |start: State| {
            let mut seen = BTreeSet::from([start]);
            loop {
                let next: BTreeSet<State> = TABLE
                    .iter()
                    .filter(|(from, ..)| seen.contains(from))
                    .map(|(.., to, _)| *to)
                    .collect();
                let before = seen.len();
                seen.extend(next);
                if seen.len() == before {
                    return seen;
                }
            }
        };
        let all = reach(State::Absent);
        assert_eq!(all.len(), 8);
        for state in all {
            assert!(reach(state).contains(&State::Serving), "{state:?}");
            assert!(reach(state).contains(&State::Absent), "{state:?}");
        }
    }

    /// Whoever is counted was connected in the same life.
    #[test]
    fn only_linked_peers_are_admitted_and_whoever_stops_serving_is_masked() {
        for (from, event, to, deed) in TABLE {
            assert_eq!(*deed == Deed::Admit, *to == State::Serving && from != to);
            assert_eq!(*deed == Deed::Admit, *event == Event::Committed);
            if *from == State::Serving && to != from {
                let masked = matches!(deed, Deed::Mask | Deed::Reset);
                // The data path has masked it itself.
                assert!(masked || *event == Event::Unanswered, "{event:?}");
            }
        }
    }
}
