//! Handing one slot to the network, in steps that can be taken up again.

use crate::layout::{ALIGNMENT, Layout};
use crate::signal::Signal;
use crate::stats::Traffic;
use ep_transport::{Fabric, Half, PeerFault, Rank};

/// Slots are spread over lanes in parts of at least this many bytes; smaller ones
/// travel on one lane, as a work queue entry costs more than the bytes.
const LEAST_CHUNK: u64 = 4096;

/// Offset and length of what `lane` of `lanes` carries of a slot of `used` bytes.
/// The parts are contiguous, in lane order, and cover the slot.
pub(super) fn chunk(used: u64, lanes: u32, lane: u32) -> (u64, u64) {
    let carriers = (used / LEAST_CHUNK).clamp(1, lanes.max(1).into());
    let part = used.div_ceil(carriers).next_multiple_of(ALIGNMENT);
    let begin = (part * u64::from(lane)).min(used);
    (begin, part.min(used - begin))
}

/// How far the sending of one slot to one peer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The staging slot may still be read by the NIC, or is not filled yet.
    Stage,
    /// Filled with `used` bytes; `step` counts posted work queue entries, two per
    /// lane: its part of the slot, then its signal.
    Post { used: u64, step: u32 },
    /// Everything was handed over.
    Done,
}

/// Where a slot comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) me: Rank,
    pub(super) peer: Rank,
    pub(super) half: Half,
    pub(super) lanes: u32,
    pub(super) signal: Signal,
}

impl Route {
    /// Posts from `step` on until all is posted and rung, or the queue is full.
    /// What was posted is rung in either case, as a queue that nobody rings never
    /// gets room again.
    pub(super) fn post<F: Fabric>(
        &self,
        fabric: &mut F,
        layout: &Layout,
        used: u64,
        mut step: u32,
        traffic: &mut Traffic,
    ) -> Result<Sending, PeerFault> {
        while step < 2 * self.lanes {
            let lane = step / 2;
            let posted = if step.is_multiple_of(2) {
                self.post_chunk(fabric, layout, used, lane, traffic)
            } else {
                let to = layout.signal(self.half, self.me, lane);
                fabric
                    .signal(self.peer, lane, to, self.signal.word())
                    .map(|()| traffic.messages += 1)
            };
            match posted {
                Ok(()) => step += 1,
                Err(fault) if fault.is_transient() => {
                    fabric.ring(self.peer, self.half)?;
                    // Reads completions, which is what makes room.
                    fabric.reusable(self.peer, self.half)?;
                    return Ok(Sending::Post { used, step });
                }
                Err(fault) => return Err(fault),
            }
        }
        fabric.ring(self.peer, self.half)?;
        Ok(Sending::Done)
    }

    fn post_chunk<F: Fabric>(
        &self,
        fabric: &mut F,
        layout: &Layout,
        used: u64,
        lane: u32,
        traffic: &mut Traffic,
    ) -> Result<(), PeerFault> {
        let (begin, len) = chunk(used, self.lanes, lane);
        if len == 0 {
            return Ok(());
        }
        let from = layout.staging(self.half, self.peer) + begin;
        let to = layout.receive(self.half, self.me) + begin;
        fabric.write(self.peer, lane, from, to, len)?;
        traffic.messages += 1;
        traffic.bytes += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_slots_use_one_lane() {
        assert_eq!(chunk(64, 4, 0), (0, 64));
        assert_eq!(chunk(64, 4, 3), (64, 0));
        assert_eq!(chunk(2 * LEAST_CHUNK - 1, 4, 1).1, 0);
    }

    proptest! {
        #[test]
        fn parts_are_contiguous_and_cover_the_slot(used in 1u64..1_000_000, lanes in 1u32..=64) {
            let mut at = 0;
            for lane in 0..lanes {
                let (begin, len) = chunk(used, lanes, lane);
                prop_assert_eq!(begin, at);
                prop_assert!(len == 0 || begin.is_multiple_of(ALIGNMENT));
                at += len;
            }
            prop_assert_eq!(at, used);
        }
    }
}
