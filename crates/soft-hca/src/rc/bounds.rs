//! Requests beyond what was agreed upon.

use std::time::Instant;

use mlx5gda_sys::wqe::AtomicOp;

use super::{
    Access, Fault, MessageEnd, Op, Requester, RequesterConfig, Responder, ResponderConfig, Status,
    Target, WorkRequest,
};
use crate::psn::Psn;
use crate::wire::{AckCode, Aeth, Bth, Headers, NakCode, Opcode, Packet, Reth};

const MTU: u32 = 256;
/// READs and atomics that may be in flight.
const DEPTH: u32 = 2;

/// Memory without end that everybody may access.
struct Everything;

impl Target for Everything {
    fn check(&mut self, _: u32, _: u64, _: u32, _: Access) -> Result<(), Fault> {
        Ok(())
    }

    fn write(&mut self, _: u32, _: u64, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn atomic(&mut self, _: u32, _: u64, _: AtomicOp) -> Result<u64, Fault> {
        Ok(0)
    }

    fn receive_begin(&mut self) -> Result<(), Fault> {
        Err(Fault::Unsupported)
    }

    fn receive_data(&mut self, _: u32, _: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unsupported)
    }

    fn receive_end(&mut self, _: MessageEnd) {}
}

fn responder() -> Responder {
    Responder::new(ResponderConfig {
        dest_qpn: 9,
        mtu: MTU,
        start_psn: Psn::new(0),
        min_rnr_nak: 1,
        max_reads: DEPTH,
    })
}

/// A packet with a RETH that asks for `len` bytes.
fn ask(to: &mut Responder, opcode: Opcode, psn: u32, len: u32, payload: &[u8]) {
    let mut headers = Headers::new(Bth {
        opcode,
        solicited: false,
        pad: 0,
        dest_qpn: 7,
        ack_request: true,
        psn: Psn::new(psn),
    });
    headers.reth = Some(Reth {
        addr: 0,
        rkey: 1,
        len,
    });
    to.on_packet(&Packet { headers, payload }, &mut Everything);
}

/// What the last answer says.
fn verdict(of: &mut Responder) -> Option<AckCode> {
    let replies: Vec<_> = std::iter::from_fn(|| of.poll_tx()).collect();
    replies.last()?.headers.aeth.map(|aeth| aeth.code)
}

#[test]
fn a_read_beyond_the_depth_is_an_invalid_request() {
    let mut responder = responder();
    for psn in 0..DEPTH {
        ask(&mut responder, Opcode::ReadRequest, psn, 8, &[]);
    }
    // Those that come again are no further ones.
    ask(&mut responder, Opcode::ReadRequest, 0, 8, &[]);
    assert_eq!(verdict(&mut responder), Some(AckCode::Ack));
    for psn in DEPTH..2 * DEPTH {
        ask(&mut responder, Opcode::ReadRequest, psn, 8, &[]);
    }
    assert!(!responder.failed());
    ask(&mut responder, Opcode::ReadRequest, 2 * DEPTH, 8, &[]);
    assert_eq!(responder.fault(), Some(Fault::Unsupported));
    let refused = AckCode::Nak(NakCode::InvalidRequest);
    assert_eq!(verdict(&mut responder), Some(refused));
}

#[test]
fn a_message_beyond_two_gib_is_an_invalid_request() {
    let longest = 1 << 31;
    for (opcode, payload) in [
        (Opcode::ReadRequest, &[][..]),
        (Opcode::WriteFirst, &[0; MTU as usize][..]),
    ] {
        let mut good = responder();
        ask(&mut good, opcode, 0, longest, payload);
        assert!(!good.failed(), "{opcode:?}");
        let mut bad = responder();
        ask(&mut bad, opcode, 0, longest + 1, payload);
        assert_eq!(bad.fault(), Some(Fault::Unsupported), "{opcode:?}");
        let refused = AckCode::Nak(NakCode::InvalidRequest);
        assert_eq!(verdict(&mut bad), Some(refused));
    }
}

#[test]
fn a_requester_keeps_to_the_depth_when_a_read_is_answered_in_part() {
    let mut requester = Requester::new(RequesterConfig {
        dest_qpn: 7,
        mtu: MTU,
        start_psn: Psn::new(0),
        ack_timeout: None,
        retry_count: 7,
        rnr_retry: 7,
        max_reads: DEPTH,
        window: 512,
    });
    // 20 packets of answer: two requests each.
    for index in 0..2 {
        requester.post(WorkRequest {
            index,
            op: Op::Read { addr: 0, rkey: 1 },
            len: 20 * MTU,
            signalled: true,
            solicited: false,
            fence: false,
            payload: (),
        });
    }
    let now = Instant::now();
    let asked = std::iter::from_fn(|| requester.poll_tx(now).map(|_| ())).count();
    assert_eq!(asked, 2);
    // One packet short of the first request's end.
    let mut headers = Headers::new(Bth {
        opcode: Opcode::ReadResponseMiddle,
        solicited: false,
        pad: 0,
        dest_qpn: 9,
        ack_request: false,
        psn: Psn::new(0),
    });
    let payload = [0; MTU as usize];
    for psn in 0..16 {
        assert!(requester.poll_tx(now).is_none(), "at packet {psn}");
        headers.bth.psn = Psn::new(psn);
        let packet = Packet {
            headers,
            payload: &payload,
        };
        requester.on_packet(now, &packet, &mut |(), _, _| true);
    }
    assert!(requester.poll_tx(now).is_some());
}

/// As many answers as may wait, and a refusal.
const ANSWERS: usize = 65;

