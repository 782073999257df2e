//! Where things are at the rendezvous.
//!
//! Under `all/` is what every rank of a group has to hear: who lives, what is proposed
//! and decided, and what those who come in offer. Under `few/` is what each member
//! answers to a proposal: only those who come in read it, and whoever collects. So what
//! a member is told does not grow with the number of members.

use super::records::Life;
use crate::ids::Rank;

/// What every rank watches.
pub(crate) fn common(prefix: &str) -> String {
    format!("{prefix}all/")
}

/// Where a life's card is.
pub(crate) fn card(prefix: &str, (rank, incarnation): Life) -> String {
    format!("{}{}", cards(prefix, rank), incarnation.0)
}

/// Where the cards of all lives of a rank are.
pub(crate) fn cards(prefix: &str, rank: Rank) -> String {
    format!("{prefix}all/card/{}/", rank.0)
}

/// Where a life says, before it has a card, that it means to come in.
pub(crate) fn coming(prefix: &str, (rank, incarnation): Life) -> String {
    format!("{prefix}all/coming/{}/{}", rank.0, incarnation.0)
}

/// Where the number of the newest life of a rank is.
pub(crate) fn incarnation(prefix: &str, rank: Rank) -> String {
    format!("{prefix}all/incarnation/{}", rank.0)
}

/// Where a rank says that it leaves on purpose. Not under its lease: whoever reads late
/// finds this, and that the card is gone.
pub(crate) fn left(prefix: &str, rank: Rank) -> String {
    format!("{prefix}all/left/{}", rank.0)
}

/// Where a rank says that it has finished.
pub(crate) fn finished(prefix: &str, rank: Rank) -> String {
    format!("{prefix}all/finished/{}", rank.0)
}
