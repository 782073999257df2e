//! What a responder works on: the memory that the peer can reach, and the
//! receive queue.

use mlx5gda_sys::be::Be32;
use mlx5gda_sys::cqe::{Cqe64, CqeOpcode, CqeOrigin, Syndrome};
use mlx5gda_sys::prm::QpState;
use mlx5gda_sys::wqe::DataPtr;

use super::memory::{Reach, scatter};
use crate::device::{Cqs, Landing, QpBuffers, ReceiveQueue, State};
use crate::rc::{Access, AtomicOp, Fault, MessageEnd, Target};
use crate::stats::Stats;

/// Key that ends the list of buffers in a receive WQE (`MLX5_INVALID_LKEY`).
const INVALID_LKEY: u32 = 0x100;
/// Bytes that the length 0 of a segment stands for.
const LONGEST_SEGMENT: u32 = 1 << 31;
/// Bytes of one buffer's description.
const SEGMENT_BYTES: usize = 16;

/// The responder half of a queue pair, with all that its requests touch.
pub(super) struct ResponderSide<'a> {
    pub(super) qpn: u32,
    pub(super) reach: Reach<'a>,
    pub(super) buffers: &'a QpBuffers,
    /// `None` if the queue pair has no receive queue.
    pub(super) queue: Option<&'a mut ReceiveQueue>,
    pub(super) cqs: &'a mut Cqs,
    pub(super) stats: &'a mut Stats,
}

/// Where a completion of a receive WQE goes.
struct Report<'a> {
    cqn: u32,
    qpn: u32,
    user_index: u32,
    cqs: &'a mut Cqs,
    stats: &'a mut Stats,
}

impl Report<'_> {
    fn write(&mut self, index: u16, solicited: bool, make: impl FnOnce(CqeOrigin) -> Cqe64) {
        let qpn = self.qpn;
        self.cqs.complete(self.cqn, solicited, self.stats, |owner| {
            make(CqeOrigin {
                qpn,
                wqe_counter: index,
                owner,
            })
        });
    }

    fn fail(&mut self, index: u16, syndrome: Syndrome) {
        let user_index = self.user_index;
        // An error counts as solicited.
        self.write(index, true, |origin| Cqe64 {
            srqn_uidx: Be32::new(user_index),
            ..Cqe64::error(origin, CqeOpcode::RespErr, 0, syndrome, 0)
        });
    }
}

impl ResponderSide<'_> {
    fn report(&mut self) -> Report<'_> {
        Report {
            cqn: self.reach.qpc.cqn_rcv(),
            qpn: self.qpn,
            user_index: self.reach.qpc.user_index(),
            cqs: self.cqs,
            stats: self.stats,
        }
    }

    /// The WQE at the head fails, and with it the queue pair.
    fn fail_head(&mut self, syndrome: Syndrome) {
        if let Some(queue) = &mut self.queue {
            let index = queue.head;
            queue.head = index.wrapping_add(1);
            queue.landing = None;
            self.report().fail(index, syndrome);
        }
    }

    /// Reads the receive WQE at the head, if it is there.
    fn landing(&self, head: u16) -> Option<Landing> {
        let qpc = self.reach.qpc;
        let stride = SEGMENT_BYTES << qpc.log_rq_stride();
        let slot = u64::from(head) & ((1 << qpc.log_rq_size()) - 1);
        let mut wqe = vec![0; stride];
        let work = &self.buffers.work;
        if !work
            .region
            .read(work.offset + slot * stride as u64, &mut wqe)
        {
            return None;
        }
        let buffers: Box<[DataPtr]> = wqe
            .as_chunks::<SEGMENT_BYTES>()
            .0
            .iter()
            .map(segment)
            .take_while(|segment| segment.lkey != INVALID_LKEY)
            .collect();
        let capacity = buffers.iter().map(|buffer| u64::from(buffer.len)).sum();
        Some(Landing { buffers, capacity })
    }
}

