//! Clients that are slow to read their events, or never do.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mlx5gda_sys::eqe::EventType;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{read, write};

use crate::channel::{Channel, lonely};
use crate::client::{Cq, Pair, Qp};

const EBADF: i32 = 9;
const EINVAL: i32 = 22;
/// More events than a socket holds messages.
const MANY: u64 = 1000;

/// A channel that hears of one completion [`MANY`] times.
fn flooded(pair: &Pair, cq: &Cq, qp: &mut Qp) -> Channel {
    let channel = Channel::new(&pair.a, 0);
    for cookie in 0..MANY {
        let result = channel.subscribe(cq.object, &[EventType::Completion], cookie);
        assert_eq!(result, 0);
    }
    pair.a.arm(cq, 0, false);
    pair.a.nop(qp);
    channel
}

#[test]
fn events_wait_for_a_client_that_reads_late() {
    let (pair, mut cq, mut qp) = lonely(4);
    let channel = flooded(&pair, &cq, &mut qp);
    pair.a.next(&mut cq);
    for expected in 0..MANY {
        let (cookie, eqe) = channel.next();
        assert_eq!((cookie, eqe.number()), (expected, Some(cq.number)));
    }
    channel.stays_quiet();
}

#[test]
fn events_wait_for_a_client_that_reads_the_descriptor_itself() {
    let (pair, mut cq, mut qp) = lonely(4);
    let channel = flooded(&pair, &cq, &mut qp);
    pair.a.next(&mut cq);
    let until = Instant::now() + Duration::from_secs(10);
    for expected in 0..MANY {
        let mut message = [0; 72];
        while read(channel.fd(), &mut message).is_err() {
            assert!(Instant::now() < until, "{expected} events");
            std::thread::yield_now();
        }
        assert_eq!(message[..8], expected.to_ne_bytes());
    }
    channel.stays_quiet();
}

#[test]
fn a_counter_that_is_full_holds_nobody_up() {
    const FULL: u64 = u64::MAX - 1;
    let (mut pair, mut cq, mut qp) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    write(&counter, &FULL.to_ne_bytes()).unwrap();
    let completion = EventType::Completion;
    let result = channel.subscribe_fd(cq.object, completion, counter.as_raw_fd());
    assert_eq!(result, 0);
    assert_eq!(channel.subscribe(cq.object, &[completion], 1), 0);
    // Were somebody held up, this test would end nevertheless.
    let other = counter.try_clone().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(8));
        read(&other, &mut [0; 8])
    });
    pair.a.arm(&cq, 0, false);
    pair.a.nop(&mut qp);
    // The one behind the counter hears of it, and work goes on.
    let heard = channel.next_within(Duration::from_secs(4));
    assert_eq!(heard.map(|(cookie, _)| cookie), Some(1));
    pair.a.next(&mut cq);
    pair.a.nop(&mut pair.qp_a);
    assert_eq!(pair.a.wait(&pair.cq_a, 0), Ok(()));
    let mut count = [0; 8];
    read(&counter, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), FULL);
    pair.a.arm(&cq, 1, false);
    pair.a.nop(&mut qp);
    read(&counter, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn only_eventfds_count() {
    let (pair, cq, _) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    let subscribe = |fd| channel.subscribe_fd(cq.object, EventType::Completion, fd);
    let (reader, writer) = io::pipe().unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for fd in [reader.as_raw_fd(), writer.as_raw_fd(), epoll.as_raw_fd()] {
        assert_eq!(subscribe(fd), EINVAL);
    }
    assert_eq!(subscribe(i32::MAX), EBADF);
    assert_eq!(subscribe(-1), EBADF);
}
