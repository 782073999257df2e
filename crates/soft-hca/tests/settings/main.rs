//! What a program in C hears of an environment that cannot be understood. In a process of its own,
//! which forks and has nothing else that could write to standard error.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, pipe};
use std::os::fd::AsRawFd;
use std::ptr;

use mlx5gda_sys::table::FnTable;
use soft_hca::Config;

/// What a child whose environment has this variable writes to standard error when it
/// asks for the devices, of which it sees none.
fn complaint(table: &FnTable, name: &str, value: &str) -> String {
    let (mut reader, writer) = pipe().unwrap();
    // SAFETY: the child has one thread, so that nobody else looks at its environment, and ends
    // without cleaning up; no other thread of this process holds a lock.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(20);
            libc::dup2(writer.as_raw_fd(), 2);
            std::env::set_var(name, value);
            let list = (table.ibv_get_device_list)(ptr::null_mut());
            let invalid = *libc::__errno_location() == libc::EINVAL;
            libc::_exit(i32::from(!list.is_null() || !invalid));
        }
        child
    };
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "{name}={value}: {text}");
    text
}

#[test]
fn a_setting_that_cannot_be_used_is_told_on_standard_error() {
    // What a thread has asked for comes before the environment, so another one asks.
    let table = std::thread::spawn(|| soft_hca::fn_table(Config::default()).unwrap());
    let table = table.join().unwrap();
    for (name, value, why) in [
        ("SOFT_HCA_ADDRS", "nonsense", "not an IP address"),
        ("SOFT_HCA_LOSS", "2", "between 0 and 1"),
        ("SOFT_HCA_MTU", "1500", "256, 512, 1024, 2048, 4096"),
        ("SOFT_HCA_DEVICES", "65", "between 1 and 64"),
        ("SOFT_HCA_LIDS", "0=::1", "between 1 and 49151"),
        ("SOFT_HCA_LOS", "0.5", "LOSS"),
    ] {
        let text = complaint(&table, name, value);
        assert!(text.starts_with(&format!("soft-hca: {name}: ")), "{text}");
        assert!(text.contains(why), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