/// A data segment: length, local key, address, all big endian
/// (`mlx5_wqe_data_seg`).
fn segment(bytes: &[u8; SEGMENT_BYTES]) -> DataPtr {
    let [l0, l1, l2, l3, k0, k1, k2, k3, addr @ ..] = *bytes;
    DataPtr {
        addr: u64::from_be_bytes(addr),
        lkey: u32::from_be_bytes([k0, k1, k2, k3]),
        len: match u32::from_be_bytes([l0, l1, l2, l3]) {
            0 => LONGEST_SEGMENT,
            len => len,
        },
    }
}

impl Target for ResponderSide<'_> {
    fn check(&mut self, rkey: u32, addr: u64, len: u32, access: Access) -> Result<(), Fault> {
        self.reach.check(rkey, addr, len, access)
    }

    fn write(&mut self, rkey: u32, addr: u64, data: &[u8]) -> Result<(), Fault> {
        self.reach.write(rkey, addr, data)
    }

    fn atomic(&mut self, rkey: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault> {
        self.reach.atomic(rkey, addr, op)
    }

    fn receive_begin(&mut self) -> Result<(), Fault> {
        let queue = self.queue.as_ref().ok_or(Fault::Unsupported)?;
        match queue.waiting(self.buffers, self.reach.qpc) {
            Some(0) => return Err(Fault::NotReady),
            Some(_) => {}
            None => return Err(Fault::Queue),
        }
        let landing = self.landing(queue.head).ok_or(Fault::Queue)?;
        if let Some(queue) = &mut self.queue {
            queue.landing = Some(landing);
        }
        Ok(())
    }

    fn receive_data(&mut self, offset: u32, data: &[u8]) -> Result<(), Fault> {
        let queue = self.queue.as_ref().ok_or(Fault::Unsupported)?;
        let landing = queue.landing.as_ref().ok_or(Fault::Operation)?;
        if u64::from(offset) + data.len() as u64 > landing.capacity {
            self.fail_head(Syndrome::LocalLength);
            return Err(Fault::Length);
        }
        let Reach { regions, pd, .. } = self.reach;
        if !scatter(regions, pd, &landing.buffers, offset, data) {
            self.fail_head(Syndrome::LocalProtection);
            return Err(Fault::Operation);
        }
        Ok(())
    }

    fn receive_end(&mut self, end: MessageEnd) {
        let MessageEnd {
            len,
            immediate,
            is_write,
            solicited,
        } = end;
        let Some(queue) = &mut self.queue else {
            return;
        };
        let index = queue.head;
        queue.head = index.wrapping_add(1);
        queue.landing = None;
        let opcode = match (is_write, immediate) {
            (true, _) => CqeOpcode::RespWriteImm,
            (false, Some(_)) => CqeOpcode::RespSendImm,
            (false, None) => CqeOpcode::RespSend,
        };
        let user_index = self.reach.qpc.user_index();
        self.report().write(index, solicited, |origin| {
            Cqe64::responder(origin, opcode, len, immediate, user_index)
        });
    }
}

impl State {
    /// Flushes the receive WQEs of a queue pair in error; whether there were
    /// any.
    pub(super) fn flush_receives(&mut self, qpn: u32) -> bool {
        let Self {
            qps, cqs, stats, ..
        } = self;
        let Some(qp) = qps.get_mut(&qpn) else {
            return false;
        };
        let mut any = false;
        let mut report = Report {
            cqn: qp.qpc.cqn_rcv(),
            qpn,
            user_index: qp.qpc.user_index(),
            cqs,
            stats,
        };
        qp.rq.landing = qp.rq.landing.take().filter(|_| qp.state != QpState::Err);
        while qp.state == QpState::Err && qp.has_receives() {
            any = true;
            report.fail(qp.rq.head, Syndrome::WrFlush);
            qp.rq.head = qp.rq.head.wrapping_add(1);
        }
        any
    }
}
