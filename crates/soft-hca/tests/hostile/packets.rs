//! Any datagrams, in any order, to the parsers of packets and to both halves of a connection.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use mlx5gda_sys::wqe::AtomicOp;
use soft_hca::psn::Psn;
use soft_hca::rc::{
    Access, Fault, MessageEnd, Op, Requester, RequesterConfig, Responder, ResponderConfig, Target,
    WorkRequest,
};
use soft_hca::wire::{Flow, Grh, ICRC_BYTES, Packet, decode, encode, icrc};

const MTU: u32 = 256;
const MEMORY: usize = 4096;
/// Bytes of each work request that waits for its answer.
const MESSAGE: u32 = 700;
/// More answers than this to one datagram would let a peer make the device busy.
const MAX_ANSWERS: usize = 64 * MEMORY / MTU as usize;
/// More answers without data than this would fill the memory of a device that cannot send.
const MAX_PLAIN: usize = 65;
/// Times that some datagrams come in a row: more than answers may wait.
const COPIES: u32 = 100;

/// A memory that every key opens, and receive buffers without end.
struct Memory {
    bytes: [u8; MEMORY],
    received: usize,
}

impl Target for Memory {
    fn check(&mut self, _: u32, addr: u64, len: u32, _: Access) -> Result<(), Fault> {
        match addr.checked_add(u64::from(len)) {
            Some(end) if end <= MEMORY as u64 => Ok(()),
            _ => Err(Fault::Access),
        }
    }

    fn write(&mut self, _: u32, addr: u64, data: &[u8]) -> Result<(), Fault> {
        // Whatever comes from outside was checked before.
        self.bytes[addr as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn atomic(&mut self, _: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault> {
        let place = &mut self.bytes[addr as usize..][..op.bytes() as usize];
        let mut found = [0; 8];
        found[..place.len()].copy_from_slice(place);
        Ok(u64::from_ne_bytes(found))
    }

    fn receive_begin(&mut self) -> Result<(), Fault> {
        self.received = 0;
        Ok(())
    }

    fn receive_data(&mut self, offset: u32, data: &[u8]) -> Result<(), Fault> {
        assert_eq!(offset as usize, self.received);
        self.received += data.len();
        if self.received > MEMORY {
            return Err(Fault::Length);
        }
        Ok(())
    }

    fn receive_end(&mut self, end: MessageEnd) {
        assert!(end.is_write || end.len as usize == self.received);
    }
}

/// A queue pair in the middle of its work.
struct Ends {
    requester: Requester<()>,
    responder: Responder,
    memory: Memory,
    now: Instant,
    waiting: BTreeSet<u16>,
}

impl Ends {
    fn new() -> Self {
        let start_psn = Psn::new(0);
        let requester = Requester::new(RequesterConfig {
            dest_qpn: 7,
            mtu: MTU,
            start_psn,
            ack_timeout: Some(Duration::from_millis(1)),
            retry_count: 7,
            rnr_retry: 7,
            max_reads: 4,
            window: 32,
        });
        let responder = Responder::new(ResponderConfig {
            dest_qpn: 9,
            mtu: MTU,
            start_psn,
            min_rnr_nak: 1,
            max_reads: 4,
        });
        let mut ends = Self {
            requester,
            responder,
            memory: Memory {
                bytes: [0; MEMORY],
                received: 0,
            },
            now: Instant::now(),
            waiting: BTreeSet::new(),
        };
        let (addr, rkey, immediate) = (0, 0, None);
        let add = AtomicOp::FetchAdd { add: 1 };
        let ops = [
            (Op::Read { addr, rkey }, MESSAGE),
            (
                Op::Atomic {
                    addr,
                    rkey,
                    op: add,
                },
                8,
            ),
            (
                Op::Write {
                    addr,
                    rkey,
                    immediate,
                },
                MESSAGE,
            ),
            (Op::Send { immediate }, MESSAGE),
        ];
        for (index, (op, len)) in (0..).zip(ops) {
            ends.waiting.insert(index);
            ends.requester.post(WorkRequest {
                index,
                op,
                len,
                signalled: true,
                solicited: false,
                fence: false,
                payload: (),
            });
        }
        ends
    }

    /// Takes a packet `copies` times. Answers leave before the next one if the device can send.
    fn take(&mut self, packet: &Packet<'_>, copies: u32, sends: bool) {
        for _ in 0..copies {
            self.responder.on_packet(packet, &mut self.memory);
        }
        if sends {
            self.answer();
        }
        self.now += Duration::from_micros(300);
        self.requester.on_timer(self.now);
        while self.requester.poll_tx(self.now).is_some() {}
        self.requester
            .on_packet(self.now, packet, &mut |(), offset, data| {
                assert!(offset as usize + data.len() <= MESSAGE as usize);
                true
            });
        while let Some(completion) = self.requester.poll_completion() {
            let first = self.waiting.remove(&completion.index);
            assert!(first, "{completion:?} was reported before");
        }
    }

    fn answer(&mut self) {
        let mut plain = 0;
        let answers = std::iter::from_fn(|| self.responder.poll_tx());
        for (count, reply) in answers.enumerate() {
            assert!(count <= MAX_ANSWERS, "answers without end");
            if let Some(source) = reply.source {
                let end = source.addr + u64::from(source.len);
                assert!(end <= MEMORY as u64, "{source:?} leaves the memory");
            } else {
                plain += 1;
                assert!(plain <= MAX_PLAIN, "answers pile up");
            }
        }
    }
}

/// Takes `bytes` as datagrams, each behind a byte with half of its length.
pub(crate) fn run(bytes: &[u8]) {
    let mut ends = Ends::new();
    let mut rest = bytes;
    while let Some((half, more)) = rest.split_first() {
        let (datagram, more) = more.split_at(more.len().min(2 * usize::from(*half)));
        rest = more;
        one(datagram);
        if let Ok(packet) = decode(datagram) {
            // Bits that have no meaning in the header.
            let flags = datagram.get(8).copied().unwrap_or(0);
            let copies = if flags & 1 == 0 { 1 } else { COPIES };
            ends.take(&packet, copies, flags & 2 == 0);
        }
    }
    ends.answer();
}

/// The parsers alone.
fn one(datagram: &[u8]) {
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    for (src, dst) in [(v4, v4), (v6, v6)] {
        let flow = Flow {
            src,
            dst,
            src_port: 49_152,
        };
        // Right by chance once in four billion times.
        let _ = icrc::open(&flow, datagram);
    }
    if let Some((Some(header), rest)) = Grh::split(datagram) {
        let len = u16::try_from(rest.len()).unwrap();
        let again = [&header.to_bytes(len)[..], rest].concat();
        assert_eq!(Grh::split(&again), Some((Some(header), rest)));
    }
    let Ok(packet) = decode(datagram) else {
        return;
    };
    let mut again = Vec::new();
    let payload = packet.payload;
    let written = encode(&packet.headers, payload.len(), &mut again, |to| {
        to.copy_from_slice(payload);
        Ok::<(), Infallible>(())
    });
    assert_eq!(written, Ok(()));
    again.extend_from_slice(&[0; ICRC_BYTES]);
    let mut copy = decode(&again).unwrap();
    // The one that came need not be padded to a multiple of four.
    copy.headers.bth.pad = packet.headers.bth.pad;
    assert_eq!(copy, packet);
}
