//! Two simulated queue pairs over a bad network, against an obvious model.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use mlx5gda_sys::wqe::AtomicWidth;
use proptest::prelude::*;

use super::*;
use crate::psn::Psn;
use crate::wire::{ICRC_BYTES, decode, encode};

const MTU: u32 = 256;
const MEMORY: usize = 1 << 14;
const RKEY: u32 = 0x1234;

/// A responder's memory and receive queue.
struct Peer {
    memory: Vec<u8>,
    received: Vec<(Vec<u8>, Option<u32>)>,
    buffer: Vec<u8>,
    not_ready: u32,
}

impl Target for Peer {
    fn check(&mut self, rkey: u32, addr: u64, len: u32, _: Access) -> Result<(), Fault> {
        let end = addr.checked_add(u64::from(len)).ok_or(Fault::Access)?;
        if rkey == RKEY && end <= MEMORY as u64 {
            Ok(())
        } else {
            Err(Fault::Access)
        }
    }

    fn write(&mut self, rkey: u32, addr: u64, data: &[u8]) -> Result<(), Fault> {
        self.check(rkey, addr, data.len() as u32, Access::Write)?;
        self.memory[addr as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn atomic(&mut self, _: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault> {
        Ok(apply_atomic(&mut self.memory, addr, op))
    }

    fn receive_begin(&mut self) -> Result<(), Fault> {
        if self.not_ready > 0 {
            self.not_ready -= 1;
            return Err(Fault::NotReady);
        }
        self.buffer.clear();
        Ok(())
    }

    fn receive_data(&mut self, offset: u32, data: &[u8]) -> Result<(), Fault> {
        assert_eq!(offset as usize, self.buffer.len());
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    fn receive_end(&mut self, end: MessageEnd) {
        if !end.is_write {
            assert_eq!(end.len as usize, self.buffer.len());
        }
        self.received
            .push((std::mem::take(&mut self.buffer), end.immediate));
    }
}

fn apply_atomic(memory: &mut [u8], addr: u64, op: AtomicOp) -> u64 {
    let place = &mut memory[addr as usize..][..op.bytes() as usize];
    let mut found = [0; 8];
    found[..place.len()].copy_from_slice(place);
    let found = u64::from_le_bytes(found);
    place.copy_from_slice(&op.apply(found).to_le_bytes()[..op.bytes() as usize]);
    found
}

#[derive(Clone, Debug)]
struct Request {
    op: Op,
    len: u32,
    fill: u8,
    signalled: bool,
    fence: bool,
}

fn atomic() -> impl Strategy<Value = AtomicOp> {
    let masked = (any::<bool>(), any::<[u64; 4]>()).prop_map(|(narrow, operands)| {
        let (width, fits) = if narrow {
            (AtomicWidth::Four, u64::from(u32::MAX))
        } else {
            (AtomicWidth::Eight, u64::MAX)
        };
        (width, operands.map(|operand| operand & fits))
    });
    prop_oneof![
        any::<u64>().prop_map(|add| AtomicOp::FetchAdd { add }),
        any::<u64>().prop_map(|swap| AtomicOp::CompareSwap { compare: 0, swap }),
        masked
            .clone()
            .prop_map(|(width, [add, boundary, ..])| AtomicOp::MaskedFetchAdd {
                width,
                add,
                boundary
            }),
        masked.prop_map(
            |(width, [swap, swap_mask, mask, _])| AtomicOp::MaskedCompareSwap {
                width,
                compare: 0,
                swap,
                // Sparse, so that it matches now and then.
                compare_mask: mask & 0x0101,
                swap_mask,
            }
        ),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let addr = 0u64..(MEMORY as u64 - 6000);
    let len = prop_oneof![0u32..20, Just(MTU), Just(MTU + 1), 0u32..6000];
    let op = prop_oneof![
        Just((Op::Nop, false)),
        (addr.clone(), prop::option::weighted(0.2, any::<u32>())).prop_map(|(addr, immediate)| (
            Op::Write {
                addr,
                rkey: RKEY,
                immediate
            },
            true
        )),
        addr.clone()
            .prop_map(|addr| (Op::Read { addr, rkey: RKEY }, true)),
        prop::option::of(any::<u32>()).prop_map(|immediate| (Op::Send { immediate }, true)),
        (addr, atomic()).prop_map(|(addr, op)| {
            let addr = addr & !u64::from(op.bytes() - 1);
            let rkey = RKEY;
            (Op::Atomic { addr, rkey, op }, false)
        }),
    ];
    (op, len, any::<(u8, bool)>(), prop::bool::weighted(0.1)).prop_map(
        |((op, sized), len, (fill, signalled), fence)| Request {
            len: match op {
                _ if sized => len,
                Op::Atomic { op, .. } => op.bytes(),
                _ => 0,
            },
            op,
            fill,
            signalled,
            fence,
        },
    )
}

/// What the network does to the n-th packet.
#[derive(Clone, Debug)]
struct Weather {
    fates: Vec<u8>,
    lossy: bool,
}

impl Weather {
    /// Arrival delays, in microseconds, of each copy.
    fn fate(&self, n: usize) -> Vec<u64> {
        let base = 10;
        if !self.lossy || self.fates.is_empty() {
            return vec![base];
        }
        match self.fates[n % self.fates.len()] {
            0..25 => vec![],
            25..45 => vec![base, base + 40],
            45..70 => vec![base + 35],
            _ => vec![base],
        }
    }
}

/// A datagram on its way: arrival, tie break, whether to the responder.
type Flying = (Instant, usize, bool, Vec<u8>);

struct Sim {
    requester: Requester<usize>,
    responder: Responder,
    peer: Peer,
    requests: Vec<Request>,
    results: BTreeMap<usize, Vec<u8>>,
    completions: Vec<Completion>,
    started: Instant,
    now: Instant,
    wire: BinaryHeap<Reverse<Flying>>,
    sent: usize,
    order: usize,
    weather: Weather,
}

impl Sim {
    fn new(requests: Vec<Request>, weather: Weather, psn: u32, not_ready: u32) -> Self {
        let now = Instant::now();
        Self {
            requester: Requester::new(RequesterConfig {
                dest_qpn: 7,
                mtu: MTU,
                start_psn: Psn::new(psn),
                ack_timeout: Some(Duration::from_micros(500)),
                retry_count: 7,
                rnr_retry: 7,
                max_reads: 4,
                window: 32,
            }),
            responder: Responder::new(ResponderConfig {
                dest_qpn: 9,
                mtu: MTU,
                start_psn: Psn::new(psn),
                min_rnr_nak: 1,
                max_reads: 4,
            }),
            peer: Peer {
                memory: vec![0; MEMORY],
                received: Vec::new(),
                buffer: Vec::new(),
                not_ready,
            },
            requests,
            results: BTreeMap::new(),
            completions: Vec::new(),
            started: now,
            now,
            wire: BinaryHeap::new(),
            sent: 0,
            order: 0,
            weather,
        }
    }

    fn transmit(&mut self, to_responder: bool, datagram: &[u8]) {
        for delay in self.weather.fate(self.sent) {
            self.order += 1;
            let at = self.now + Duration::from_micros(delay);
            self.wire
                .push(Reverse((at, self.order, to_responder, datagram.to_vec())));
        }
        self.sent += 1;
    }

    fn pump(&mut self) {
        let mut datagram = Vec::new();
        while let Some(packet) = self.requester.poll_tx(self.now) {
            let fill = self.requests[*packet.payload].fill;
            let offset = packet.offset;
            datagram.clear();
            encode(&packet.headers, packet.len as usize, &mut datagram, |to| {
                for (i, byte) in to.iter_mut().enumerate() {
                    *byte = pattern(fill, offset as usize + i);
                }
                Ok::<(), Infallible>(())
            })
            .unwrap();
            datagram.extend_from_slice(&[0; ICRC_BYTES]);
            self.transmit(true, &datagram);
        }
        while let Some(reply) = self.responder.poll_tx() {
            datagram.clear();
            let source = reply.source;
            let memory = &self.peer.memory;
            encode(
                &reply.headers,
                source.map_or(0, |s| s.len as usize),
                &mut datagram,
                |to| {
                    if let Some(source) = source {
                        to.copy_from_slice(&memory[source.addr as usize..][..to.len()]);
                    }
                    Ok::<(), Infallible>(())
                },
            )
            .unwrap();
            datagram.extend_from_slice(&[0; ICRC_BYTES]);
            self.transmit(false, &datagram);
        }
        while let Some(completion) = self.requester.poll_completion() {
            self.completions.push(completion);
        }
    }

    /// Runs until nothing is left to do, or one virtual minute has passed.
    fn run(&mut self) {
        for index in 0..self.requests.len() {
            let request = self.requests[index].clone();
            self.requester.post(WorkRequest {
                index: index as u16,
                op: request.op,
                len: request.len,
                signalled: request.signalled,
                solicited: false,
                fence: request.fence,
                payload: index,
            });
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.pump();
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = arrival.into_iter().chain(self.requester.deadline()).min() else {
                return;
            };
            assert!(
                next < self.started + Duration::from_secs(60),
                "still busy: {:?}",
                self.requester
            );
            self.now = self.now.max(next);
            if arrival == Some(next)
                && let Some(Reverse((_, _, to_responder, datagram))) = self.wire.pop()
            {
                self.deliver(to_responder, &datagram);
            }
            self.requester.on_timer(self.now);
        }
    }

    fn deliver(&mut self, to_responder: bool, datagram: &[u8]) {
        let packet = decode(datagram).unwrap();
        if to_responder {
            self.responder.on_packet(&packet, &mut self.peer);
            return;
        }
        let results = &mut self.results;
        let requests = &self.requests;
        self.requester
            .on_packet(self.now, &packet, &mut |&index, offset, data| {
                let whole = results
                    .entry(index)
                    .or_insert_with(|| vec![0; requests[index].len as usize]);
                whole[offset as usize..][..data.len()].copy_from_slice(data);
                true
            });
    }
}

fn pattern(fill: u8, at: usize) -> u8 {
    fill.wrapping_add((at as u8).wrapping_mul(7))
        .wrapping_add((at >> 8) as u8)
}

/// Executes the requests one after the other.
type Outcome = (
    Vec<u8>,
    Vec<(Vec<u8>, Option<u32>)>,
    BTreeMap<usize, Vec<u8>>,
);

fn model(requests: &[Request]) -> Outcome {
    let mut memory = vec![0; MEMORY];
    let mut received = Vec::new();
    let mut results = BTreeMap::new();
    for (index, request) in requests.iter().enumerate() {
        let len = request.len as usize;
        let data: Vec<u8> = (0..len).map(|at| pattern(request.fill, at)).collect();
        match request.op {
            Op::Nop => {}
            Op::Write {
                addr, immediate, ..
            } => {
                memory[addr as usize..][..len].copy_from_slice(&data);
                if immediate.is_some() {
                    received.push((Vec::new(), immediate));
                }
            }
            Op::Send { immediate } => received.push((data, immediate)),
            Op::Read { addr, .. } => {
                results.insert(index, memory[addr as usize..][..len].to_vec());
            }
            Op::Atomic { addr, op, .. } => {
                let found = apply_atomic(&mut memory, addr, op).to_le_bytes();
                results.insert(index, found[..op.bytes() as usize].to_vec());
            }
        }
    }
    (memory, received, results)
}

/// A READ that was asked for again sees later writes, as it does on a real
/// device; only reads that nothing follows are compared.
fn comparable(requests: &[Request], index: usize) -> bool {
    !matches!(requests[index].op, Op::Read { .. })
        || requests[index + 1..]
            .iter()
            .all(|later| matches!(later.op, Op::Read { .. } | Op::Nop | Op::Send { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_pair_does_what_the_model_does(
        requests in prop::collection::vec(request(), 1..25),
        fates in prop::collection::vec(any::<u8>(), 1..400),
        lossy in any::<bool>(),
        psn in prop_oneof![0u32..1 << 24, (1u32 << 24) - 50..1 << 24],
        not_ready in 0u32..3,
    ) {
        let (memory, received, results) = model(&requests);
        let signalled: Vec<u16> = (0..).zip(&requests).filter(|(_, r)| r.signalled).map(|(i, _)| i).collect();
        let mut sim = Sim::new(requests, Weather { fates, lossy }, psn, not_ready);
        sim.run();
        prop_assert_eq!(sim.requester.pending(), 0);
        if !lossy {
            prop_assert!(!sim.requester.failed());
        }
        if sim.requester.failed() {
            // Bad luck eight times in a row: everything still ends exactly
            // once, in order, with one failure followed by flushes.
            let failure = sim.completions.iter().position(|c| c.status != Status::Success).unwrap();
            prop_assert_eq!(sim.completions[failure].status, Status::RetryExceeded);
            prop_assert!(sim.completions[failure + 1..].iter().all(|c| c.status == Status::Flushed));
            prop_assert!(sim.completions.windows(2).all(|w| w[0].index < w[1].index));
        } else {
            prop_assert_eq!(&sim.peer.memory, &memory);
            prop_assert_eq!(&sim.peer.received, &received);
            for (index, data) in results {
                if comparable(&sim.requests, index) && !data.is_empty() {
                    prop_assert_eq!(sim.results.get(&index), Some(&data));
                }
            }
            let ended: Vec<u16> = sim.completions.iter().map(|c| c.index).collect();
            prop_assert_eq!(ended, signalled);
            prop_assert!(sim.completions.iter().all(|c| c.status == Status::Success));
        }
    }
}

fn write(addr: u64, rkey: u32, len: u32) -> Request {
    Request {
        op: Op::Write {
            addr,
            rkey,
            immediate: None,
        },
        len,
        fill: 1,
        signalled: true,
        fence: false,
    }
}

fn fair() -> Weather {
    Weather {
        fates: Vec::new(),
        lossy: false,
    }
}

#[test]
fn a_refused_write_fails_itself_and_flushes_what_follows() {
    let requests = vec![
        write(0, RKEY, 10),
        write(MEMORY as u64 - 4, RKEY, 5),
        write(0, RKEY, 3),
    ];
    let mut sim = Sim::new(requests, fair(), 5, 0);
    sim.run();
    let statuses: Vec<Status> = sim.completions.iter().map(|c| c.status).collect();
    assert_eq!(
        statuses,
        [Status::Success, Status::RemoteAccess, Status::Flushed]
    );
    assert!(sim.responder.failed() && sim.requester.failed());
    sim.requester.post(WorkRequest {
        index: 3,
        op: Op::Nop,
        len: 0,
        signalled: false,
        solicited: false,
        fence: false,
        payload: 0,
    });
    assert_eq!(
        sim.requester.poll_completion().map(|c| c.status),
        Some(Status::Flushed)
    );
}

#[test]
fn silence_ends_in_retry_exceeded_after_all_retries() {
    let silent = Weather {
        fates: vec![0],
        lossy: true,
    };
    let mut sim = Sim::new(vec![write(0, RKEY, 1000), write(0, RKEY, 1)], silent, 0, 0);
    sim.run();
    let statuses: Vec<Status> = sim.completions.iter().map(|c| c.status).collect();
    assert_eq!(statuses, [Status::RetryExceeded, Status::Flushed]);
    let waited = sim.now - sim.started;
    assert_eq!(waited, Duration::from_micros(500 * 8));
}

#[test]
fn one_lost_packet_is_recovered_without_a_timeout() {
    let once = Weather {
        fates: (0..200).map(|n| if n == 3 { 0 } else { 255 }).collect(),
        lossy: true,
    };
    let mut sim = Sim::new(vec![write(0, RKEY, 20 * MTU)], once, 0, 0);
    sim.run();
    assert!(!sim.requester.failed());
    assert!(sim.requester.retransmitted() > 0);
    assert!(sim.now - sim.started < Duration::from_micros(500));
}

#[test]
fn a_finite_rnr_retry_count_runs_out() {
    let send = Request {
        op: Op::Send { immediate: None },
        ..write(0, 0, 10)
    };
    let mut sim = Sim::new(vec![send], fair(), 0, u32::MAX);
    sim.requester = Requester::new(RequesterConfig {
        dest_qpn: 7,
        mtu: MTU,
        start_psn: Psn::new(0),
        ack_timeout: None,
        retry_count: 7,
        rnr_retry: 2,
        max_reads: 1,
        window: 8,
    });
    sim.run();
    let statuses: Vec<Status> = sim.completions.iter().map(|c| c.status).collect();
    assert_eq!(statuses, [Status::RnrRetryExceeded]);
    assert_eq!(sim.peer.not_ready, u32::MAX - 3);
}
