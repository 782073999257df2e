//! What ranks publish at the rendezvous.
//!
//! Every record starts with a version. A record from a peer is hostile until it
//! was parsed and checked.

use crate::ids::{Epoch, Incarnation, Rank};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the records. Ranks of different versions do not form a group.
pub const RECORD_VERSION: u16 = 1;

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record was written by another version of this library.
    #[error("record {key} has version {theirs}, this side understands {ours}")]
    Version {
        /// Where it was found.
        key: String,
        /// Its version.
        theirs: u16,
        /// The version understood here.
        ours: u16,
    },
    /// The record cannot be parsed.
    #[error("record {key} of {bytes} bytes cannot be parsed: {what}")]
    Malformed {
        /// Where it was found.
        key: String,
        /// Its size.
        bytes: usize,
        /// What is wrong.
        what: String,
    },
}

pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = RECORD_VERSION.to_le_bytes().to_vec();
    let body = postcard::to_stdvec(record).map_err(|error| RecordError::Malformed {
        key: String::from("to be published"),
        bytes: 0,
        what: error.to_string(),
    })?;
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    let malformed = |what: String| RecordError::Malformed {
        key: key.to_owned(),
        bytes: bytes.len(),
        what,
    };
    let (version, body) = bytes
        .split_first_chunk::<2>()
        .ok_or_else(|| malformed("no version".into()))?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != RECORD_VERSION {
        return Err(RecordError::Version {
            key: key.to_owned(),
            theirs,
            ours: RECORD_VERSION,
        });
    }
    postcard::from_bytes(body).map_err(|error| malformed(error.to_string()))
}

/// Where a port can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PortAddress {
    /// The GID, in network byte order.
    pub(crate) gid: [u8; 16],
    /// The LID; 0 on Ethernet.
    pub(crate) lid: u16,
    /// The port's active path MTU in bytes.
    pub(crate) mtu: u32,
    /// Whether the link layer is Ethernet (RoCE) rather than InfiniBand.
    pub(crate) ethernet: bool,
}

/// What a rank is, published once for each life, gone when its lease ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Card {
    /// The rank.
    pub(crate) rank: Rank,
    /// Which life.
    pub(crate) incarnation: Incarnation,
    /// Identifies the host and its boot, so that ranks of one host find each other.
    pub(crate) host: String,
    /// What all ranks must have in common (layout and sizes), compared as text.
    pub(crate) config: String,
    /// The NIC's port.
    pub(crate) port: Option<PortAddress>,
    /// Address of the region, as the NIC knows it.
    pub(crate) region_address: u64,
    /// Remote key of the region.
    pub(crate) rkey: u32,
    /// Unix socket at which processes of the same host get the region's descriptor.
    pub(crate) window: Option<String>,
    /// Set shortly before the rank leaves on purpose.
    pub(crate) leaving: bool,
}

/// One queue pair as its peer must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct QpOffer {
    /// Queue pair number.
    pub(crate) qpn: u32,
    /// First packet sequence number that it will send.
    pub(crate) psn: u32,
}

/// A rank in one of its lives.
pub(crate) type Life = (Rank, Incarnation);

/// A change of the membership that somebody would like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Members of the last view that are alive and count each other, ascending.
    pub(crate) members: Vec<Life>,
    /// Who is to come in, ascending: newcomers, and members that the others have
    /// lost and that live after all.
    pub(crate) joining: Vec<Life>,
    /// Members that do not count each other any more and are to do so again, the
    /// lower first.
    pub(crate) pairs: Vec<(Rank, Rank)>,
}

impl Proposal {
    /// Everybody who has to take part.
    pub(crate) fn everybody(&self) -> impl Iterator<Item = Life> + '_ {
        self.members.iter().chain(&self.joining).copied()
    }

    /// Whether the connection between two ranks is remade.
    pub(crate) fn remakes(&self, a: Rank, b: Rank) -> bool {
        let joins = |rank| self.joining.iter().any(|life| life.0 == rank);
        joins(a) || joins(b) || self.pairs.contains(&(a.min(b), a.max(b)))
    }

    /// Who decides that all are ready: the lowest of those who come in.
    pub(crate) fn decider(&self) -> Option<Life> {
        self.joining.first().or(self.members.first()).copied()
    }
}

/// What one rank offers each rank that it is to be connected with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Offers(pub(crate) Vec<(Rank, Vec<QpOffer>)>);

/// A rank is connected, and begins no operation at or beyond `limit` before it
/// knows the decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The promise; 0 from a rank that comes in.
    pub(crate) limit: Epoch,
    /// Members of the view that it does not count.
    pub(crate) masked: Vec<Life>,
}

/// Whom a member does not count any more although it lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Masked {
    /// Which life of the member says so.
    pub(crate) incarnation: Incarnation,
    /// The number of the last commit that it knew of.
    pub(crate) after: u64,
    /// Members of the view of that commit.
    pub(crate) lives: Vec<Life>,
}

/// How an attempt ended, decided once by compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Decision {
    /// The joining ranks take part from this epoch on.
    Commit {
        /// That epoch.
        from: Epoch,
    },
    /// Nothing changes.
    Dropped {
        /// Who gave up.
        by: Rank,
        /// Why.
        why: String,
        /// Who did not do its part.
        blame: Vec<Rank>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_version_and_garbage_are_refused() {
        let ready = Ready {
            limit: Epoch(77),
            masked: Vec::new(),
        };
        let mut bytes = encode(&ready).unwrap();
        assert_eq!(decode::<Ready>("ready", &bytes), Ok(ready));
        bytes[0] = 9;
        let error = decode::<Ready>("ready/3", &bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "record ready/3 has version 9, this side understands 1"
        );
        for bad in [&b""[..], b"\x01", b"\x01\x00", b"\x01\x00\xff\xff"] {
            assert!(decode::<Card>("card/1", bad).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let mut versioned = RECORD_VERSION.to_le_bytes().to_vec();
            versioned.extend_from_slice(&bytes);
            let _ = decode::<Card>("k", &versioned);
            let _ = decode::<Proposal>("k", &versioned);
            let _ = decode::<Offers>("k", &versioned);
            let _ = decode::<Decision>("k", &versioned);
        }
    }
}
