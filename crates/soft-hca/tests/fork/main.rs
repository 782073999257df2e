//! Ranks that are forked, as launchers do it. In a process of its own, since a
//! child has but the thread that forked, and whatever locks others held.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[expect(dead_code, reason = "shared with other tests, which use all of it")]
#[path = "../it/client.rs"]
mod client;

use std::panic::catch_unwind;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::Mtu;
use mlx5gda_sys::table::FnTable;
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::Config;

use crate::client::Pair;

/// Seconds that a child has.
const PATIENCE: u32 = 20;

/// Runs in a child; the process to wait for.
fn in_child(run: fn()) -> libc::pid_t {
    // SAFETY: the child runs code that takes no lock that another thread of this
    // process holds, ends without cleaning up, and is killed if it hangs.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: takes no pointers.
            unsafe { libc::alarm(PATIENCE) };
            let failed = catch_unwind(run).is_err();
            // SAFETY: ends the process.
            unsafe { libc::_exit(failed.into()) }
        }
        child => child,
    }
}

fn exit_code(child: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

fn writes(pair: &mut Pair, count: u32) {
    for _ in 0..count {
        let index = pair.qp_a.posted;
        let from = DataPtr {
            addr: pair.a.address(),
            lkey: pair.a.key(),
            len: 20_000,
        };
        let to = Remote {
            addr: pair.b.address(),
            rkey: pair.b.key(),
        };
        let wqe = Wqe::rdma_write(pair.a.signalled(&pair.qp_a), to, &[from], None).unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        pair.a.wait(&pair.cq_a, index).unwrap();
    }
}

fn pair() -> Pair {
    Pair::new(Mtu::Bytes4096, 4, true)
}

#[test]
fn forked_ranks_have_devices_of_their_own() {
    // SAFETY: a list is asked for and freed; its devices stay valid.
    let listed = |table: &FnTable| unsafe {
        let list = (table.ibv_get_device_list)(std::ptr::null_mut());
        assert!(!list.is_null());
        let device = *list;
        (table.ibv_free_device_list)(list);
        device
    };
    // Listed only, and opened by what the parent has.
    let table = soft_hca::fn_table(Config::default()).unwrap();
    let device = listed(&table);
    let context = std::ptr::null_mut();
    assert_eq!(exit_code(reopen(&table, context, device)), Some(0));
    let ranks = [(); 2].map(|()| in_child(|| writes(&mut pair(), 100)));
    assert_eq!(ranks.map(exit_code), [Some(0); 2]);

    // Open, and at work meanwhile.
    let mut mine = pair();
    let ranks = [(); 2].map(|()| in_child(|| writes(&mut pair(), 100)));
    writes(&mut mine, 100);
    assert_eq!(ranks.map(exit_code), [Some(0); 2]);
    writes(&mut mine, 1);

    // What the parent has open is unknown to a child.
    let child = reopen(&table, mine.a.context, device);
    assert_eq!(exit_code(child), Some(0));
    writes(&mut mine, 1);
}

/// Closes a context and opens a device of the parent's in a child, which ends
/// with 0 if the one is refused and the other is not.
fn reopen(
    table: &FnTable,
    context: *mut ffi::ibv_context,
    device: *mut ffi::ibv_device,
) -> libc::pid_t {
    // SAFETY: as in `in_child`; pointers that are unknown are refused.
    unsafe {
        match libc::fork() {
            0 => {
                libc::alarm(PATIENCE);
                let refused = (table.ibv_close_device)(context) != 0;
                let opened = (table.ibv_open_device)(device);
                let closed = !opened.is_null() && (table.ibv_close_device)(opened) == 0;
                libc::_exit(i32::from(!refused) | i32::from(!closed) << 1)
            }
            child => child,
        }
    }
}
