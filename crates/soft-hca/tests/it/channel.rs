//! Event channels: what happens to queues and the port, as devx clients hear
//! of it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use mlx5gda_sys::eqe::{Eqe, EventType};
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{Mtu, QpState};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_setfl};
use zerocopy::FromBytes;

use crate::client::{Client, Cq, Pair, Qp};

const EINVAL: i32 = 22;
const OMIT: u32 = ffi::MLX5_IB_UAPI_DEVX_CR_EV_CH_FLAGS_OMIT_DATA;

/// A channel that does not block.
pub(crate) struct Channel {
    table: mlx5gda_sys::table::FnTable,
    channel: *mut ffi::mlx5dv_devx_event_channel,
}

impl Channel {
    pub(crate) fn new(client: &Client, flags: u32) -> Self {
        // SAFETY: the context is open; the descriptor is as long as the channel.
        let channel = unsafe {
            let channel = (client.table.mlx5dv_devx_create_event_channel)(client.context, flags);
            assert!(!channel.is_null());
            fcntl_setfl(BorrowedFd::borrow_raw((*channel).fd), OFlags::NONBLOCK).unwrap();
            channel
        };
        Self {
            table: client.table.clone(),
            channel,
        }
    }

    pub(crate) fn subscribe(
        &self,
        object: *mut ffi::mlx5dv_devx_obj,
        events: &[EventType],
        cookie: u64,
    ) -> i32 {
        let mut codes: Vec<u16> = events.iter().map(|event| *event as u16).collect();
        let size = (codes.len() * 2) as u16;
        // SAFETY: the array is as long as said.
        unsafe {
            (self.table.mlx5dv_devx_subscribe_devx_event)(
                self.channel,
                object,
                size,
                codes.as_mut_ptr(),
                cookie,
            )
        }
    }

    pub(crate) fn subscribe_fd(
        &self,
        object: *mut ffi::mlx5dv_devx_obj,
        event: EventType,
        fd: i32,
    ) -> i32 {
        // SAFETY: what is no open descriptor is refused.
        unsafe {
            (self.table.mlx5dv_devx_subscribe_devx_event_fd)(self.channel, fd, object, event as u16)
        }
    }

    /// The channel's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }

    fn read(&self, room: usize) -> Result<Vec<u8>, i32> {
        let mut out = vec![0u64; room.div_ceil(8)];
        // SAFETY: `out` is as long as said.
        let len = unsafe {
            (self.table.mlx5dv_devx_get_event)(self.channel, out.as_mut_ptr().cast(), room)
        };
        if len < 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap());
        }
        Ok(zerocopy::IntoBytes::as_bytes(&out[..])[..len as usize].to_vec())
    }

    /// The next event within `time`: cookie and entry.
    pub(crate) fn next_within(&self, time: Duration) -> Option<(u64, Eqe)> {
        const EAGAIN: i32 = 11;
        let until = Instant::now() + time;
        loop {
            match self.read(72) {
                Ok(message) => {
                    assert_eq!(message.len(), 72);
                    let cookie = u64::read_from_bytes(&message[..8]).unwrap();
                    return Some((cookie, Eqe::read_from_bytes(&message[8..]).unwrap()));
                }
                Err(EAGAIN) if Instant::now() < until => std::thread::yield_now(),
                Err(error) => {
                    assert_eq!(error, EAGAIN);
                    return None;
                }
            }
        }
    }

    /// The next event, which has to come.
    pub(crate) fn next(&self) -> (u64, Eqe) {
        self.next_within(Duration::from_secs(10)).unwrap()
    }

    /// That nothing comes for a while.
    pub(crate) fn stays_quiet(&self) {
        assert_eq!(self.next_within(Duration::from_millis(30)), None);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: not used afterwards; refused if its context is closed.
        unsafe { (self.table.mlx5dv_devx_destroy_event_channel)(self.channel) };
    }
}

/// A queue pair that is ready to send to nobody, and a completion queue that
/// minds its consumer counter.
pub(crate) fn lonely(log: u32) -> (Pair, Cq, Qp) {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let cq = pair.a.strict_cq(log);
    let qp = pair.a.qp(&cq, 6);
    let nobody = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.connect(&qp, 1, &nobody);
    (pair, cq, qp)
}

