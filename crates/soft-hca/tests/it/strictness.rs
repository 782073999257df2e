//! What is wrong ends with the right syndrome, the queue pair in Error, what is
//! behind it flushed, and memory as it was.

mod reserved;

use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{Init2RtrQpIn, Mtu, QpState, opt_param};
use mlx5gda_sys::wqe::{DataPtr, Post, Remote, Wqe};
use soft_hca::Config;

use crate::client::{ACCESS, Client, Cq, Pair, Qp};

/// What is wrong, and something that is.
type Case<T> = (&'static str, fn(&Client) -> T);

/// A connected pair; the completions of `a` are in a ring.
fn pair() -> Pair {
    let pair = Pair::new(Mtu::Bytes1024, 4, false);
    pair.b.store(0, &[0x11; 64]);
    pair.a.store(0, &[0x22; 64]);
    pair
}

fn local(client: &Client) -> DataPtr {
    DataPtr {
        addr: client.address(),
        lkey: client.key(),
        len: 16,
    }
}

fn remote(client: &Client) -> Remote {
    Remote {
        addr: client.address(),
        rkey: client.key(),
    }
}

/// After a WQE at index 0 that is wrong: it fails with `syndrome`, unsignalled
/// or not, the one posted behind it is flushed, and nothing was written.
fn ends_with(pair: &mut Pair, syndrome: Syndrome) {
    pair.a.nop(&mut pair.qp_a);
    let cqe = pair.a.next(&mut pair.cq_a);
    assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr), "{syndrome}");
    assert_eq!((cqe.wqe_counter(), cqe.syndrome()), (0, syndrome));
    let cqe = pair.a.next(&mut pair.cq_a);
    assert_eq!(cqe.syndrome(), Syndrome::WrFlush);
    let state = pair.a.context_of(&pair.qp_a).state();
    assert_eq!(state, QpState::Err.code());
    assert_eq!(pair.b.load(0, 64), [0x11; 64]);
    assert_eq!(pair.a.load(0, 64), [0x22; 64]);
}

fn unsignalled(pair: &Pair) -> Post {
    Post {
        signalled: false,
        ..pair.a.signalled(&pair.qp_a)
    }
}

fn good_write(pair: &Pair) -> Wqe {
    let (to, from) = (remote(&pair.b), local(&pair.a));
    Wqe::rdma_write(unsignalled(pair), to, &[from], None).unwrap()
}

/// How to spoil the bytes of a WQE.
type Spoil = fn(&mut [u8]);

#[test]
fn malformed_entries_are_operation_errors() {
    let spoils: [(&str, Spoil); 10] = [
        ("opcode that there is not", |wqe| wqe[3] = 0x7f),
        ("opcode of another service", |wqe| wqe[3] = 0x0e),
        ("modifier where there is none", |wqe| {
            wqe[0] = 1;
            wqe[3] = 0x11;
        }),
        ("size 0", |wqe| wqe[7] = 0),
        ("size of the control segment alone", |wqe| wqe[7] = 1),
        ("size without data behind the address", |wqe| wqe[7] = 4),
        ("another queue pair's number", |wqe| wqe[5] ^= 1),
        ("another index", |wqe| wqe[2] = 9),
        ("inline data beyond the end", |wqe| {
            wqe[32..36].copy_from_slice(&0x8000_0100u32.to_be_bytes());
        }),
        ("inline data for a read", |wqe| {
            wqe[3] = 0x10;
            wqe[32..36].copy_from_slice(&0x8000_0004u32.to_be_bytes());
        }),
    ];
    for (what, spoil) in spoils {
        let mut pair = pair();
        let mut wqe = good_write(&pair).bytes().to_vec();
        spoil(&mut wqe);
        println!("{what}");
        pair.a.post_bytes(&mut pair.qp_a, &wqe);
        ends_with(&mut pair, Syndrome::LocalQpOperation);
    }
}

#[test]
fn an_entry_larger_than_what_was_posted_is_an_operation_error() {
    let mut pair = pair();
    let mut wqe = good_write(&pair).bytes().to_vec();
    wqe[7] = 5;
    pair.a.post_bytes(&mut pair.qp_a, &wqe);
    let cqe = pair.a.next(&mut pair.cq_a);
    assert_eq!(cqe.syndrome(), Syndrome::LocalQpOperation);
    assert_eq!(pair.b.load(0, 64), [0x11; 64]);
}

