//! Messages of the TCP store, as bytes. Data in, data out; [`super::channel`] moves
//! them.
//!
//! Both sides begin with a hello: `"EPRV"`, the version, whether a secret is asked
//! for, and a number never used before. Then come frames: length, postcard, and with
//! a secret a code over the direction, the frame's number and its contents.

use super::{Changes, Entry, LeaseId, MAX_VALUE, Revision, StoreError, Swap};
use crate::secret::{Secret, TAG};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of the store's protocol. Both sides must speak the same.
pub const PROTOCOL_VERSION: u16 = 3;

const MAGIC: [u8; 4] = *b"EPRV";
/// Bytes of the part of a hello that all versions have in common.
pub(super) const PREAMBLE: usize = 6;
/// Bytes of the rest.
pub(super) const HELLO_REST: usize = 33;
/// Largest contents of a frame, its code apart.
pub(super) const MAX_FRAME: usize = 8 * MAX_VALUE;

/// A number that is used for one connection only.
pub(super) type Nonce = [u8; 32];

/// Whoever knows it is the client that made it up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Token(pub(super) [u8; 16]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Names one store from its first key to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreId(pub(super) [u8; 16]);

/// What a client sends: the first frame is a [`Request::Join`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    /// Ascending within a session; a call that is repeated keeps it.
    pub(super) id: u64,
    pub(super) request: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// This connection belongs to the session of this token.
    Join(Token),
    Put(
        String,
        #[serde(with = "serde_bytes")] Vec<u8>,
        Option<LeaseId>,
    ),
    Get(String),
    Delete(String),
    Swap(
        String,
        Option<Revision>,
        #[serde(with = "serde_bytes")] Vec<u8>,
    ),
    Changes(String, Revision, Duration),
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Response {
    Joined(StoreId),
    Revision(Revision),
    Entry(Option<Entry>),
    Done,
    Swap(Swap),
    Changes(Changes),
    Lease(LeaseId),
    LeaseEnded(LeaseId),
    Refused(String),
}

/// What both sides say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) secured: bool,
    pub(super) nonce: Nonce,
}

impl Hello {
    pub(super) fn encode(&self) -> [u8; PREAMBLE + HELLO_REST] {
        let mut bytes = [0; PREAMBLE + HELLO_REST];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..PREAMBLE].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[PREAMBLE] = u8::from(self.secured);
        bytes[PREAMBLE + 1..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Reads what follows the preamble.
    pub(super) fn decode(rest: &[u8; HELLO_REST]) -> Result<Self, String> {
        let [secured, nonce @ ..] = rest;
        match secured {
            0 | 1 => Ok(Self {
                secured: *secured == 1,
                nonce: *nonce,
            }),
            other => Err(format!("a hello of kind {other}")),
        }
    }
}

/// The other side's version, or what it sent instead of a hello.
pub(super) fn version(preamble: [u8; PREAMBLE]) -> Result<u16, String> {
    let [magic @ .., low, high] = preamble;
    if magic == MAGIC {
        Ok(u16::from_le_bytes([low, high]))
    } else {
        Err(format!("{:?}", String::from_utf8_lossy(&preamble)))
    }
}

/// One direction of a connection: the key of its codes and the number of the next frame.
#[derive(Debug)]
pub(super) struct Direction {
    key: Option<Secret>,
    next: u64,
}

impl Direction {
    pub(super) fn new(key: Option<Secret>) -> Self {
        Self { key, next: 0 }
    }

    /// Bytes that follow a frame of this contents length.
    pub(super) fn trailer(&self) -> usize {
        if self.key.is_some() { TAG } else { 0 }
    }

    /// A message as a frame.
    pub(super) fn seal(&mut self, message: &impl Serialize) -> Result<Vec<u8>, String> {
        let mut frame = vec![0; 4];
        frame = postcard::to_extend(message, frame).map_err(|error| error.to_string())?;
        let length = length(frame.len() - 4)?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        if let Some(key) = &self.key {
            let code = key.tag("frame", &[&self.next.to_le_bytes(), &frame[4..]]);
            frame.extend_from_slice(&code);
        }
        self.next += 1;
        Ok(frame)
    }

    /// The message in a frame, its length taken off.
    pub(super) fn open<M: DeserializeOwned>(&mut self, frame: &[u8]) -> Result<M, String> {
        let split = frame.len().checked_sub(self.trailer());
        let Some((body, code)) = split.and_then(|at| frame.split_at_checked(at)) else {
            return Err(format!("a frame of {} bytes", frame.len()));
        };
        if let Some(key) = &self.key
            && !key.verify("frame", &[&self.next.to_le_bytes(), body], code)
        {
            return Err(format!("frame {} has a wrong code", self.next));
        }
        self.next += 1;
        postcard::from_bytes(body).map_err(|error| error.to_string())
    }
}

/// Checks how long a frame is, or says that it is.
pub(super) fn length(bytes: usize) -> Result<u32, String> {
    let fits = u32::try_from(bytes).ok();
    fits.filter(|_| bytes <= MAX_FRAME)
        .ok_or_else(|| format!("a frame of {bytes} bytes is over the limit of {MAX_FRAME}"))
}

impl From<StoreError> for Response {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseEnded { lease } => Self::LeaseEnded(lease),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// For the fuzz targets.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    use super::*;

