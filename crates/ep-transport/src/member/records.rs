//! What ranks publish at the rendezvous.
//!
//! Every record starts with a version, and with a secret it carries a code over the
//! key and the contents. A record from a peer is hostile until it was parsed and
//! checked.

use crate::config::MAX_NICS;
use crate::ids::{Epoch, Incarnation, Rank};
use crate::secret::{Secret, TAG};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

/// Version of the records. Ranks of different versions do not form a group.
pub const RECORD_VERSION: u16 = 6;

/// What follows the version: the contents, or a code and then the contents.
const PLAIN: u8 = 0;
const CODED: u8 = 1;

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
    /// The record was changed, moved, or written without the secret.
    #[error("record {key} is not to be trusted: {why}")]
    Unauthenticated {
        /// Where it was found.
        key: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// Writes and reads the records of one group.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    prefix: String,
    secret: Option<Secret>,
}

impl Records {
    /// For the group whose keys begin with `prefix`.
    pub(crate) fn new(prefix: &str, secret: Option<&Secret>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            // No use for another group.
            secret: secret.map(|secret| secret.derive("records", &[prefix.as_bytes()])),
        }
    }

    /// What comes after the prefix: names the record within the group.
    fn path<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.prefix).unwrap_or(key)
    }

    pub(crate) fn encode<T: Serialize>(
        &self,
        key: &str,
        record: &T,
    ) -> Result<Vec<u8>, RecordError> {
        let path = self.path(key);
        let body = postcard::to_stdvec(record).map_err(|error| malformed(path, 0, &error))?;
        let mut bytes = RECORD_VERSION.to_le_bytes().to_vec();
        match &self.secret {
            None => bytes.push(PLAIN),
            Some(secret) => {
                bytes.push(CODED);
                bytes.extend_from_slice(&secret.tag("record", &[path.as_bytes(), &body]));
            }
        }
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// What is offered to `me` among these, if anything is.
    pub(crate) fn decode_offers(
        &self,
        key: &str,
        bytes: &[u8],
        me: Rank,
    ) -> Result<Offers, RecordError> {
        let lines: Vec<(Rank, &Bytes)> = self.decode(key, bytes)?;
        let mine = lines.into_iter().find(|(to, _)| *to == me);
        let line = mine.map(|(_, line)| postcard::from_bytes(line));
        match line.transpose() {
            Ok(line) => Ok(Offers(line.map(|line| (me, line)).into_iter().collect())),
            Err(error) => Err(malformed(self.path(key), bytes.len(), &error)),
        }
    }

    pub(crate) fn decode<'a, T: Deserialize<'a>>(
        &self,
        key: &str,
        bytes: &'a [u8],
    ) -> Result<T, RecordError> {
        let path = self.path(key);
        let (version, rest) = bytes
            .split_first_chunk::<2>()
            .ok_or_else(|| malformed(path, bytes.len(), &"no version"))?;
        let theirs = u16::from_le_bytes(*version);
        if theirs != RECORD_VERSION {
            return Err(RecordError::Version {
                key: path.to_owned(),
                theirs,
                ours: RECORD_VERSION,
            });
        }
        let body = self.authentic(path, rest)?;
        postcard::from_bytes(body).map_err(|error| malformed(path, bytes.len(), &error))
    }

    /// The contents, if they are what a rank of this group has put there.
    fn authentic<'a>(&self, path: &str, rest: &'a [u8]) -> Result<&'a [u8], RecordError> {
        let refuse = |why| RecordError::Unauthenticated {
            key: path.to_owned(),
            why,
        };
        match (&self.secret, rest) {
            (None, [PLAIN, body @ ..]) => Ok(body),
            (None, _) => Err(refuse("it carries a code, this side has no secret")),
            (Some(secret), [CODED, coded @ ..]) => {
                let (code, body) = coded
                    .split_first_chunk::<TAG>()
                    .ok_or_else(|| refuse("its code is cut off"))?;
                if secret.verify("record", &[path.as_bytes(), body], code) {
                    Ok(body)
                } else {
                    Err(refuse("its code does not fit key and contents"))
                }
            }
            (Some(_), _) => Err(refuse("it carries no code, this side has a secret")),
        }
    }
}

fn malformed(path: &str, bytes: usize, what: &dyn std::fmt::Display) -> RecordError {
    RecordError::Malformed {
        key: path.to_owned(),
        bytes,
        what: what.to_string(),
    }
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

/// What peers have to know of one NIC of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct NicAddress {
    /// Its port.
    pub(crate) port: PortAddress,
    /// The remote key of the region with this NIC.
    pub(crate) rkey: u32,
}