#[test]
fn local_memory_is_checked() {
    let cases: [Case<DataPtr>; 5] = [
        ("no such key", |a| DataPtr {
            lkey: a.key() ^ 0x100,
            ..local(a)
        }),
        ("before the region", |a| DataPtr {
            addr: a.address() - 1,
            ..local(a)
        }),
        ("beyond the region", |a| DataPtr {
            lkey: a.register(a.pd, 15, ACCESS),
            ..local(a)
        }),
        ("another protection domain", |a| DataPtr {
            lkey: a.register(a.another_pd(), 4096, ACCESS),
            ..local(a)
        }),
        ("around the end of the address space", |a| DataPtr {
            addr: u64::MAX - 7,
            ..local(a)
        }),
    ];
    for (what, spoil) in cases {
        let mut pair = pair();
        println!("{what}");
        // The second of two, so that the first is not sent either.
        let (to, from) = (remote(&pair.b), [local(&pair.a), spoil(&pair.a)]);
        let wqe = Wqe::rdma_write(unsignalled(&pair), to, &from, None).unwrap();
        pair.a.post(&mut pair.qp_a, &wqe);
        ends_with(&mut pair, Syndrome::LocalProtection);
    }
}

#[test]
fn what_is_read_needs_local_write_access() {
    let mut pair = pair();
    let into = DataPtr {
        lkey: pair.a.register(pair.a.pd, 4096, 0),
        ..local(&pair.a)
    };
    let wqe = Wqe::rdma_read(unsignalled(&pair), remote(&pair.b), &[into]).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    ends_with(&mut pair, Syndrome::LocalProtection);
}

#[test]
fn messages_above_the_limit_are_length_errors() {
    let mut pair = pair();
    let end = pair.b.end(&pair.qp_b, 0x00ff_fff0, Mtu::Bytes1024);
    pair.a.reset(&mut pair.qp_a);
    pair.a.rst2init(&pair.qp_a).unwrap();
    let mut input = Init2RtrQpIn::new();
    pair.a.fill_rtr(&mut input, &pair.qp_a, &end);
    input.qpc.set_log_msg_max(3).unwrap();
    pair.a.modify(pair.qp_a.object, input).unwrap();
    pair.a.rtr2rts(&pair.qp_a, 100, 7).unwrap();
    let wqe = good_write(&pair);
    pair.a.post(&mut pair.qp_a, &wqe);
    ends_with(&mut pair, Syndrome::LocalLength);
}

/// What a peer may not do, and that both ends are in Error afterwards.
fn refused(mut pair: Pair, wqe: &Wqe, syndrome: Syndrome) {
    pair.a.post(&mut pair.qp_a, wqe);
    ends_with(&mut pair, syndrome);
    let until = Instant::now() + Duration::from_secs(10);
    while pair.b.context_of(&pair.qp_b).state() != QpState::Err.code() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

#[test]
fn remote_memory_is_checked() {
    const WRITE: u32 = ffi::IBV_ACCESS_LOCAL_WRITE | ffi::IBV_ACCESS_REMOTE_WRITE;
    const READ: u32 = ffi::IBV_ACCESS_REMOTE_READ;
    let cases: [Case<Remote>; 5] = [
        ("no such key", |b| Remote {
            rkey: b.key() ^ 1,
            ..remote(b)
        }),
        ("before the region", |b| Remote {
            addr: b.address() - 1,
            ..remote(b)
        }),
        ("beyond the region", |b| Remote {
            rkey: b.register(b.pd, 15, ACCESS),
            ..remote(b)
        }),
        ("another protection domain", |b| Remote {
            rkey: b.register(b.another_pd(), 4096, ACCESS),
            ..remote(b)
        }),
        ("no right to write", |b| Remote {
            rkey: b.register(b.pd, 4096, READ),
            ..remote(b)
        }),
    ];
    for (what, spoil) in cases {
        println!("{what}");
        let pair = pair();
        let (to, from) = (spoil(&pair.b), local(&pair.a));
        let wqe = Wqe::rdma_write(unsignalled(&pair), to, &[from], None).unwrap();
        refused(pair, &wqe, Syndrome::RemoteAccess);
    }
    let pair = pair();
    let to = Remote {
        rkey: pair.b.register(pair.b.pd, 4096, WRITE),
        ..remote(&pair.b)
    };
    let into = local(&pair.a);
    let read = Wqe::rdma_read(unsignalled(&pair), to, &[into]).unwrap();
    refused(pair, &read, Syndrome::RemoteAccess);
    let pair = self::pair();
    let to = Remote {
        rkey: pair.b.register(pair.b.pd, 4096, WRITE | READ),
        ..remote(&pair.b)
    };
    let into = DataPtr {
        len: 8,
        ..local(&pair.a)
    };
    let add = Wqe::fetch_add(unsignalled(&pair), to, into, 1).unwrap();
    refused(pair, &add, Syndrome::RemoteAccess);
}

#[test]
fn the_remote_queue_pairs_rights_hold() {
    let without = |missing: u32| {
        let mut pair = pair();
        let end = pair.a.end(&pair.qp_a, 100, Mtu::Bytes1024);
        pair.b.reset(&mut pair.qp_b);
        pair.b.rst2init(&pair.qp_b).unwrap();
        let mut input = Init2RtrQpIn::new();
        pair.b.fill_rtr(&mut input, &pair.qp_b, &end);
        let all = opt_param::RWE | opt_param::RRE | opt_param::RAE;
        input.set_opt_param_mask(all & !missing);
        pair.b.modify(pair.qp_b.object, input).unwrap();
        pair
    };
    let pair = without(opt_param::RWE);
    let wqe = good_write(&pair);
    refused(pair, &wqe, Syndrome::RemoteInvalidRequest);
    let pair = without(opt_param::RRE);
    let from = remote(&pair.b);
    let read = Wqe::rdma_read(unsignalled(&pair), from, &[local(&pair.a)]).unwrap();
    refused(pair, &read, Syndrome::RemoteInvalidRequest);
    let pair = without(opt_param::RAE);
    let into = DataPtr {
        len: 8,
        ..local(&pair.a)
    };
    let add = Wqe::fetch_add(unsignalled(&pair), remote(&pair.b), into, 1).unwrap();
    refused(pair, &add, Syndrome::RemoteInvalidRequest);
}

#[test]
fn receive_buffers_are_checked() {
    let cases: [Case<DataPtr>; 3] = [
        ("no such key", |b| DataPtr {
            lkey: b.key() ^ 1,
            ..local(b)
        }),
        ("another protection domain", |b| DataPtr {
            lkey: b.register(b.another_pd(), 4096, ACCESS),
            ..local(b)
        }),
        ("no right to write", |b| DataPtr {
            lkey: b.register(b.pd, 4096, 0),
            ..local(b)
        }),
    ];
    for (what, spoil) in cases {
        println!("{what}");
        let mut a = Client::new(Config::default());
        let mut b = Client::new(Config::default());
        let mut cq_a = a.cq(4, false);
        let mut cq_b = b.cq(4, false);
        let mut qp_a = a.qp(&cq_a, 4);
        let qp_b = b.qp_with_receives(&cq_b, 4);
        a.connect(&qp_a, 1, &b.end(&qp_b, 2, Mtu::Bytes1024));
        b.connect(&qp_b, 2, &a.end(&qp_a, 1, Mtu::Bytes1024));
        b.post_receive(&qp_b, 0, &[spoil(&b)]);
        let wqe = Wqe::send_inline(a.signalled(&qp_a), &[1; 16], None).unwrap();
        a.post(&mut qp_a, &wqe);
        let cqe = b.next(&mut cq_b);
        assert_eq!(cqe.opcode(), Ok(CqeOpcode::RespErr));
        assert_eq!(cqe.syndrome(), Syndrome::LocalProtection);
        assert_eq!(b.context_of(&qp_b).state(), QpState::Err.code());
        let cqe = a.next(&mut cq_a);
        assert_eq!(cqe.syndrome(), Syndrome::RemoteOperation);
        assert_eq!(b.load(0, 16), [0; 16]);
    }
}

/// A queue pair in Init with a completion queue, and what is posted there.
fn early() -> (Client, Cq, Qp) {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, false);
    let mut qp = client.qp(&cq, 4);
    client.rst2init(&qp).unwrap();
    client.nop(&mut qp);
    (client, cq, qp)
}