    /// Reads any bytes as a hello and as frames. What can be read comes out the same
    /// when it is said and read again; with a secret nothing can be read, and what was
    /// said with it cannot once it has been changed.
    ///
    /// # Panics
    /// If that is not so.
    pub fn frames(bytes: &[u8]) {
        if let Some((preamble, rest)) = bytes.split_first_chunk() {
            let known = version(*preamble).is_ok();
            assert_eq!(known, preamble.starts_with(&MAGIC));
            if let Some((rest, _)) = rest.split_first_chunk()
                && let Ok(hello) = Hello::decode(rest)
            {
                assert_eq!(&hello.encode()[PREAMBLE..], rest);
            }
        }
        again(bytes, |call: &Call| (call.id, call.request.clone()));
        again(bytes, Response::clone);
        let (mut to, mut from) = pair(Secret::new(&[1; 16]).ok());
        assert!(from.open::<Call>(bytes).is_err());
        if let Ok(mut said) = to.seal(&bytes) {
            let at = 4 + bytes.len() / 2;
            said[at] ^= 1;
            assert!(from.open::<Vec<u8>>(&said[4..]).is_err());
            said[at] ^= 1;
            assert_eq!(from.open::<Vec<u8>>(&said[4..]).as_deref(), Ok(bytes));
        }
    }

    fn pair(key: Option<Secret>) -> (Direction, Direction) {
        (Direction::new(key.clone()), Direction::new(key))
    }

    fn again<M, C>(bytes: &[u8], content: impl Fn(&M) -> C)
    where
        M: Serialize + DeserializeOwned,
        C: PartialEq + std::fmt::Debug,
    {
        let (mut to, mut from) = pair(None);
        if let Ok(message) = from.open::<M>(bytes) {
            let said = to.seal(&message);
            let read = said.and_then(|frame| from.open::<M>(&frame[4..]));
            assert_eq!(read.as_ref().map(&content), Ok(content(&message)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(secret: Option<&[u8; 16]>) -> (Direction, Direction) {
        let key = secret.map(|bytes| Secret::new(bytes).unwrap());
        (Direction::new(key.clone()), Direction::new(key))
    }

    fn call(id: u64) -> Call {
        let request = Request::Swap("k".into(), Some(Revision(4)), vec![1, 2]);
        Call { id, request }
    }

    #[test]
    fn frames_are_taken_in_order_and_unchanged_or_not_at_all() {
        let (mut to, mut from) = pair(Some(&[3; 16]));
        let frames = [to.seal(&call(0)).unwrap(), to.seal(&call(1)).unwrap()];
        // The second before the first, then the first, changed anywhere.
        assert!(from.open::<Call>(&frames[1][4..]).is_err());
        for at in 4..frames[0].len() {
            let mut changed = frames[0].clone();
            changed[at] ^= 1;
            assert!(from.open::<Call>(&changed[4..]).is_err(), "byte {at}");
        }
        assert_eq!(from.open::<Call>(&frames[0][4..]).unwrap().id, 0);
        // Once more.
        let error = from.open::<Call>(&frames[0][4..]).unwrap_err();
        assert_eq!(error, "frame 1 has a wrong code");
        assert_eq!(from.open::<Call>(&frames[1][4..]).unwrap().id, 1);
        assert!(from.open::<Call>(&[0; TAG - 1]).is_err());
        let (_, mut other) = pair(Some(&[4; 16]));
        assert!(other.open::<Call>(&frames[0][4..]).is_err());
    }

    #[test]
    fn a_frame_is_as_long_as_it_says_and_bounded() {
        let (mut to, mut from) = pair(None);
        let frame = to.seal(&call(7)).unwrap();
        let said = u32::from_le_bytes(frame[..4].try_into().unwrap());
        assert_eq!(said as usize, frame.len() - 4);
        assert_eq!(from.open::<Call>(&frame[4..]).unwrap().id, 7);
        let error = to.seal(&vec![0u8; MAX_FRAME]).unwrap_err();
        assert!(error.contains("over the limit of 8388608"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, known: bool) {
            if known {
                bytes.splice(..0, MAGIC);
            }
            fuzzing::frames(&bytes);
        }
    }
}
