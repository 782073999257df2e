//! Eventfds that count events.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::readlink;
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr, write};

/// What the links to eventfds in `/proc` say.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";

/// A descriptor of its own for a client's eventfd.
///
/// # Errors
/// `EINVAL` if it is none, as the kernel has it; the system's if that cannot be told,
/// for lack of `/proc`.
pub(crate) fn eventfd_of(client: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let own = fcntl_dupfd_cloexec(client, 0)?;
    let link = format!("/proc/thread-self/fd/{}", own.as_raw_fd());
    if readlink(link, Vec::new())?.as_bytes() != EVENTFD {
        return Err(Errno::INVAL);
    }
    Ok(own)
}

/// Adds 1 to an eventfd if it has room. One that is full says already that there is
/// something, and a write to it would wait for its reader.
pub(super) fn add(counter: impl AsFd) -> Result<(), Errno> {
    let mut fds = [PollFd::new(&counter, PollFlags::OUT)];
    let at_once = Timespec::default();
    retry_on_intr(|| poll(&mut fds, Some(&at_once)))?;
    if fds[0].revents().contains(PollFlags::OUT) {
        write(&counter, &1u64.to_ne_bytes())?;
    }
    Ok(())
}
