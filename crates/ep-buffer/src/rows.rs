//! Rows of a dispatch: what they are sent as, and how they are handed out.

mod packed;

use crate::fp8::{self, GROUP, ScaleFormat};
use half::bf16;
use std::fmt;

pub(crate) use packed::Packed;

/// Groups whose UE8M0 scales lie together, a byte each.
pub(crate) const SCALES_PER_WORD: usize = 4;

/// What rows are dispatched as. All ranks use the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DispatchType {
    /// As they are.
    #[default]
    Bf16,
    /// E4M3, quantised by the sender in groups of 128 channels.
    Fp8(ScaleFormat),
}

/// As in messages between ranks and on command lines: `bf16`, `fp8`, `fp8-ue8m0`.
impl fmt::Display for DispatchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Fp8(ScaleFormat::F32) => "fp8",
            Self::Fp8(ScaleFormat::Ue8m0) => "fp8-ue8m0",
        })
    }
}

impl DispatchType {
    /// Elements that `hidden` has to be a multiple of.
    pub(crate) fn multiple(self) -> u32 {
        match self {
            Self::Bf16 => 8,
            Self::Fp8(_) => GROUP as u32,
        }
    }

    /// What that setting is called where it is refused.
    pub(crate) fn hidden_name(self) -> &'static str {
        match self {
            Self::Bf16 => "hidden",
            Self::Fp8(_) => "hidden of rows in FP8",
        }
    }

    /// Bytes of an element.
    pub(crate) fn element_bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::Fp8(_) => 1,
        }
    }

    /// Bytes of a row's scales, on the way and where they are handed out: one `f32` for each
    /// group, or one byte for each in words of four.
    pub(crate) fn scale_bytes(self, hidden: u32) -> u64 {
        let groups = u64::from(hidden) / GROUP as u64;
        match self {
            Self::Bf16 => 0,
            Self::Fp8(ScaleFormat::F32) => groups * 4,
            Self::Fp8(ScaleFormat::Ue8m0) => groups.next_multiple_of(SCALES_PER_WORD as u64),
        }
    }

    /// Bytes of a row on the way: the elements, then their scales.
    pub(crate) fn row_bytes(self, hidden: u32) -> u64 {
        u64::from(hidden) * self.element_bytes() + self.scale_bytes(hidden)
    }

    /// The number by which a slot's header names it.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Bf16 => 0,
            Self::Fp8(ScaleFormat::F32) => 1,
            Self::Fp8(ScaleFormat::Ue8m0) => 2,
        }
    }

    /// The rows `x`, `[tokens][hidden]`, as they travel. Those in FP8 are made in `space`, which
    /// has room for them.
    pub(crate) fn encode<'a>(self, x: &'a [bf16], hidden: u32, space: &'a mut [u8]) -> &'a [u8] {
        let Self::Fp8(format) = self else {
            return bytemuck::cast_slice(x);
        };
        let rows = space.chunks_exact_mut(self.row_bytes(hidden) as usize);
        for (x, row) in x.chunks_exact(hidden as usize).zip(rows) {
            let (bytes, scales) = row.split_at_mut(hidden as usize);
            let groups = x.as_chunks::<GROUP>().0.iter();
            let places = bytes.as_chunks_mut::<GROUP>().0;
            for (g, (group, place)) in groups.zip(places).enumerate() {
                let (scale, quantised) = fp8::quantize_group(group, format);
                *place = quantised;
                match format {
                    ScaleFormat::F32 => {
                        scales[g * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
                    }
                    ScaleFormat::Ue8m0 => scales[g] = fp8::to_ue8m0(scale),
                }
            }
        }
        space
    }
}

/// Rows that a dispatch delivered, packed by local expert; the memory of the GPU form looks the
/// same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows<'a> {
    /// `[local_experts][capacity * max_tokens][hidden]`
    Bf16(&'a [bf16]),
    /// The same in E4M3, with `f32` scales `[local_experts][hidden / 128][capacity * max_tokens]`.
    Fp8(&'a [u8], &'a [f32]),
    /// The same with [`ScaleFormat::Ue8m0`] scales, in words of four groups:
    /// `[local_experts][ceil(hidden / 512)][capacity * max_tokens][4]`. Bytes of a word that stand
    /// for no group are left alone.
    Fp8Ue8m0(&'a [u8], &'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP8: DispatchType = DispatchType::Fp8(ScaleFormat::F32);
    const UE8M0: DispatchType = DispatchType::Fp8(ScaleFormat::Ue8m0);

    #[test]
    fn fp8_rows_take_half_the_bytes_and_their_scales() {
        let bytes = |hidden| [DispatchType::Bf16, FP8, UE8M0].map(|t| t.row_bytes(hidden));
        assert_eq!(bytes(7168), [14_336, 7168 + 224, 7168 + 56]);
        // Five groups: two words of exponents, the second one nearly empty.
        assert_eq!(bytes(640), [1280, 640 + 20, 640 + 8]);
    }

    #[test]
    fn a_row_travels_as_its_elements_and_then_its_scales() {
        let x: Vec<bf16> = (0..2 * 256)
            .map(|i| bf16::from_f32((i / 128 + 1) as f32))
            .collect();
        let plain = DispatchType::Bf16.encode(&x, 256, &mut []);
        assert_eq!(plain, bytemuck::cast_slice::<bf16, u8>(&x));
        let mut space = vec![0; 2 * (256 + 8)];
        let rows = FP8.encode(&x, 256, &mut space);
        assert!(rows[..256].iter().all(|byte| *byte == 0x7e));
        let scale = |at: usize| f32::from_ne_bytes([0, 1, 2, 3].map(|i| rows[at + i]));
        let found = [256, 260, 264 + 256, 264 + 260].map(scale);
        assert_eq!(
            found,
            [1.0, 2.0, 3.0, 4.0].map(|amax| amax * (1.0 / fp8::MAX))
        );
        let mut space = vec![0; 2 * (256 + 4)];
        let rows = UE8M0.encode(&x, 256, &mut space);
        // 1 / 448 is between 2^-9 and 2^-8, so 1 and 2 have the scales 2^-8 and 2^-7.
        assert_eq!(rows[256..260], [127 - 8, 127 - 7, 0, 0]);
        assert_eq!(rows[260 + 256..], [127 - 7, 127 - 6, 0, 0]);
    }

    #[test]
    fn names_and_numbers_differ() {
        let all = [DispatchType::Bf16, FP8, UE8M0];
        assert_eq!(all.map(DispatchType::code), [0, 1, 2]);
        assert_eq!(all.map(|t| t.to_string()), ["bf16", "fp8", "fp8-ue8m0"]);
    }
}