fn at_most_max_nics<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NicAddress>, D::Error> {
    let nics = Vec::<NicAddress>::deserialize(from)?;
    if nics.len() > MAX_NICS {
        return Err(D::Error::custom(format!("{} NICs", nics.len())));
    }
    Ok(nics)
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
    /// The NICs: queue pair `l` to a peer is of the one with index `l` modulo their
    /// number.
    #[serde(deserialize_with = "at_most_max_nics")]
    pub(crate) nics: Vec<NicAddress>,
    /// Address of the region, as the NICs know it.
    pub(crate) region_address: u64,
    /// Unix socket at which processes of the same host get the region's descriptor.
    pub(crate) window: Option<String>,
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

/// The first two of these that do not ascend.
fn disorder<T: Ord>(items: &[T]) -> Option<(&T, &T)> {
    let after = items.iter().skip(1);
    items.iter().zip(after).find(|(a, b)| a >= b)
}

/// [`Proposal`] as it is read: whoever wrote it may have had anything in mind.
#[derive(Deserialize)]
struct AnyProposal {
    members: Vec<Life>,
    joining: Vec<Life>,
    pairs: Vec<(Rank, Rank)>,
}

impl TryFrom<AnyProposal> for Proposal {
    type Error = String;

    fn try_from(any: AnyProposal) -> Result<Self, String> {
        let ranks = |lives: &[Life]| -> Vec<Rank> { lives.iter().map(|life| life.0).collect() };
        let (members, joining) = (ranks(&any.members), ranks(&any.joining));
        if let Some((before, after)) = disorder(&members).or(disorder(&joining)) {
            return Err(format!("{before} comes before {after}"));
        }
        if let Some(rank) = joining
            .iter()
            .find(|rank| members.binary_search(rank).is_ok())
        {
            return Err(format!("{rank} is a member and is to come in"));
        }
        if let Some((a, b)) = any.pairs.iter().find(|(a, b)| a >= b) {
            return Err(format!("{a} and {b} are a pair"));
        }
        Ok(Self {
            members: any.members,
            joining: any.joining,
            pairs: any.pairs,
        })
    }
}

/// A change of the membership that somebody would like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "AnyProposal")]
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

    /// Whether a life has to take part.
    pub(crate) fn has(&self, life: Life) -> bool {
        self.members.binary_search(&life).is_ok() || self.joining.contains(&life)
    }

    /// Whether the connection between two ranks is remade.
    pub(crate) fn remakes(&self, a: Rank, b: Rank) -> bool {
        let joins = |rank| self.joining.iter().any(|life| life.0 == rank);
        joins(a) || joins(b) || self.pairs.contains(&(a.min(b), a.max(b)))
    }

    /// Who collects what the others answer, tells them to go on once all are linked, and
    /// decides once all are ready: the lowest of those who come in.
    pub(crate) fn collector(&self) -> Option<Life> {
        self.joining.first().or(self.members.first()).copied()
    }

    /// Whether a life has to hear what everybody answers.
    pub(crate) fn hears_all(&self, life: Life) -> bool {
        self.collector() == Some(life) || self.joining.contains(&life)
    }

    /// Who is left out for a while when `me` could not do its part, or not with `peer`: of
    /// those who come in, whom the attempt cannot take in as things are.
    pub(crate) fn to_blame(&self, me: Rank, peer: Option<Rank>) -> Vec<Rank> {
        let joins = |rank: Rank| self.joining.iter().any(|life| life.0 == rank);
        match peer.filter(|peer| joins(*peer)) {
            // Of two that come in, the lower goes first.
            Some(peer) if !joins(me) || me < peer => vec![peer],
            _ if joins(me) => vec![me],
            // A member cannot, whoever comes in.
            _ => self.joining.iter().map(|life| life.0).chain([me]).collect(),
        }
    }

    /// Whether members have to hear what a rank offers.
    pub(crate) fn changes(&self, rank: Rank) -> bool {
        let comes_in = self.joining.iter().any(|life| life.0 == rank);
        comes_in || self.pairs.iter().any(|(a, b)| *a == rank || *b == rank)
    }
}

/// What one rank offers each rank that it is to be connected with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Offers(pub(crate) Vec<(Rank, Vec<QpOffer>)>);

/// Each line as bytes: nobody reads more than the one that is for it.
impl Serialize for Offers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let encoded = |(to, line)| match postcard::to_stdvec(line) {
            Ok(line) => Ok((to, ByteBuf::from(line))),
            Err(error) => Err(S::Error::custom(error)),
        };
        let lines = self.0.iter().map(|(to, line)| encoded((to, line)));
        lines.collect::<Result<Vec<_>, _>>()?.serialize(to)
    }
}

/// A rank is connected, and begins no operation at or beyond `limit` before it
/// knows the decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The promise; from a rank that comes in, the first epoch that it has not used
    /// together with others in this life.
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

/// For the fuzz targets.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    use super::*;
    use serde::de::DeserializeOwned;

    /// Reads any bytes as records, plain ones and ones with a code that fits. What can
    /// be read comes out the same when it is written and read again.
    ///
    /// # Panics
    /// If it does not.
    pub fn records(bytes: &[u8]) {
        let secret = Secret::new(&[1; 16]).ok();
        for records in [
            Records::new("ep/", None),
            Records::new("ep/", secret.as_ref()),
        ] {
            let mut record = RECORD_VERSION.to_le_bytes().to_vec();
            match &records.secret {
                None => record.push(PLAIN),
                Some(secret) => {
                    record.push(CODED);
                    record.extend_from_slice(&secret.tag("record", &[b"k", bytes]));
                }
            }
            record.extend_from_slice(bytes);
            again::<Card>(&records, &record);
            again::<Proposal>(&records, &record);
            offers_again(&records, &record);
            again::<Ready>(&records, &record);
            again::<Decision>(&records, &record);
            again::<Masked>(&records, &record);
            again::<Incarnation>(&records, &record);
            // As they come, with whatever stands for a version and a code.
            again::<Card>(&records, bytes);
        }
    }

    fn again<T>(records: &Records, bytes: &[u8])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        if let Ok(record) = records.decode::<T>("k", bytes) {
            let written = records.encode("ep/k", &record);
            let read = written.and_then(|bytes| records.decode::<T>("k", &bytes));
            assert_eq!(read, Ok(record));
        }
    }

    fn offers_again(records: &Records, bytes: &[u8]) {
        for me in [0, 1, 7].map(Rank) {
            if let Ok(offers) = records.decode_offers("k", bytes, me) {
                let written = records.encode("ep/k", &offers);
                let read = written.and_then(|bytes| records.decode_offers("k", &bytes, me));
                assert_eq!(read, Ok(offers));
            }
        }
    }
}

#[cfg(test)]
mod tests;
