//! Memory keys made by command, and memory behind a descriptor.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use mlx5gda_sys::cqe::Syndrome;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{CmdStatus, CreateMkeyIn, Mkc, Mtu, QueryMkeyIn};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use soft_hca::Reason;

use crate::client::{ACCESS, Client, Pair};

const EBUSY: i32 = 16;
/// Where the key's memory lies in the umem, and how much there is of it.
const OFFSET: u64 = 0x1008;
const LENGTH: u64 = 0x2000;
/// Where it appears.
const START: u64 = 0x7000_0000_0008;

/// How to spoil something, and what comes of it.
type Case<T, R> = (fn(&mut T), R);

/// A key for a part of the client's data memory, which is made a umem.
pub(crate) struct Key {
    umem: *mut ffi::mlx5dv_devx_umem,
    pub(crate) command: CreateMkeyIn,
}

impl Key {
    pub(crate) fn new(client: &Client) -> Self {
        let memory = ptr::with_exposed_provenance_mut(client.address() as usize);
        // SAFETY: the data memory is alive as long as the client.
        let umem = unsafe {
            (client.table.mlx5dv_devx_umem_reg)(
                client.context,
                memory,
                1 << 20,
                ffi::IBV_ACCESS_LOCAL_WRITE,
            )
        };
        assert!(!umem.is_null());
        let mut command = CreateMkeyIn::new();
        // SAFETY: alive until the client is closed.
        command.set_mkey_umem_id(unsafe { (*umem).umem_id });
        command.set_mkey_umem_offset(OFFSET);
        let mkc = &mut command.memory_key_mkey_entry;
        mkc.set_access_mode_1_0(1).unwrap();
        mkc.set_lr(true);
        mkc.set_lw(true);
        mkc.set_rr(true);
        mkc.set_rw(true);
        mkc.set_qpn(0x00ff_ffff).unwrap();
        mkc.set_mkey_7_0(0x5a);
        mkc.set_pd(client.pdn).unwrap();
        mkc.set_start_addr(START);
        mkc.set_length(LENGTH);
        mkc.set_log_page_size(12).unwrap();
        // Three pages, two to an octword.
        mkc.set_translations_octword_size(2);
        Self { umem, command }
    }

    fn make(&self, client: &Client) -> (*mut ffi::mlx5dv_devx_obj, u32) {
        let (object, out) = client.create(self.command).unwrap();
        (object, out.mkey_index() << 8 | 0x5a)
    }
}

fn write(pair: &mut Pair, from: DataPtr, to: Remote) -> Result<(), Syndrome> {
    let index = pair.qp_a.posted;
    let wqe = Wqe::rdma_write(pair.a.signalled(&pair.qp_a), to, &[from], None).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    let done = pair.a.wait(&pair.cq_a, index);
    done.map_err(|(_, syndrome)| syndrome)
}

fn plain(pair: &Pair, offset: u64, len: u32) -> DataPtr {
    DataPtr {
        addr: pair.a.address() + offset,
        lkey: pair.a.key(),
        len,
    }
}

#[test]
fn a_key_over_a_umem_works_on_both_sides() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let (_, rkey) = Key::new(&pair.b).make(&pair.b);
    let (_, lkey) = Key::new(&pair.a).make(&pair.a);
    pair.a.store(OFFSET as usize + 16, &[9; 100]);
    let from = DataPtr {
        addr: START + 16,
        lkey,
        len: 100,
    };
    let to = Remote {
        addr: START + 3,
        rkey,
    };
    assert_eq!(write(&mut pair, from, to), Ok(()));
    assert_eq!(pair.b.load(OFFSET as usize + 3, 100), [9; 100]);
    // The last byte is in, the next is not.
    let last = |addr| Remote { addr, rkey };
    let one = plain(&pair, 0, 1);
    assert_eq!(write(&mut pair, one, last(START + LENGTH - 1)), Ok(()));
    let beyond = write(&mut pair, one, last(START + LENGTH));
    assert_eq!(beyond, Err(Syndrome::RemoteAccess));
}

#[test]
fn a_keys_rights_hold() {
    let spoils: [Case<Mkc, Syndrome>; 4] = [
        (|mkc| mkc.set_rw(false), Syndrome::RemoteAccess),
        (
            |mkc| mkc.set_start_addr(START + 4096),
            Syndrome::RemoteAccess,
        ),
        (|mkc| mkc.set_length(8), Syndrome::RemoteAccess),
        (|mkc| mkc.set_mkey_7_0(0x5b), Syndrome::RemoteAccess),
    ];
    for (spoil, syndrome) in spoils {
        let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
        let mut key = Key::new(&pair.b);
        spoil(&mut key.command.memory_key_mkey_entry);
        let (_, rkey) = key.make(&pair.b);
        let from = plain(&pair, 0, 16);
        let to = Remote { addr: START, rkey };
        assert_eq!(write(&mut pair, from, to), Err(syndrome));
        assert_eq!(pair.b.load(OFFSET as usize, 16), [0; 16]);
    }
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let mut key = Key::new(&pair.a);
    key.command.memory_key_mkey_entry.set_lr(false);
    let (_, lkey) = key.make(&pair.a);
    let from = DataPtr {
        addr: START,
        lkey,
        len: 8,
    };
    let to = Remote {
        addr: pair.b.address(),
        rkey: pair.b.key(),
    };
    assert_eq!(write(&mut pair, from, to), Err(Syndrome::LocalProtection));
}

