//! One connection of the TCP store: the handshake, then messages both ways.

use super::wire::{self, Direction, Hello, Nonce};
use super::{PROTOCOL_VERSION, StoreError};
use crate::secret::{Secret, TAG, Tag};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const ACCEPTED: u8 = 1;
const REFUSED: u8 = 0;

/// How long a connection may be silent before the other side's system is asked whether
/// it is there, and how often it is asked.
const PROBE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];
/// How long the other side's system may leave bytes or those questions unanswered. Longer
/// than either side takes to finish a message or waits for the other to take one.
const UNANSWERED: Duration = Duration::from_secs(25);

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Store,
}

/// Why a handshake or an exchange of messages ended.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection failed or took too long.
    Io(io::Error),
    /// The other side speaks another version, or something else.
    Version(String),
    /// The two sides do not share a secret.
    Unauthenticated(&'static str),
    /// A message that cannot be understood or was tampered with.
    Bad(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(match error.kind() {
            // The time-out of a socket comes as this, which does not say much.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

impl Fault {
    /// Whether the system of the other side closed the connection, as it does when the
    /// process there ends.
    pub(super) fn closed_by_peer(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Io(error)
            if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }

    pub(super) fn at(self, address: &str) -> StoreError {
        let address = address.to_owned();
        match self {
            Self::Io(source) => StoreError::Connection { address, source },
            Self::Version(theirs) => StoreError::Version {
                address,
                theirs,
                ours: PROTOCOL_VERSION,
            },
            Self::Unauthenticated(why) => StoreError::Unauthenticated { address, why },
            Self::Bad(what) => StoreError::BadMessage {
                from: address,
                what,
            },
        }
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Channel {
    stream: TcpStream,
    sending: Direction,
    receiving: Direction,
}

impl Channel {
    /// Says hello, hears it, and with a secret proves to know it and has the other
    /// side prove it. All by `deadline`.
    pub(super) fn establish(
        mut stream: TcpStream,
        side: Side,
        secret: Option<&Secret>,
        deadline: Instant,
    ) -> Result<Self, Fault> {
        stream.set_nodelay(true)?;
        notice_vanished(&stream)?;
        let mut nonce: Nonce = [0; 32];
        fill_random(&mut nonce)?;
        let ours = Hello {
            secured: secret.is_some(),
            nonce,
        };
        write_by(&mut stream, &ours.encode(), deadline)?;
        // Both sides speak first, so that each can name the other's version.
        let mut preamble = [0; wire::PREAMBLE];
        read_by(&mut stream, &mut preamble, deadline)?;
        match wire::version(preamble) {
            Ok(PROTOCOL_VERSION) => {}
            Ok(version) => return Err(Fault::Version(format!("version {version}"))),
            Err(said) => return Err(Fault::Version(said)),
        }
        let mut rest = [0; wire::HELLO_REST];
        read_by(&mut stream, &mut rest, deadline)?;
        let theirs = Hello::decode(&rest).map_err(Fault::Bad)?;
        let nonces = match side {
            Side::Client => [ours.nonce, theirs.nonce],
            Side::Store => [theirs.nonce, ours.nonce],
        };
        let keys = match (secret, theirs.secured) {
            (None, false) => [None, None],
            (Some(secret), true) => {
                prove(&mut stream, side, secret, nonces, deadline)?;
                ["to the store", "to the client"]
                    .map(|way| Some(secret.derive(way, &[&nonces[0], &nonces[1]])))
            }
            (None, true) => {
                return Err(Fault::Unauthenticated(
                    "it asks for a secret, this side has none",
                ));
            }
            (Some(_), false) => {
                return Err(Fault::Unauthenticated(
                    "it has no secret, this side asks for one",
                ));
            }
        };
        let [to_store, to_client] = keys.map(Direction::new);
        let (sending, receiving) = match side {
            Side::Client => (to_store, to_client),
            Side::Store => (to_client, to_store),
        };
        Ok(Self {
            stream,
            sending,
            receiving,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether the other side has closed the connection, or it has failed.
    pub(super) fn is_over(&self) -> bool {
        let mut ends = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec::default();
        poll(&mut ends, Some(&now)).is_ok_and(|ended| ended > 0)
    }

    pub(super) fn send(&mut self, message: &impl Serialize, by: Instant) -> Result<(), Fault> {
        let frame = self.sending.seal(message).map_err(Fault::Bad)?;
        Ok(write_by(&mut self.stream, &frame, by)?)
    }

    /// Waits for a message to begin until `begin` (`None`: as long as it takes), and
    /// for the rest of it `patience` longer.
    pub(super) fn receive<M: DeserializeOwned>(
        &mut self,
        begin: Option<Instant>,
        patience: Duration,
    ) -> Result<M, Fault> {
        let mut length = [0; 4];
        let (first, others) = length.split_at_mut(1);
        match begin {
            Some(deadline) => read_by(&mut self.stream, first, deadline)?,
            None => {
                self.stream.set_read_timeout(None)?;
                self.stream.read_exact(first)?;
            }
        }
        let deadline = crate::clock::deadline(patience);
        read_by(&mut self.stream, others, deadline)?;
        let length = u32::from_le_bytes(length) as usize;
        wire::length(length).map_err(Fault::Bad)?;
        let mut left = length + self.receiving.trailer();
        // Grows as bytes arrive: a length that is only claimed reserves nothing.
        let mut frame = Vec::new();
        let mut piece = [0; 4096];
        while left > 0 {
            let wanted = left.min(piece.len());
            let piece = &mut piece[..wanted];
            read_by(&mut self.stream, piece, deadline)?;
            frame.extend_from_slice(piece);
            left -= wanted;
        }
        self.receiving.open(&frame).map_err(Fault::Bad)
    }
}

/// Has the connection fail when the other side's host, or the network to it, is gone
/// without a word.
fn notice_vanished(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let millis = u32::try_from(UNANSWERED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_keepidle(stream, PROBE[0])?;
    sockopt::set_tcp_keepintvl(stream, PROBE[1])?;
    // By Linux this time holds for the questions too, in place of their number.
    sockopt::set_tcp_user_timeout(stream, millis)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// The client proves first: a store says nothing about the secret to strangers.
fn prove(
    stream: &mut TcpStream,
    side: Side,
    secret: &Secret,
    nonces: [Nonce; 2],
    deadline: Instant,
) -> Result<(), Fault> {
    let version = PROTOCOL_VERSION.to_le_bytes();
    let parts: [&[u8]; 3] = [&version, &nonces[0], &nonces[1]];
    let (client, store) = ("client knows", "store knows");
    let mut proof: Tag = [0; TAG];
    let mut verdict = [REFUSED];
    match side {
        Side::Client => {
            write_by(stream, &secret.tag(client, &parts), deadline)?;
            read_by(stream, &mut verdict, deadline)?;
            if verdict != [ACCEPTED] {
                return Err(Fault::Unauthenticated("it refuses this side's secret"));
            }
            read_by(stream, &mut proof, deadline)?;
            if !secret.verify(store, &parts, &proof) {
                return Err(Fault::Unauthenticated("it does not know the secret"));
            }
        }
        Side::Store => {
            read_by(stream, &mut proof, deadline)?;
            if !secret.verify(client, &parts, &proof) {
                write_by(stream, &verdict, deadline)?;
                return Err(Fault::Unauthenticated("it does not know the secret"));
            }
            write_by(stream, &[ACCEPTED], deadline)?;
            write_by(stream, &secret.tag(store, &parts), deadline)?;
        }
    }
    Ok(())
}

/// Random bytes from the system.
pub(super) fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !bytes.is_empty() {
        let filled = getrandom(&mut *bytes, GetRandomFlags::empty())?;
        bytes = &mut bytes[filled..];
    }
    Ok(())
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn read_by(stream: &mut TcpStream, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        match stream.read(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_by(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left_until(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;
    use std::net::TcpListener;

    #[test]
    fn both_ends_notice_when_the_other_host_vanishes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let [client, store] = std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let stream = TcpStream::connect(address).unwrap();
                Channel::establish(stream, Side::Client, None, deadline).unwrap()
            });
            let (stream, _) = listener.accept().unwrap();
            let store = Channel::establish(stream, Side::Store, None, deadline).unwrap();
            [client.join().unwrap(), store]
        });
        for end in [&client, &store].map(Channel::stream) {
            assert!(sockopt::socket_keepalive(end).unwrap());
            assert_eq!(sockopt::tcp_keepidle(end).unwrap(), PROBE[0]);
            assert_eq!(sockopt::tcp_keepintvl(end).unwrap(), PROBE[1]);
            assert_eq!(sockopt::tcp_user_timeout(end).unwrap(), 25_000);
        }
    }
}
