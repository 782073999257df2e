//! What a device does to the process that it is in, and to its objects.

use core::ffi::c_void;
use std::fs;
use std::io::Error;
use std::net::{Ipv4Addr, UdpSocket};
use std::ptr;
use std::time::Duration;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::CmdStatus;
use mlx5gda_sys::table::FnTable;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use soft_hca::Config;

use crate::client::Client;

const EBUSY: i32 = 16;

/// The signals that the threads of this name block.
fn blocked(thread: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // Other tests' threads end meanwhile.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        if field("Name:") == thread {
            found.push(u64::from_str_radix(&field("SigBlk:"), 16).unwrap());
        }
    }
    found
}

#[test]
fn the_engine_takes_no_signal_but_its_own_faults() {
    let client = Client::new(Config::default());
    let bit = |signal: libc::c_int| 1u64 << (signal - 1);
    // A thread gives itself its name, a little after it was started.
    let found = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        blocked(&client.name).first().copied()
    });
    let mask = found.unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGALRM, libc::SIGCHLD] {
        assert_ne!(mask & bit(signal), 0, "{signal}");
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        assert_eq!(mask & bit(signal), 0, "{signal}");
    }
}

#[test]
fn a_protection_domain_with_an_address_handle_is_in_use() {
    let client = Client::new(Config::default());
    let table = &client.table;
    let mut attr = ffi::ibv_ah_attr {
        is_global: 1,
        port_num: 1,
        ..Default::default()
    };
    attr.grh.dgid.raw = client.gid;
    attr.grh.sgid_index = 1;
    // SAFETY: the context is open; what is destroyed is not used afterwards.
    unsafe {
        let domains = [(); 2].map(|()| (table.ibv_alloc_pd)(client.context));
        let path = (table.ibv_create_ah)(domains[0], &mut attr);
        assert!(!path.is_null());
        assert_eq!((table.ibv_dealloc_pd)(domains[0]), EBUSY);
        assert_eq!((table.ibv_dealloc_pd)(domains[1]), 0);
        assert_eq!((table.ibv_destroy_ah)(path), 0);
        assert_eq!((table.ibv_dealloc_pd)(domains[0]), 0);
    }
}

#[test]
fn the_firmware_has_a_version() {
    let client = Client::new(Config::default());
    let mut attr = ffi::ibv_device_attr::default();
    // SAFETY: the context is open; `attr` is writable.
    let result = unsafe { (client.table.ibv_query_device)(client.context, &mut attr) };
    assert_eq!(result, 0);
    assert_ne!(attr.fw_ver[0], 0);
    assert_eq!(attr.fw_ver[63], 0);
}

/// Anonymous memory that the process may use so.
struct Memory(*mut c_void);

impl Memory {
    const LEN: usize = 8192;

    fn new(access: ProtFlags) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        Self(
            unsafe { mmap_anonymous(ptr::null_mut(), Self::LEN, access, MapFlags::PRIVATE) }
                .unwrap(),
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and registered no more.
        unsafe { munmap(self.0, Self::LEN) }.unwrap();
    }
}

#[test]
fn memory_is_registered_for_what_the_process_may_do_with_it() {
    let client = Client::new(Config::default());
    let table = &client.table;
    let (none, local) = (0, ffi::IBV_ACCESS_LOCAL_WRITE);
    for (protection, access, fits) in [
        (ProtFlags::READ | ProtFlags::WRITE, local, true),
        (ProtFlags::READ, local, false),
        (ProtFlags::READ, none, true),
        (ProtFlags::empty(), local, false),
        (ProtFlags::empty(), none, false),
    ] {
        let memory = Memory::new(protection);
        // SAFETY: the memory is mapped until both are deregistered.
        unsafe {
            let mr = (table.ibv_reg_mr)(client.pd, memory.0, Memory::LEN, access as i32);
            if mr.is_null() {
                assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
            } else {
                assert_eq!((table.ibv_dereg_mr)(mr), 0);
            }
            assert_eq!(!mr.is_null(), fits, "{protection:?} {access}");
            let umem = (table.mlx5dv_devx_umem_reg)(client.context, memory.0, Memory::LEN, access);
            if umem.is_null() {
                assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
            } else {
                assert_eq!((table.mlx5dv_devx_umem_dereg)(umem), 0);
            }
            assert_eq!(!umem.is_null(), fits, "{protection:?} {access}");
        }
    }
}

/// Opens the device of the list with this index.
fn open(table: &FnTable, index: usize) -> Result<*mut ffi::ibv_context, i32> {
    // SAFETY: there are that many; the list is freed once.
    unsafe {
        let list = (table.ibv_get_device_list)(ptr::null_mut());
        assert!(!list.is_null());
        let context = (table.ibv_open_device)(*list.add(index));
        let error = Error::last_os_error().raw_os_error().unwrap();
        (table.ibv_free_device_list)(list);
        if context.is_null() {
            Err(error)
        } else {
            Ok(context)
        }
    }
}

#[test]
fn an_address_that_is_taken_hides_no_other_device() {
    let taken = Ipv4Addr::new(127, 9, 71, 3);
    let _theirs = UdpSocket::bind((taken, 4791)).unwrap();
    let table = soft_hca::fn_table(Config {
        addresses: vec![taken.into(), Ipv4Addr::new(127, 9, 71, 4).into()],
        ..Config::default()
    })
    .unwrap();
    assert_eq!(open(&table, 0), Err(libc::EADDRINUSE));
    let context = open(&table, 1).unwrap();
    // SAFETY: open.
    assert_eq!(unsafe { (table.ibv_close_device)(context) }, 0);
}

#[test]
fn objects_of_another_context_are_as_good_as_none() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, true);
    let (of_cq, _) = client.cq_command(4, true);
    let (of_qp, ..) = client.qp_command(cq.number, 4);
    assert!(client.create(of_cq).is_ok() && client.create(of_qp).is_ok());
    let other = open(&client.table, 0).unwrap();
    let own = std::mem::replace(&mut client.context, other);
    // Everything in the commands is the first context's.
    let refused = Some(CmdStatus::BadRes);
    assert_eq!(client.create(of_cq).err(), refused);
    assert_eq!(client.create(of_qp).err(), refused);
    // The doorbell page and the domain alone are too much.
    let size = Memory::LEN;
    let memory = Memory::new(ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: the context is open; the memory is mapped until it is closed.
    let umem = unsafe {
        let access = ffi::IBV_ACCESS_LOCAL_WRITE;
        (client.table.mlx5dv_devx_umem_reg)(other, memory.0, size, access)
    };
    assert!(!umem.is_null());
    // SAFETY: alive until the context is closed.
    let id = unsafe { (*umem).umem_id };
    let mut with_umem = of_cq;
    with_umem.set_cq_umem_id(id);
    with_umem.set_cq_umem_offset(0);
    with_umem.cq_context.set_dbr_umem_id(id);
    with_umem.cq_context.set_dbr_addr(4096);
    assert_eq!(client.create(with_umem).err(), refused);
    client.context = own;
    // SAFETY: open, and not used afterwards.
    assert_eq!(unsafe { (client.table.ibv_close_device)(other) }, 0);
}