#[test]
fn a_read_needs_a_key_that_may_be_written() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let mut key = Key::new(&pair.a);
    key.command.memory_key_mkey_entry.set_lw(false);
    let (_, lkey) = key.make(&pair.a);
    let into = DataPtr {
        addr: START,
        lkey,
        len: 8,
    };
    let from = Remote {
        addr: pair.b.address(),
        rkey: pair.b.key(),
    };
    pair.b.store(0, &[1; 8]);
    let wqe = Wqe::rdma_read(pair.a.signalled(&pair.qp_a), from, &[into]).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    let failed = pair.a.wait(&pair.cq_a, 0);
    assert_eq!(failed, Err((0, Syndrome::LocalProtection)));
    assert_eq!(pair.a.load(OFFSET as usize, 8), [0; 8]);
}

#[test]
fn keys_are_asked_after_and_destroyed() {
    let client = Client::new(soft_hca::Config::default());
    let key = Key::new(&client);
    let (object, number) = key.make(&client);
    let mut input = QueryMkeyIn::new();
    input.set_mkey_index(number >> 8).unwrap();
    let out = client.query(object, input);
    assert_eq!(out.memory_key_mkey_entry, key.command.memory_key_mkey_entry);
    // SAFETY: refused while the key uses it, then used by nobody.
    unsafe {
        let dereg = client.table.mlx5dv_devx_umem_dereg;
        assert_eq!(dereg(key.umem), EBUSY);
        assert_eq!(client.destroy(object), 0);
        assert_eq!(dereg(key.umem), 0);
    }
    assert_eq!(soft_hca::stats(&client.name).unwrap().live.mrs, 1);
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let client = Client::new(soft_hca::Config::default());
    let key = Key::new(&client);
    let cases: [Case<CreateMkeyIn, Reason>; 11] = [
        (|c| c.set_mkey_umem_id(1), Reason::NoUmem),
        (|c| c.set_mkey_umem_offset(1 << 20), Reason::UmemRange),
        (|c| c.memory_key_mkey_entry.set_pd(1).unwrap(), Reason::NoPd),
        (|c| c.memory_key_mkey_entry.set_length(0), Reason::MkeyRange),
        (
            |c| c.memory_key_mkey_entry.set_start_addr(u64::MAX - 5),
            Reason::MkeyRange,
        ),
        (
            |c| c.memory_key_mkey_entry.set_access_mode_1_0(3).unwrap(),
            Reason::MkeyMode,
        ),
        (
            |c| c.memory_key_mkey_entry.set_length64(true),
            Reason::MkeyMode,
        ),
        (
            |c| c.memory_key_mkey_entry.set_qpn(7).unwrap(),
            Reason::MkeyQp,
        ),
        (
            |c| c.memory_key_mkey_entry.set_log_page_size(0).unwrap(),
            Reason::MkeyPages,
        ),
        (
            |c| {
                c.memory_key_mkey_entry.set_translations_octword_size(1);
            },
            Reason::MkeyPages,
        ),
        (
            |c| c.memory_key_mkey_entry.set_start_addr(START + 1),
            Reason::MkeyStart,
        ),
    ];
    for (spoil, reason) in cases {
        let mut bad = key.command;
        spoil(&mut bad);
        let status: Result<(), CmdStatus> = client.create(bad).map(|_| ());
        assert_eq!(status, Err(reason.status()), "{reason}");
    }
}

fn register(
    client: &Client,
    fd: &OwnedFd,
    offset: u64,
    len: usize,
    access: u32,
) -> *mut ffi::ibv_mr {
    let iova = 0x9000 + offset;
    // SAFETY: the descriptor is open; what it stands for keeps its size.
    unsafe {
        (client.table.ibv_reg_dmabuf_mr)(
            client.pd,
            offset,
            len,
            iova,
            fd.as_raw_fd(),
            access as i32,
        )
    }
}

#[test]
fn memory_behind_a_descriptor_is_written() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let memory = memfd_create("device", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, 8192).unwrap();
    let mr = register(&pair.b, &memory, 100, 8000, ACCESS);
    assert!(!mr.is_null());
    pair.a.store(0, &[7; 50]);
    let to = Remote {
        addr: 0x9000 + 100 + 5000,
        // SAFETY: alive until it is deregistered.
        rkey: unsafe { (*mr).rkey },
    };
    let from = plain(&pair, 0, 50);
    assert_eq!(write(&mut pair, from, to), Ok(()));
    let mut found = [0; 50];
    rustix::io::pread(&memory, &mut found, 5100).unwrap();
    assert_eq!(found, [7; 50]);
    // SAFETY: nobody uses it any more.
    assert_eq!(unsafe { (pair.b.table.ibv_dereg_mr)(mr) }, 0);
    let gone = write(&mut pair, from, to);
    assert_eq!(gone, Err(Syndrome::RemoteAccess));
}

#[test]
fn descriptors_that_cannot_be_mapped_are_refused() {
    const EINVAL: i32 = 22;
    const EOPNOTSUPP: i32 = 95;
    let client = Client::new(soft_hca::Config::default());
    let error = || std::io::Error::last_os_error().raw_os_error();
    let memory = memfd_create("device", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, 4096).unwrap();
    assert!(register(&client, &memory, 0, 4097, ACCESS).is_null());
    assert_eq!(error(), Some(EINVAL));
    assert!(register(&client, &memory, 4096, 1, ACCESS).is_null());
    assert_eq!(error(), Some(EINVAL));
    // A directory has a size and no pages.
    let directory: OwnedFd = std::fs::File::open("/").unwrap().into();
    assert!(register(&client, &directory, 0, 1, 0).is_null());
    assert_eq!(error(), Some(EOPNOTSUPP));
}