#[test]
fn an_armed_queue_tells_once() {
    let (pair, mut cq, mut qp) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(
        channel.subscribe(cq.object, &[EventType::Completion], 77),
        0
    );
    pair.a.nop(&mut qp);
    pair.a.next(&mut cq);
    channel.stays_quiet();
    for sequence in 0..3 {
        pair.a.arm(&cq, sequence, false);
        channel.stays_quiet();
        pair.a.nop(&mut qp);
        pair.a.nop(&mut qp);
        let (cookie, eqe) = channel.next();
        assert_eq!((cookie, eqe.event()), (77, Ok(EventType::Completion)));
        assert_eq!(eqe.number(), Some(cq.number));
        pair.a.next(&mut cq);
        pair.a.next(&mut cq);
        channel.stays_quiet();
        assert_eq!(pair.a.cq_context(&cq).st(), 10);
    }
}

#[test]
fn a_queue_armed_too_late_tells_at_once() {
    let (pair, mut cq, mut qp) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(channel.subscribe(cq.object, &[EventType::Completion], 1), 0);
    pair.a.nop(&mut qp);
    pair.a.next(&mut cq);
    pair.a.nop(&mut qp);
    // The second completion was not seen.
    pair.a.arm(&cq, 0, false);
    assert_eq!(channel.next().1.number(), Some(cq.number));
}

#[test]
fn queues_armed_together_for_the_first_time_both_tell() {
    let (mut pair, cq, mut qp) = lonely(4);
    let other_cq = pair.a.strict_cq(4);
    let mut other = pair.a.qp(&other_cq, 4);
    let nobody = pair.b.end(&pair.qp_b, 1, Mtu::Bytes1024);
    pair.a.connect(&other, 1, &nobody);
    let channel = Channel::new(&pair.a, 0);
    for (cq, cookie) in [(&cq, 1), (&other_cq, 2)] {
        let completion = [EventType::Completion];
        assert_eq!(channel.subscribe(cq.object, &completion, cookie), 0);
    }
    // The second doorbell overwrites the first.
    pair.a.arm(&cq, 0, false);
    pair.a.arm(&other_cq, 0, false);
    std::thread::sleep(Duration::from_millis(5));
    pair.a.nop(&mut qp);
    assert_eq!(channel.next().0, 1);
    pair.a.nop(&mut other);
    assert_eq!(channel.next().0, 2);
}

#[test]
fn a_full_queue_takes_its_queue_pairs_down() {
    let (pair, mut cq, mut qp) = lonely(2);
    let channel = Channel::new(&pair.a, 0);
    assert_eq!(channel.subscribe(cq.object, &[EventType::CqError], 5), 0);
    assert_eq!(
        channel.subscribe(qp.object, &[EventType::WqCatastrophic], 6),
        0
    );
    for _ in 0..4 {
        pair.a.nop(&mut qp);
    }
    channel.stays_quiet();
    assert_eq!(pair.a.cq_context(&cq).status(), 0);
    pair.a.nop(&mut qp);
    let (cookie, eqe) = channel.next();
    assert_eq!((cookie, eqe.event()), (5, Ok(EventType::CqError)));
    assert_eq!(eqe.number(), Some(cq.number));
    assert_eq!(eqe.cq_syndrome(), Eqe::CQ_OVERRUN);
    let (cookie, eqe) = channel.next();
    assert_eq!((cookie, eqe.event()), (6, Ok(EventType::WqCatastrophic)));
    assert_eq!(eqe.number(), Some(qp.number));
    assert_eq!(pair.a.cq_context(&cq).status(), 9);
    assert_eq!(pair.a.context_of(&qp).state(), QpState::Err.code());
    // What was there before is intact, and nothing is added.
    for index in 0..4 {
        assert_eq!(pair.a.next(&mut cq).wqe_counter(), index);
    }
    pair.a.release(&cq);
    pair.a.nop(&mut qp);
    channel.stays_quiet();
    assert_eq!(pair.a.cq_context(&cq).producer_counter(), 4);
    // Another queue's pair does not notice.
    assert_eq!(pair.a.context_of(&pair.qp_a).state(), QpState::Rts.code());
}

fn write_to(pair: &mut Pair, rkey: u32) {
    let local = DataPtr {
        addr: pair.a.address(),
        lkey: pair.a.key(),
        len: 8,
    };
    let to = Remote {
        addr: pair.b.address(),
        rkey,
    };
    let wqe = Wqe::rdma_write(pair.a.signalled(&pair.qp_a), to, &[local], None).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
}

