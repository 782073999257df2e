//! Windows: a peer's region mapped into this process, for ranks of one host.
//!
//! A rank serves its region's descriptor at a Unix socket in the abstract
//! namespace; a process of the same user gets it as ancillary data, with the region's
//! size and the GPU that it is memory of, if it is. Each side sees to it that the other is
//! of its user. The descriptor lets its holder write for as long as it likes: unlike a
//! remote key it cannot be taken back from a life that is over.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with,
};
use rustix::process::getuid;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::GroupConfig;
use crate::error::{Chain, Error};
use crate::ids::Rank;
use crate::member::records::Card;
use crate::region::Region;

const PATIENCE: Duration = Duration::from_secs(2);
/// Connections served at a time.
const MOST_AT_A_TIME: usize = 256;
const ACCEPT_PERIOD: Duration = Duration::from_millis(10);
const HELLO: &[u8; 8] = b"EPWIN\0\x02\0";

/// Identifies this host and its current boot; ranks with the same one share memory.
fn host_identity() -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    // Abstract sockets belong to a network namespace: another one is another host.
    let network = std::fs::read_link("/proc/self/ns/net")?;
    Ok(format!("{} {}", boot.trim(), network.display()))
}

/// The same, for `rank`'s card.
pub(crate) fn host_of(rank: Rank) -> Result<String, Error> {
    host_identity().map_err(failed(rank, "host identity"))
}

/// What a window shows, as its owner hands it out.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) file: OwnedFd,
    pub(crate) bytes: u64,
    /// The UUID of the GPU that it is memory of.
    pub(crate) gpu: Option<[u8; 16]>,
}

impl Shared {
    /// `rank`'s region in host memory.
    pub(crate) fn host(rank: Rank, region: &Region) -> Result<Self, Error> {
        let file = region
            .file()
            .ok_or_else(|| io::ErrorKind::Unsupported.into());
        let file = file.and_then(|file| file.try_clone_to_owned());
        Ok(Self {
            file: file.map_err(failed(rank, "descriptor"))?,
            bytes: region.len(),
            gpu: None,
        })
    }
}