#[test]
fn nothing_is_executed_before_ready_to_send() {
    let (client, mut cq, qp) = early();
    let peer = client.end(&qp, 0, Mtu::Bytes1024);
    client.init2rtr(&qp, &peer).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(client.cq_context(&cq).producer_counter(), 0);
    client.rtr2rts(&qp, 0, 7).unwrap();
    assert_eq!(client.next(&mut cq).opcode(), Ok(CqeOpcode::Req));
}

#[test]
fn what_was_posted_early_is_flushed_by_an_error() {
    let (client, mut cq, qp) = early();
    client.error(&qp);
    assert_eq!(client.next(&mut cq).syndrome(), Syndrome::WrFlush);
}

#[test]
fn what_was_asked_for_before_the_refused_request_is_answered() {
    for _ in 0..5 {
        let mut pair = Pair::new(Mtu::Bytes1024, 4, false);
        pair.b.store(0, &[0x11; 48 << 10]);
        let into = DataPtr {
            len: 48 << 10,
            ..local(&pair.a)
        };
        let read = Wqe::rdma_read(pair.a.signalled(&pair.qp_a), remote(&pair.b), &[into]).unwrap();
        pair.a.place(&mut pair.qp_a, &read);
        let nowhere = Remote {
            rkey: pair.b.key() ^ 1,
            ..remote(&pair.b)
        };
        let from = local(&pair.a);
        let write = Wqe::rdma_write(pair.a.signalled(&pair.qp_a), nowhere, &[from], None).unwrap();
        // Both at once: mostly the write arrives before the read is answered.
        pair.a.post(&mut pair.qp_a, &write);
        assert_eq!(pair.a.next(&mut pair.cq_a).opcode(), Ok(CqeOpcode::Req));
        let refused = pair.a.next(&mut pair.cq_a);
        assert_eq!(refused.syndrome(), Syndrome::RemoteAccess);
        assert_eq!(pair.a.load(0, 48 << 10), [0x11; 48 << 10]);
    }
}