#[test]
fn copies_of_an_early_request_are_reported_once() {
    let mut responder = responder();
    for _ in 0..1000 {
        ask(&mut responder, Opcode::WriteOnly, 5, 0, &[]);
    }
    let missing = AckCode::Nak(NakCode::SequenceError);
    let said: Vec<_> = std::iter::from_fn(|| responder.poll_tx())
        .map(|reply| reply.headers.aeth.map(|aeth| aeth.code))
        .collect();
    assert_eq!(said, [Some(missing)]);
}

#[test]
fn early_requests_between_others_do_not_lengthen_the_queue_without_end() {
    let mut responder = responder();
    ask(&mut responder, Opcode::ReadRequest, 0, 8, &[]);
    for _ in 0..1000 {
        ask(&mut responder, Opcode::WriteOnly, 5, 0, &[]);
        ask(&mut responder, Opcode::ReadRequest, 0, 8, &[]);
    }
    let waiting = std::iter::from_fn(|| responder.poll_tx()).count();
    assert!(waiting <= ANSWERS, "{waiting} answers wait");
}

#[test]
fn a_gap_that_could_not_be_reported_is_reported_later() {
    let mut responder = responder();
    for _ in 0..100 {
        ask(&mut responder, Opcode::ReadRequest, 0, 8, &[]);
    }
    ask(&mut responder, Opcode::WriteOnly, 5, 0, &[]);
    assert_eq!(verdict(&mut responder), Some(AckCode::Ack));
    ask(&mut responder, Opcode::WriteOnly, 6, 0, &[]);
    let missing = AckCode::Nak(NakCode::SequenceError);
    assert_eq!(verdict(&mut responder), Some(missing));
}

#[test]
fn a_silent_responder_says_no_more_than_that_it_refused() {
    let mut silent = responder();
    ask(&mut silent, Opcode::ReadRequest, 0, 8, &[]);
    ask(&mut silent, Opcode::WriteOnly, 5, 0, &[]);
    silent.fall_silent();
    assert_eq!(silent.poll_tx(), None);
    let mut refusing = responder();
    ask(&mut refusing, Opcode::ReadRequest, 0, 8, &[]);
    ask(&mut refusing, Opcode::ReadRequest, 1, (1 << 31) + 1, &[]);
    refusing.fall_silent();
    let reply = refusing.poll_tx().unwrap();
    assert_eq!((reply.headers.bth.psn, reply.source), (Psn::new(1), None));
    let refused = AckCode::Nak(NakCode::InvalidRequest);
    assert_eq!(reply.headers.aeth.map(|aeth| aeth.code), Some(refused));
    assert_eq!(refusing.poll_tx(), None);
}

/// A requester with two retries of each kind and a message in flight.
fn asking(now: Instant) -> Requester<()> {
    let mut requester = Requester::new(RequesterConfig {
        dest_qpn: 7,
        mtu: MTU,
        start_psn: Psn::new(0),
        ack_timeout: None,
        retry_count: 2,
        rnr_retry: 2,
        max_reads: DEPTH,
        window: 512,
    });
    requester.post(WorkRequest {
        index: 0,
        op: Op::Send { immediate: None },
        len: 2 * MTU,
        signalled: true,
        solicited: false,
        fence: false,
        payload: (),
    });
    assert_eq!(send_all(&mut requester, now), 2);
    requester
}

fn send_all(requester: &mut Requester<()>, now: Instant) -> usize {
    std::iter::from_fn(|| requester.poll_tx(now).map(|_| ())).count()
}

/// The peer says `code` of the packet 0, ten times.
fn say_often(requester: &mut Requester<()>, now: Instant, code: AckCode) {
    let mut headers = Headers::new(Bth {
        opcode: Opcode::Acknowledge,
        solicited: false,
        pad: 0,
        dest_qpn: 9,
        ack_request: false,
        psn: Psn::new(0),
    });
    headers.aeth = Some(Aeth { code, msn: 0 });
    for _ in 0..10 {
        let payload = &[];
        requester.on_packet(now, &Packet { headers, payload }, &mut |(), _, _| true);
    }
}

#[test]
fn copies_of_a_not_ready_cost_one_retry() {
    let mut now = Instant::now();
    let mut requester = asking(now);
    for retry in 0..3 {
        assert!(!requester.failed(), "retry {retry}");
        say_often(&mut requester, now, AckCode::RnrNak { timer: 1 });
        now = requester.deadline().unwrap_or(now);
        requester.on_timer(now);
        send_all(&mut requester, now);
    }
    let end = requester.poll_completion().map(|end| end.status);
    assert_eq!(end, Some(Status::RnrRetryExceeded));
}

#[test]
fn copies_of_a_report_of_a_missing_request_cost_one_retry() {
    let mut now = Instant::now();
    let mut requester = asking(now);
    let missing = AckCode::Nak(NakCode::SequenceError);
    for retry in 0..3 {
        assert!(!requester.failed(), "retry {retry}");
        say_often(&mut requester, now, missing);
        // Some copies come after the requester has gone back.
        let again = send_all(&mut requester, now);
        assert_eq!(again, if retry < 2 { 2 } else { 0 });
        say_often(&mut requester, now, missing);
        assert_eq!(send_all(&mut requester, now), 0);
        // What the probe provokes is heard.
        now = requester.deadline().unwrap_or(now);
        requester.on_timer(now);
        send_all(&mut requester, now);
    }
    let end = requester.poll_completion().map(|end| end.status);
    assert_eq!(end, Some(Status::RetryExceeded));
}
