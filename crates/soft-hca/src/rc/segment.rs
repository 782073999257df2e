//! Cutting work requests into packets.

use mlx5gda_sys::wqe::AtomicOp;

use super::queue::{Entry, Op};
use super::requester::RequesterConfig;
use crate::psn::Seq;
use crate::wire::{AtomicEth, Bth, Headers, MaskedAtomicEth, Opcode, Position, Reth};

/// Packets of answer that one READ request packet asks for at most. A longer
/// READ goes out as several requests, so that answers stay within the window.
pub(super) const READ_CHUNK: u64 = 16;

/// A packet to send: headers, and which part of a work request's data.
#[derive(Debug)]
pub struct TxPacket<'a, P> {
    /// All headers.
    pub headers: Headers,
    /// Where the data is.
    pub payload: &'a P,
    /// First byte of the data to send.
    pub offset: u32,
    /// Bytes to send.
    pub len: u32,
}

impl<P> Entry<P> {
    /// PSNs that the request packet at `seq` takes.
    pub(super) fn span(&self, seq: Seq) -> u64 {
        if matches!(self.wr.op, Op::Read { .. }) {
            let within = seq.since(self.first) % READ_CHUNK;
            self.end.since(seq).min(READ_CHUNK - within)
        } else {
            1
        }
    }

    /// The first PSN of the request packet that was sent last, when `next` is
    /// the next one to send.
    pub(super) fn last_start(&self, next: Seq) -> Seq {
        let last = next.min(self.end).since(self.first).saturating_sub(1);
        if matches!(self.wr.op, Op::Read { .. }) {
            self.first.plus(last / READ_CHUNK * READ_CHUNK)
        } else {
            self.first.plus(last)
        }
    }

    /// Builds the request packet at `seq`. An acknowledgement is asked for at
    /// the end of the message and after every `ack_every` packets.
    pub(super) fn packet(
        &self,
        seq: Seq,
        config: &RequesterConfig,
        ack_every: u64,
    ) -> Option<TxPacket<'_, P>> {
        let wr = &self.wr;
        let mtu = u64::from(config.mtu);
        let done = seq.since(self.first);
        let offset = u32::try_from(done * mtu).ok()?;
        let bytes = u64::from(wr.len.saturating_sub(offset)).min(self.span(seq) * mtu) as u32;
        let is_last = seq.plus(1) >= self.end;
        let place = match (done == 0, is_last) {
            (true, true) => Position::Only,
            (true, false) => Position::First,
            (false, true) => Position::Last,
            (false, false) => Position::Middle,
        };
        let mut headers = Headers::new(Bth {
            opcode: Opcode::Acknowledge,
            solicited: wr.solicited && is_last,
            pad: 0,
            dest_qpn: config.dest_qpn,
            ack_request: is_last || (done + 1).is_multiple_of(ack_every),
            psn: seq.psn(),
        });
        let mut len = bytes;
        headers.bth.opcode = match wr.op {
            Op::Nop => return None,
            Op::Send { immediate } => {
                headers.immediate = immediate;
                Opcode::send(place, immediate.is_some())
            }
            Op::Write {
                addr,
                rkey,
                immediate,
            } => {
                headers.immediate = immediate;
                headers.reth = place.is_start().then_some(Reth {
                    addr,
                    rkey,
                    len: wr.len,
                });
                Opcode::write(place, immediate.is_some())
            }
            Op::Read { addr, rkey } => {
                headers.reth = Some(Reth {
                    addr: addr.wrapping_add(u64::from(offset)),
                    rkey,
                    len: bytes,
                });
                len = 0;
                Opcode::ReadRequest
            }
            Op::Atomic { addr, rkey, op } => {
                len = 0;
                atomic(&mut headers, addr, rkey, op)
            }
        };
        Some(TxPacket {
            headers,
            payload: &wr.payload,
            offset,
            len,
        })
    }
}

/// Fills in the header of an atomic; the packet's opcode.
fn atomic(headers: &mut Headers, addr: u64, rkey: u32, op: AtomicOp) -> Opcode {
    let (swap_or_add, compare, opcode) = match op {
        AtomicOp::FetchAdd { add } => (add, 0, Opcode::FetchAdd),
        AtomicOp::CompareSwap { compare, swap } => (swap, compare, Opcode::CompareSwap),
        AtomicOp::MaskedFetchAdd { .. } | AtomicOp::MaskedCompareSwap { .. } => {
            headers.masked = Some(MaskedAtomicEth { addr, rkey, op });
            return if matches!(op, AtomicOp::MaskedFetchAdd { .. }) {
                Opcode::MaskedFetchAdd
            } else {
                Opcode::MaskedCompareSwap
            };
        }
    };
    headers.atomic = Some(AtomicEth {
        addr,
        rkey,
        swap_or_add,
        compare,
    });
    opcode
}
