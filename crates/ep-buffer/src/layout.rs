//! Where everything lies in the shared region: a pure function of the configuration.
//!
//! ```text
//! signal words    [half][source][lane]    u64, a row of lanes per 64-byte multiple
//! stall words     [source]                u64, one per 64 bytes
//! receive slots   [half][source]          written by that source only
//! staging slots   [half][destination]     written locally, read by the NIC
//! ```
//!
//! Every word and every slot has exactly one writer. The half is the parity of the
//! epoch; why two halves are enough is argued in [`crate::exchange`].

use crate::config::Config;
use crate::slot;
use ep_transport::{Half, Rank};

/// Everything that a writer of its own owns starts on a multiple of this.
pub const ALIGNMENT: u64 = 64;

pub(crate) fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Byte offsets in the region, the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    capacity: u64,
    signal_stride: u64,
    slot_bytes: u64,
    stall: u64,
    receive: u64,
    staging: u64,
    bytes: u64,
}

impl Layout {
    /// The layout for `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let capacity = u64::from(config.capacity());
        let signal_stride = align(u64::from(config.lanes()) * 8);
        let slot_bytes = slot::max_bytes(config);
        let stall = 2 * capacity * signal_stride;
        let receive = stall + capacity * ALIGNMENT;
        let staging = receive + 2 * capacity * slot_bytes;
        Self {
            capacity,
            signal_stride,
            slot_bytes,
            stall,
            receive,
            staging,
            bytes: staging + 2 * capacity * slot_bytes,
        }
    }

    fn index(&self, half: Half, rank: Rank) -> u64 {
        half.index() as u64 * self.capacity + u64::from(rank.0)
    }

    /// The word in which `source` announces on `lane` that its slot of `half` is written.
    #[must_use]
    pub fn signal(&self, half: Half, source: Rank, lane: u32) -> u64 {
        self.index(half, source) * self.signal_stride + u64::from(lane) * 8
    }

    /// The word that `source` changes now and then while it waits for a third rank.
    #[must_use]
    pub fn stall(&self, source: Rank) -> u64 {
        self.stall + u64::from(source.0) * ALIGNMENT
    }

    /// The slot that `source` writes into in operations of `half`.
    #[must_use]
    pub fn receive(&self, half: Half, source: Rank) -> u64 {
        self.receive + self.index(half, source) * self.slot_bytes
    }

    /// The slot from which operations of `half` send to `destination`.
    #[must_use]
    pub fn staging(&self, half: Half, destination: Rank) -> u64 {
        self.staging + self.index(half, destination) * self.slot_bytes
    }

    /// Bytes of one slot.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// Bytes of the whole region.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DispatchType, ScaleFormat};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_overlaps_and_everything_is_aligned(
            capacity in 1u32..20,
            lanes in 1u32..=64,
            (hidden, rows) in prop_oneof![
                (1u32..64).prop_map(|units| (units * 8, DispatchType::Bf16)),
                (1u32..6).prop_map(|units| (units * 128, DispatchType::Fp8(ScaleFormat::F32))),
                (1u32..6).prop_map(|units| (units * 128, DispatchType::Fp8(ScaleFormat::Ue8m0))),
            ],
            max_tokens in 1u32..200,
            max_top_k in 1u32..=32,
        ) {
            let config = Config::builder(capacity, 32, hidden, max_tokens)
                .max_top_k(max_top_k)
                .dispatch_type(rows)
                .lanes(lanes)
                .build()
                .unwrap();
            let layout = Layout::new(&config);
            let tokens = u64::from(max_tokens);
            let dispatch = slot::rows_at(max_tokens, max_top_k) + tokens * rows.row_bytes(hidden);
            let combine = slot::HEADER_BYTES + tokens * u64::from(hidden) * 2;
            prop_assert!(layout.slot_bytes() >= dispatch && layout.slot_bytes() >= combine);
            let mut ranges = Vec::new();
            for rank in (0..capacity).map(Rank) {
                ranges.push((layout.stall(rank), 8));
                for half in [Half::Even, Half::Odd] {
                    for lane in 0..lanes {
                        let at = layout.signal(half, rank, lane);
                        prop_assert!(at.is_multiple_of(8));
                        ranges.push((at, 8));
                    }
                    for at in [layout.receive(half, rank), layout.staging(half, rank)] {
                        prop_assert!(at.is_multiple_of(ALIGNMENT));
                        ranges.push((at, layout.slot_bytes()));
                    }
                    prop_assert!(layout.signal(half, rank, 0).is_multiple_of(ALIGNMENT));
                }
                prop_assert!(layout.stall(rank).is_multiple_of(ALIGNMENT));
            }
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            let last = ranges[ranges.len() - 1];
            prop_assert_eq!(last.0 + last.1, layout.bytes());
        }
    }
}
