//! Where things are in a rank's buffer, and how rows are cut.

use super::args::Geometry;
use super::settings::DispatchType;
use crate::config::Config;

/// Slots of a full segment; a slot is what a warp stores at once.
const SLOTS: u32 = 4;
const SLOT_BYTES: u32 = 512;
const LINE_BYTES: u64 = 128;
/// Words of a line that carry meta data; the last one is its tag.
const META_WORDS: u32 = 31;

/// `x / d` is the upper half of `x * magic(d)` as long as `x * d < 2^32`; 0 stands for
/// `d` = 1, for which there is none.
pub(super) fn magic(d: u32) -> u32 {
    match d {
        0 | 1 => 0,
        d => u32::try_from((1_u64 << 32).div_ceil(u64::from(d))).unwrap_or(u32::MAX),
    }
}

/// Vectors of 16 bytes that `slots` slots carry: of each of the four lines in a slot, the
/// lane with the tag gives up a quarter of its vector.
const fn slot_vectors(slots: u32) -> u32 {
    28 * slots + 4 * (3 * slots / 4)
}

impl Geometry {
    fn cut(units: u32, unit: u32, vectors_of: impl Fn(u32) -> u32) -> Self {
        let segments = units.div_ceil(unit).max(1);
        let last_unit = units - (segments - 1) * unit;
        let last_vectors = vectors_of(last_unit);
        let last_slots = (1..=SLOTS).find(|s| slot_vectors(*s) >= last_vectors);
        Self {
            segments,
            unit,
            vectors: vectors_of(unit),
            last_unit,
            last_vectors,
            last_slots: last_slots.unwrap_or(SLOTS),
            magic: magic(segments),
        }
    }

    /// Rows of `hidden` bf16 elements.
    pub(super) fn bf16(hidden: u32) -> Self {
        Self::cut(hidden / 8, slot_vectors(SLOTS), |vectors| vectors)
    }

    /// Rows of `hidden` FP8 elements; in each segment groups of 128 channels are followed
    /// by their scales, four in a vector.
    pub(super) fn fp8(hidden: u32) -> Self {
        let vectors = |groups: u32| groups * 8 + groups.div_ceil(4);
        Self::cut(hidden / 128, SLOTS * 15 / 4, vectors)
    }

    fn row_bytes(&self) -> u32 {
        ((self.segments - 1) * SLOTS + self.last_slots) * SLOT_BYTES
    }
}

/// Offsets in a half of a rank's buffer, and sizes that all ranks have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) dispatch: Geometry,
    pub(super) combine: Geometry,
    pub(super) row_bytes: u32,
    pub(super) meta_lines: u32,
    pub(super) count_words: u32,
    pub(super) max_local_experts: u32,
    pub(super) counts_at: u64,
    pub(super) hello_at: u64,
    pub(super) meta_at: u64,
    pub(super) rows_at: u64,
    pub(super) half_bytes: u64,
}

impl Layout {
    pub(super) fn new(config: &Config) -> Self {
        let combine = Geometry::bf16(config.hidden());
        let dispatch = match config.dispatch_type() {
            DispatchType::Bf16 => combine,
            DispatchType::Fp8(_) => Geometry::fp8(config.hidden()),
        };
        let row_bytes = combine.row_bytes().max(dispatch.row_bytes());
        let meta_lines = (1 + 2 * config.max_top_k()).div_ceil(META_WORDS);
        let max_local_experts = config.experts().div_ceil(config.capacity());
        let count_words = max_local_experts + 1 + config.max_tokens().div_ceil(32);
        let (ranks, places) = (
            u64::from(config.capacity()),
            u64::from(config.capacity()) * u64::from(config.max_tokens()),
        );
        let mut end = 0;
        let mut place = |bytes: u64| {
            let at = end;
            end += bytes.next_multiple_of(1024);
            at
        };
        Self {
            dispatch,
            combine,
            row_bytes,
            meta_lines,
            count_words,
            max_local_experts,
            counts_at: place(ranks * u64::from(count_words) * 8),
            hello_at: place(ranks * 8),
            meta_at: place(places * u64::from(meta_lines) * LINE_BYTES),
            rows_at: place(places * u64::from(row_bytes)),
            half_bytes: end,
        }
    }

    /// Bytes of a rank's buffer.
    pub(super) fn bytes(&self) -> u64 {
        2 * self.half_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::ScaleFormat;

    #[test]
    fn magic_divides() {
        for d in (1..200).chain([288, 4095, 65_535]) {
            let magic = magic(d);
            for x in (0..5000).chain([65_535, (u32::MAX / d) - 1]) {
                let quotient = match magic {
                    0 => x,
                    magic => ((u64::from(x) * u64::from(magic)) >> 32) as u32,
                };
                assert_eq!(quotient, x / d, "{x} / {d}");
            }
        }
    }

    #[test]
    fn all_of_a_row_has_a_place() {
        for hidden in (8..20_000).step_by(8) {
            let g = Geometry::bf16(hidden);
            assert_eq!((g.segments - 1) * g.unit + g.last_unit, hidden / 8);
            assert!(g.last_unit >= 1 && g.vectors <= slot_vectors(SLOTS));
            assert!(slot_vectors(g.last_slots) >= g.last_vectors);
            if hidden % 128 == 0 {
                let g = Geometry::fp8(hidden);
                assert_eq!((g.segments - 1) * g.unit + g.last_unit, hidden / 128);
                assert!(g.last_unit >= 1 && g.vectors <= slot_vectors(SLOTS));
                assert!(slot_vectors(g.last_slots) >= g.last_vectors);
            }
        }
    }

    #[test]
    fn the_buffer_is_small() {
        for rows in [DispatchType::Bf16, DispatchType::Fp8(ScaleFormat::F32)] {
            let config = Config::builder(4, 288, 7168, 128).dispatch_type(rows);
            assert!(Layout::new(&config.build().unwrap()).bytes() <= 16 << 20);
        }
    }
}
