//! Windows: a peer's region mapped into this process, for ranks of one host.
//!
//! A rank serves its region's descriptor at a Unix socket in the abstract
//! namespace; a process of the same user gets it as ancillary data. The descriptor
//! lets its holder write for as long as it likes: unlike a remote key it cannot be
//! taken back from a life that is over.

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
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
use crate::region::Region;

const PATIENCE: Duration = Duration::from_secs(2);
const ACCEPT_PERIOD: Duration = Duration::from_millis(10);
const HELLO: &[u8; 8] = b"EPWIN\0\x01\0";

/// Identifies this host and its current boot; ranks with the same one share memory.
pub(crate) fn host_identity() -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    // Abstract sockets belong to a network namespace: another one is another host.
    let network = std::fs::read_link("/proc/self/ns/net")?;
    Ok(format!("{} {}", boot.trim(), network.display()))
}

/// Hands out the descriptor of a region until dropped.
#[derive(Debug)]
pub(crate) struct WindowServer {
    name: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WindowServer {
    pub(crate) fn start(name: String, region: Arc<Region>) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("window".into()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            if let Err(error) = hand_out(&stream, &region) {
                                tracing::debug!(error = %Chain(&error), "window not handed out");
                            }
                        }
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

fn hand_out(mut stream: &UnixStream, region: &Region) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello)?;
    if hello != *HELLO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let theirs = socket_peercred(stream)?.uid;
    if theirs != getuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let file = region.file().ok_or(io::ErrorKind::Unsupported)?;
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let size = region.len().to_le_bytes();
    sendmsg(
        stream.as_fd(),
        &[IoSlice::new(&size)],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Serves this rank's region, under a name that is unique on this host, whatever else runs
/// there and in this process.
pub(crate) fn serve(config: &GroupConfig, region: &Arc<Region>) -> Result<WindowServer, Error> {
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "ep-window-{}-{}-{}-{}",
        config.group,
        config.rank.0,
        std::process::id(),
        SERVED.fetch_add(1, Ordering::Relaxed)
    );
    WindowServer::start(name, Arc::clone(region)).map_err(failed(config.rank, "socket"))
}

/// What could not be done for the window of `rank`.
pub(crate) fn failed(rank: Rank, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Window {
        rank,
        what: what.into(),
        source,
    }
}

/// Gets the descriptor that is served under `name`.
pub(crate) fn fetch(name: &str) -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(HELLO)?;
    let mut size = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut size)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        })
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_mapped_through_its_socket() {
        let region = Arc::new(Region::shared("served", 4096).unwrap());
        let name = format!("ep-window-test-{}", std::process::id());
        let server = WindowServer::start(name.clone(), Arc::clone(&region)).unwrap();
        let window = Region::reserved(4096).unwrap();
        window
            .replace(fetch(server.name()).unwrap().as_fd())
            .unwrap();
        window.store_release(8, 99).unwrap();
        assert_eq!(region.load_acquire(8).unwrap(), 99);
        drop(server);
        assert!(fetch(&name).is_err());
    }
}
