//! Work queue entries: from the send queue into the requester.

use mlx5gda_sys::wqe::{Opcode, ParsedWqe, Payload, WQEBB_BYTES, WqeError, parse};

use super::memory::{Regions, covered};
use crate::device::{Qp, Source, State, limits};
use crate::rc::{Op, Status, WorkRequest};

/// Work requests that one queue pair has in the requester; the others wait in
/// the send queue.
const MAX_FETCHED: usize = 64;

impl State {
    /// Fetches what has been posted; whether that was anything.
    pub(super) fn fetch(&mut self, qpn: u32) -> bool {
        let Self {
            qps,
            mrs,
            cqs,
            stats,
            ..
        } = self;
        let Some(qp) = qps.get_mut(&qpn).filter(|qp| qp.has_posted()) else {
            return false;
        };
        if qp.qpc.no_sq() {
            return false;
        }
        let size = 1u16 << qp.qpc.log_sq_size();
        let mut any = false;
        loop {
            if qp
                .requester
                .as_ref()
                .is_some_and(|r| r.pending() >= MAX_FETCHED)
            {
                return any;
            }
            let waiting = qp.sq_tail.wrapping_sub(qp.sq_head);
            if waiting == 0 {
                return any;
            }
            any = true;
            stats.work_requests += 1;
            if waiting > size {
                // The producer has run over entries that were not executed.
                let index = qp.sq_head;
                qp.sq_head = qp.sq_tail;
                submit(qp, bad(index), Some(Status::LocalOperation), cqs, stats);
                continue;
            }
            let mut bytes = [0; limits::WQE_BYTES];
            let read = read_wqe(qp, size, &mut bytes);
            let index = qp.sq_head;
            let blocks = block_count(&bytes).min(waiting);
            qp.sq_head = index.wrapping_add(blocks);
            let whole = &bytes[..usize::from(blocks) * WQEBB_BYTES];
            let (request, failure) = match parse(whole) {
                _ if !read => (bad(index), Some(Status::LocalProtection)),
                Ok(wqe) => translate(qp, mrs, index, &wqe, whole),
                Err(error) => {
                    report(qpn, index, &error);
                    (bad(index), Some(Status::LocalOperation))
                }
            };
            submit(qp, request, failure, cqs, stats);
        }
    }
}

fn report(qpn: u32, index: u16, error: &WqeError) {
    tracing::debug!(qpn, index, %error, "malformed WQE");
}

/// Copies the longest possible WQE at the head of the send queue, across the
/// end of the ring if need be.
fn read_wqe(qp: &Qp, size: u16, to: &mut [u8]) -> bool {
    let start = qp.buffers.work.offset + qp.buffers.rq_bytes;
    let mut slot = qp.sq_head;
    for block in to.chunks_exact_mut(WQEBB_BYTES).take(usize::from(size)) {
        let at = u64::from(slot & (size - 1)) * WQEBB_BYTES as u64;
        if !qp.buffers.work.region.read(start + at, block) {
            return false;
        }
        slot = slot.wrapping_add(1);
    }
    true
}

/// Blocks that a WQE says it takes, at least one, by the size in its control
/// segment (low 6 bits of byte 7, in 16-byte units).
fn block_count(bytes: &[u8]) -> u16 {
    let units = u16::from(bytes[7] & 0x3f);
    units.div_ceil(4).max(1)
}

/// A work request that only stands for one that could not be read.
fn bad(index: u16) -> WorkRequest<Source> {
    WorkRequest {
        index,
        op: Op::Nop,
        len: 0,
        signalled: true,
        solicited: false,
        fence: false,
        payload: Source::Inline(Box::default()),
    }
}

/// Turns a WQE into a work request, with the reason why it cannot be executed,
/// if there is one.
fn translate(
    qp: &Qp,
    regions: &Regions,
    index: u16,
    wqe: &ParsedWqe,
    bytes: &[u8],
) -> (WorkRequest<Source>, Option<Status>) {
    let (addr, rkey) = wqe
        .remote
        .map_or((0, 0), |remote| (remote.addr, remote.rkey));
    let op = match (wqe.opcode, wqe.atomic) {
        (Opcode::Nop, _) => Some(Op::Nop),
        (Opcode::RdmaWrite | Opcode::RdmaWriteImm, _) => Some(Op::Write {
            addr,
            rkey,
            immediate: wqe.imm,
        }),
        (Opcode::Send | Opcode::SendImm, _) => Some(Op::Send { immediate: wqe.imm }),
        (Opcode::RdmaRead, _) => Some(Op::Read { addr, rkey }),
        (_, Some(op)) => Some(Op::Atomic { addr, rkey, op }),
        _ => None,
    };
    let longest = 1u64 << qp.qpc.log_msg_max().min(limits::LOG_MESSAGE);
    let len = wqe.payload.len();
    let mut failure = None;
    if op.is_none() || wqe.index != index || wqe.qpn != qp.number {
        failure = Some(Status::LocalOperation);
    } else if len > longest {
        failure = Some(Status::LocalLength);
    }
    let payload = match &wqe.payload {
        Payload::Gather(list) => {
            if !covered(regions, qp.pd, list.as_slice()) {
                failure = failure.or(Some(Status::LocalProtection));
            }
            Source::Gather(list.as_slice().into())
        }
        inline => {
            let range = inline.inline_range().unwrap_or(0..0);
            Source::Inline(bytes.get(range).unwrap_or(&[]).into())
        }
    };
    let request = WorkRequest {
        index,
        op: op.unwrap_or(Op::Nop),
        len: u32::try_from(len).unwrap_or(u32::MAX),
        signalled: wqe.flags.signalled(),
        solicited: wqe.flags.solicited(),
        fence: wqe.flags.fenced(),
        payload,
    };
    (request, failure)
}

/// Hands a work request to the requester. A queue pair that went to error
/// before it was ready to send has none; its work is flushed here.
fn submit(
    qp: &mut Qp,
    request: WorkRequest<Source>,
    failure: Option<Status>,
    cqs: &mut crate::device::Cqs,
    stats: &mut crate::stats::Stats,
) {
    match (&mut qp.requester, failure) {
        (Some(requester), Some(status)) => requester.post_failed(request, status),
        (Some(requester), None) => requester.post(request),
        (None, _) => {
            let flushed = crate::rc::Completion {
                index: request.index,
                op: request.op,
                len: 0,
                status: Status::Flushed,
            };
            super::complete::write(qp, &flushed, cqs, stats);
        }
    }
}
