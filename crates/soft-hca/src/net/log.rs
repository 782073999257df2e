//! A `tracing` event for each datagram that is sent.

use tracing::Level;

use crate::wire::{Flow, ICRC_BYTES, decode};

/// Target of the events, level `TRACE`.
const TARGET: &str = "soft_hca::packets";

/// Whether anybody asks.
pub(super) fn wanted() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// Tells what goes out, in the order in which it goes out.
pub(super) fn sent(flow: &Flow, datagram: &[u8]) {
    let (Ok(packet), Some(icrc)) = (decode(datagram), datagram.last_chunk::<ICRC_BYTES>()) else {
        return;
    };
    let Flow { src, dst, src_port } = *flow;
    let headers = packet.headers;
    let bth = headers.bth;
    let (rdma, atomic) = (headers.reth, headers.atomic);
    tracing::trace!(
        target: TARGET,
        %src,
        %dst,
        src_port,
        bytes = datagram.len(),
        opcode = bth.opcode as u8,
        psn = bth.psn.get(),
        qpn = bth.dest_qpn,
        ack = u8::from(bth.ack_request),
        solicited = u8::from(bth.solicited),
        pad = bth.pad,
        addr = rdma.map(|reth| reth.addr).or(atomic.map(|eth| eth.addr)),
        rkey = rdma.map(|reth| reth.rkey).or(atomic.map(|eth| eth.rkey)),
        len = rdma.map(|reth| reth.len),
        syndrome = headers.aeth.map(|aeth| aeth.code.to_byte()),
        msn = headers.aeth.map(|aeth| aeth.msn),
        swap = atomic.map(|eth| eth.swap_or_add),
        compare = atomic.map(|eth| eth.compare),
        immediate = headers.immediate,
        icrc = u32::from_be_bytes(*icrc),
    );
}