/// Hands out a descriptor until dropped.
#[derive(Debug)]
pub(crate) struct WindowServer {
    name: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WindowServer {
    fn start(name: String, shared: Shared) -> io::Result<Self> {
        let shared = Arc::new(shared);
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("window".into()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => answer(stream, &shared),
                        Err(_) => std::thread::sleep(ACCEPT_PERIOD),
                    }
                }
            }
        })?;
        Ok(Self {
            name,
            stop,
            thread: Some(thread),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for WindowServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves one connection beside all others: one that stays silent holds nobody up. Beyond
/// so many, those that come are closed and may come again.
fn answer(stream: UnixStream, shared: &Arc<Shared>) {
    if Arc::strong_count(shared) > MOST_AT_A_TIME {
        return;
    }
    let shared = Arc::clone(shared);
    let serve = move || {
        if let Err(error) = hand_out(&stream, &shared) {
            tracing::debug!(error = %Chain(&error), "window not handed out");
        }
    };
    let serving = std::thread::Builder::new().name("window-out".into());
    if let Err(error) = serving.spawn(serve) {
        tracing::warn!(error = %Chain(&error), "no thread to hand a window out");
    }
}

/// Whether the other end is this user's: of a listener, who has called `listen`.
fn same_user(stream: &UnixStream) -> io::Result<()> {
    let (ours, theirs) = (getuid(), socket_peercred(stream)?.uid);
    if theirs != ours {
        let what = format!(
            "the other end is user {}, this one {}",
            theirs.as_raw(),
            ours.as_raw()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

fn hand_out(mut stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    same_user(stream)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello)?;
    if hello != *HELLO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let files = [shared.file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let size = shared.bytes.to_le_bytes();
    let gpu = shared.gpu.unwrap_or_default();
    sendmsg(
        stream.as_fd(),
        &[IoSlice::new(&size), IoSlice::new(&gpu)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Serves this rank's region, under a name that is unique on this host, whatever else runs
/// there and in this process.
pub(crate) fn serve(config: &GroupConfig, shared: Shared) -> Result<WindowServer, Error> {
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "ep-window-{}-{}-{}-{}",
        config.group,
        config.rank.0,
        std::process::id(),
        SERVED.fetch_add(1, Ordering::Relaxed)
    );
    WindowServer::start(name, shared).map_err(failed(config.rank, "socket"))
}

/// What could not be done for the window of `rank`.
fn failed(rank: Rank, what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Window { rank, what, source }
}

/// Connects; an owner that stands still has room for some connections and then for none.
fn connect(name: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Bounds `connect` too (socket(7)).
    let stream = UnixStream::from(stream);
    stream.set_write_timeout(Some(PATIENCE))?;
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    match rustix::net::connect(&stream, &address) {
        Ok(()) => Ok(stream),
        Err(Errno::AGAIN) => {
            let what = format!("its owner took no connection for {PATIENCE:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gets what is served under `name`.
fn fetch(name: &str) -> io::Result<Shared> {
    let mut stream = connect(name)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Abstract names belong to nobody: whoever is quick could have taken this one.
    same_user(&stream)?;
    stream.write_all(HELLO)?;
    let (mut size, mut gpu) = ([0; 8], [0; 16]);
    let whole = size.len() + gpu.len();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut size), IoSliceMut::new(&mut gpu)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    match file {
        Some(file) if received.bytes == whole => Ok(Shared {
            file,
            bytes: u64::from_le_bytes(size),
            gpu: (gpu != [0; 16]).then_some(gpu),
        }),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Gets what the rank with this card serves, which must be on this host.
pub(crate) fn fetch_from(card: &Card) -> Result<Shared, Error> {
    let rank = card.rank;
    let ours = host_of(rank)?;
    if card.host != ours {
        return Err(Error::OtherHost {
            rank,
            theirs: card.host.clone(),
            ours,
        });
    }
    let name = card.window.as_ref().ok_or(Error::NotOffered {
        rank,
        what: "window",
    })?;
    fetch(name).map_err(failed(rank, format!("socket {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, listen, socket};

    #[test]
    fn a_region_is_mapped_through_its_socket() {
        let region = Region::shared("served", 4096).unwrap();
        let name = format!("ep-window-test-{}", std::process::id());
        let shared = Shared::host(Rank(0), &region).unwrap();
        let server = WindowServer::start(name.clone(), shared).unwrap();
        let window = Region::reserved(4096).unwrap();
        let shared = fetch(server.name()).unwrap();
        assert_eq!((shared.bytes, shared.gpu), (4096, None));
        window.replace(shared.file.as_fd()).unwrap();
        window.store_release(8, 99).unwrap();
        assert_eq!(region.load_acquire(8).unwrap(), 99);
        drop(server);
        assert!(fetch(&name).is_err());
    }

    #[test]
    fn silent_connections_hold_nobody_up() {
        let region = Region::shared("served", 4096).unwrap();
        let name = format!("ep-silent-window-test-{}", std::process::id());
        let shared = Shared::host(Rank(0), &region).unwrap();
        let server = WindowServer::start(name.clone(), shared).unwrap();
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let silent: Vec<_> = (0..20)
            .map(|_| UnixStream::connect_addr(&address).unwrap())
            .collect();
        let began = std::time::Instant::now();
        assert_eq!(fetch(server.name()).unwrap().bytes, 4096);
        assert!(began.elapsed() < PATIENCE);
        drop(silent);
    }

    /// What `fetch` says, which must come back.
    fn fetched(name: &str) -> io::Result<Shared> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let name = name.to_owned();
        std::thread::spawn(move || sender.send(fetch(&name)));
        receiver.recv_timeout(10 * PATIENCE).unwrap()
    }

    #[test]
    fn an_owner_that_stands_still_holds_nobody_up_for_long() {
        let name = format!("ep-frozen-window-test-{}", std::process::id());
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let frozen = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&frozen, &address).unwrap();
        listen(&frozen, 0).unwrap();
        // One connection waits to be accepted, and there is no room for more.
        let first = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let first = UnixStream::connect_addr(&first).unwrap();
        let error = fetched(&name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        drop(first);
        let error = fetched(&format!("{name}-of-nobody")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    }

    /// Names belong to whoever is the first to take them.
    #[test]
    fn another_user_who_serves_a_name_is_refused() {
        const NOBODY: libc::uid_t = 65534;
        if !getuid().is_root() {
            return;
        }
        let region = Region::shared("served", 4096).unwrap();
        let shared = Shared::host(Rank(0), &region).unwrap();
        let name = format!("ep-foreign-window-test-{}", std::process::id());
        let foreign = {
            let name = name.clone();
            std::thread::spawn(move || {
                // The system call changes this thread alone, the function of that name all.
                // SAFETY: takes three numbers and no memory.
                let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
                assert_eq!(changed, 0);
                let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
                UnixListener::bind_addr(&address).unwrap()
            })
        };
        let listener = foreign.join().unwrap();
        let serving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            hand_out(&stream, &shared)
        });
        let error = fetched(&name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("65534"), "{error}");
        assert!(serving.join().unwrap().is_err());
    }

    #[test]
    fn whose_gpu_a_region_is_on_comes_with_it() {
        let region = Region::shared("served", 8192).unwrap();
        let shared = Shared {
            gpu: Some([7; 16]),
            ..Shared::host(Rank(0), &region).unwrap()
        };
        let name = format!("ep-gpu-window-test-{}", std::process::id());
        let server = WindowServer::start(name, shared).unwrap();
        let shared = fetch(server.name()).unwrap();
        assert_eq!((shared.bytes, shared.gpu), (8192, Some([7; 16])));
    }
}