#[test]
fn a_responder_tells_of_requests_it_refused() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let channel = Channel::new(&pair.b, 0);
    let events = [EventType::AccessViolation, EventType::InvalidRequest];
    assert_eq!(channel.subscribe(pair.qp_b.object, &events, 9), 0);
    let wrong = pair.b.key() ^ 1;
    write_to(&mut pair, wrong);
    let (cookie, eqe) = channel.next();
    assert_eq!((cookie, eqe.event()), (9, Ok(EventType::AccessViolation)));
    assert_eq!(eqe.number(), Some(pair.qp_b.number));
    channel.stays_quiet();

    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let channel = Channel::new(&pair.b, 0);
    assert_eq!(channel.subscribe(pair.qp_b.object, &events, 9), 0);
    // There is no receive queue.
    let post = pair.a.signalled(&pair.qp_a);
    let send = Wqe::send_inline(post, &[1; 4], None).unwrap();
    pair.a.post(&mut pair.qp_a, &send);
    assert_eq!(channel.next().1.event(), Ok(EventType::InvalidRequest));
}

#[test]
fn the_first_request_before_ready_to_send_is_told() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let end = pair.a.end(&pair.qp_a, 100, Mtu::Bytes1024);
    pair.b.reset(&mut pair.qp_b);
    pair.b.rst2init(&pair.qp_b).unwrap();
    pair.b.init2rtr(&pair.qp_b, &end).unwrap();
    let channel = Channel::new(&pair.b, 0);
    let established = [EventType::CommunicationEstablished];
    assert_eq!(channel.subscribe(pair.qp_b.object, &established, 3), 0);
    let key = pair.b.key();
    write_to(&mut pair, key);
    write_to(&mut pair, key);
    assert_eq!(pair.a.wait(&pair.cq_a, 1), Ok(()));
    assert_eq!(channel.next().0, 3);
    channel.stays_quiet();
}

#[test]
fn the_link_is_told_to_whom_it_concerns() {
    let pair = Pair::new(Mtu::Bytes1024, 4, true);
    let channel = Channel::new(&pair.a, 0);
    let device = std::ptr::null_mut();
    assert_eq!(channel.subscribe(device, &[EventType::PortChange], 4), 0);
    soft_hca::set_link(&pair.a.name, false).unwrap();
    soft_hca::set_link(&pair.a.name, true).unwrap();
    for state in [Eqe::PORT_DOWN, Eqe::PORT_ACTIVE] {
        let (cookie, eqe) = channel.next();
        assert_eq!((cookie, eqe), (4, Eqe::port(1, state)));
    }
}

#[test]
fn a_channel_may_leave_the_entries_out() {
    let (pair, cq, mut qp) = lonely(4);
    let channel = Channel::new(&pair.a, OMIT);
    assert_eq!(channel.subscribe(cq.object, &[EventType::Completion], 8), 0);
    pair.a.arm(&cq, 0, false);
    pair.a.nop(&mut qp);
    let until = Instant::now() + Duration::from_secs(10);
    let message = loop {
        match channel.read(8) {
            Ok(message) => break message,
            Err(_) => assert!(Instant::now() < until),
        }
    };
    assert_eq!(message, 8u64.to_ne_bytes());
}

#[test]
fn an_eventfd_counts_events() {
    let (pair, cq, mut qp) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let result = channel.subscribe_fd(cq.object, EventType::Completion, counter.as_raw_fd());
    assert_eq!(result, 0);
    pair.a.arm(&cq, 0, false);
    pair.a.nop(&mut qp);
    let mut count = [0; 8];
    rustix::io::read(&counter, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    channel.stays_quiet();
}

#[test]
fn subscriptions_that_make_no_sense_are_refused() {
    let (pair, cq, qp) = lonely(4);
    let channel = Channel::new(&pair.a, 0);
    let none = std::ptr::null_mut();
    let fatal = EventType::WqCatastrophic;
    assert_eq!(channel.subscribe(cq.object, &[fatal], 0), EINVAL);
    assert_eq!(
        channel.subscribe(qp.object, &[EventType::Completion], 0),
        EINVAL
    );
    assert_eq!(channel.subscribe(none, &[EventType::Completion], 0), EINVAL);
    assert_eq!(
        channel.subscribe(cq.object, &[EventType::PortChange], 0),
        EINVAL
    );
    assert_eq!(channel.subscribe(cq.object, &[], 0), EINVAL);
    let other = Channel::new(&pair.b, 0);
    assert_eq!(other.subscribe(qp.object, &[fatal], 0), EINVAL);
    assert_eq!(channel.read(71), Err(EINVAL));
    // SAFETY: refused, as the assertion says.
    let channel = unsafe { (pair.a.table.mlx5dv_devx_create_event_channel)(pair.a.context, 2) };
    assert!(channel.is_null());
}
