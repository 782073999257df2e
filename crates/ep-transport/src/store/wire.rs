//! Messages of the TCP store: a hello that names protocol and version, then
//! length-prefixed postcard frames, one answer for each request.

use super::{Changes, Entry, LeaseId, MAX_VALUE, Revision, Swap};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::time::Duration;

/// Version of the store's protocol. Both sides must speak the same.
pub const PROTOCOL_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"EPRV";
const MAX_FRAME: usize = 8 * MAX_VALUE;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Put(String, Vec<u8>, Option<LeaseId>),
    Get(String),
    Delete(String),
    Swap(String, Option<Revision>, Vec<u8>),
    Changes(String, Revision, Duration),
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Response {
    Revision(Revision),
    Entry(Option<Entry>),
    Done,
    Swap(Swap),
    Changes(Changes),
    Lease(LeaseId),
    LeaseEnded(LeaseId),
    Refused(String),
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn send_hello(to: &mut impl Write) -> io::Result<()> {
    let mut hello = [0; 6];
    hello[..4].copy_from_slice(&MAGIC);
    hello[4..].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    to.write_all(&hello)
}

/// The other side's version, or what it sent instead of a hello.
pub(super) fn read_hello(from: &mut impl Read) -> io::Result<Result<u16, String>> {
    let mut hello = [0; 6];
    from.read_exact(&mut hello)?;
    let [magic @ .., low, high] = hello;
    Ok(if magic == MAGIC {
        Ok(u16::from_le_bytes([low, high]))
    } else {
        Err(format!("{:?}", String::from_utf8_lossy(&hello)))
    })
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(invalid)?;
    let len = u32::try_from(body.len())
        .ok()
        .filter(|len| *len as usize <= MAX_FRAME)
        .ok_or_else(|| invalid(format!("frame of {} bytes", body.len())))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

pub(super) fn receive<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<M> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_FRAME {
        return Err(invalid(format!(
            "frame of {len} bytes is over the limit of {MAX_FRAME}"
        )));
    }
    // Grows as bytes arrive: a length that is only claimed reserves nothing.
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&body).map_err(invalid)
}
