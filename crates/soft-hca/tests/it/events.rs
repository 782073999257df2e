//! Asynchronous events, and what the port is like meanwhile.

use std::io::Error;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use rustix::fs::{OFlags, fcntl_setfl};

use crate::client::{Client, Pair};

fn next_event(client: &Client) -> Result<(u32, i32), i32> {
    let mut event = ffi::ibv_async_event::default();
    // SAFETY: the context is open; `event` is writable. Events of the port
    // carry its number.
    unsafe {
        if (client.table.ibv_get_async_event)(client.context, &mut event) != 0 {
            return Err(Error::last_os_error().raw_os_error().unwrap());
        }
        (client.table.ibv_ack_async_event)(&mut event);
        Ok((event.event_type, event.element.port_num))
    }
}

fn port_state(client: &Client) -> u32 {
    let mut port = ffi::ibv_port_attr::default();
    let out: *mut ffi::ibv_port_attr = &mut port;
    // SAFETY: the context is open; `out` is writable.
    let result = unsafe { (client.table.ibv_query_port)(client.context, 1, out.cast()) };
    assert_eq!(result, 0);
    port.state
}

#[test]
fn a_link_that_goes_down_and_up_is_announced_and_heals() {
    const AGAIN: i32 = 11;
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    // SAFETY: open as long as the context.
    let fd = unsafe { BorrowedFd::borrow_raw((*pair.a.context).async_fd) };
    fcntl_setfl(fd, OFlags::NONBLOCK).unwrap();
    assert_eq!(next_event(&pair.a), Err(AGAIN));

    soft_hca::set_link(&pair.a.name, false).unwrap();
    soft_hca::set_link(&pair.a.name, false).unwrap();
    assert_eq!(next_event(&pair.a), Ok((ffi::IBV_EVENT_PORT_ERR, 1)));
    assert_eq!(next_event(&pair.a), Err(AGAIN));
    assert_eq!(port_state(&pair.a), ffi::IBV_PORT_DOWN);
    assert_eq!(port_state(&pair.b), ffi::IBV_PORT_ACTIVE);

    pair.a.store(0, &[7; 8]);
    let from = DataPtr {
        addr: pair.a.address(),
        lkey: pair.a.key(),
        len: 8,
    };
    let to = Remote {
        addr: pair.b.address(),
        rkey: pair.b.key(),
    };
    let wqe = Wqe::rdma_write(pair.a.signalled(&pair.qp_a), to, &[from], None).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(pair.b.load(0, 8), [0; 8]);

    soft_hca::set_link(&pair.a.name, true).unwrap();
    assert_eq!(next_event(&pair.a), Ok((ffi::IBV_EVENT_PORT_ACTIVE, 1)));
    assert_eq!(port_state(&pair.a), ffi::IBV_PORT_ACTIVE);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Ok(()));
    assert_eq!(pair.b.load(0, 8), [7; 8]);
}
