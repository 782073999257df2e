//! Requests beyond what was agreed upon.

use std::time::Instant;

use mlx5gda_sys::wqe::AtomicOp;

use super::{
    Access, Fault, MessageEnd, Op, Requester, RequesterConfig, Responder, ResponderConfig, Target,
    WorkRequest,
};
use crate::psn::Psn;
use crate::wire::{AckCode, Bth, Headers, NakCode, Opcode, Packet, Reth};

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
