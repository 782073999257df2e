//! Where rows are put when they arrive.

use super::{DispatchType, Rows, SCALES_PER_WORD};
use crate::config::Config;
use crate::error::EpError;
use crate::fp8::{self, GROUP, ScaleFormat};
use crate::output::zeroed;
use ep_transport::Rank;
use half::bf16;

/// The owner of [`Rows`].
#[derive(Debug)]
enum Store {
    Bf16(Vec<bf16>),
    Fp8(Vec<u8>, Vec<f32>),
    Fp8Ue8m0(Vec<u8>, Vec<u8>),
}

/// Room for the rows of all local experts.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) hidden: usize,
    pub(crate) rows_per_expert: usize,
    store: Store,
}

impl Packed {
    pub(crate) fn new(config: &Config, rank: Rank) -> Result<Self, EpError> {
        let (hidden, rows_per_expert) = (config.hidden() as usize, config.rows_per_expert());
        let rows = config.placement().local_experts(rank) as usize * rows_per_expert;
        let elements = rows.saturating_mul(hidden);
        let of_scales = config.dispatch_type().scale_bytes(config.hidden()) as usize;
        let store = match config.dispatch_type() {
            DispatchType::Bf16 => Store::Bf16(zeroed(rank, "recv_x", elements)?),
            DispatchType::Fp8(ScaleFormat::F32) => Store::Fp8(
                zeroed(rank, "recv_x", elements)?,
                zeroed(rank, "recv_scales", rows.saturating_mul(of_scales / 4))?,
            ),
            DispatchType::Fp8(ScaleFormat::Ue8m0) => Store::Fp8Ue8m0(
                zeroed(rank, "recv_x", elements)?,
                zeroed(rank, "recv_scales", rows.saturating_mul(of_scales))?,
            ),
        };
        Ok(Self {
            hidden,
            rows_per_expert,
            store,
        })
    }

    pub(crate) fn dispatch_type(&self) -> DispatchType {
        match self.store {
            Store::Bf16(_) => DispatchType::Bf16,
            Store::Fp8(..) => DispatchType::Fp8(ScaleFormat::F32),
            Store::Fp8Ue8m0(..) => DispatchType::Fp8(ScaleFormat::Ue8m0),
        }
    }

    pub(crate) fn view(&self) -> Rows<'_> {
        match &self.store {
            Store::Bf16(x) => Rows::Bf16(x),
            Store::Fp8(x, scales) => Rows::Fp8(x, scales),
            Store::Fp8Ue8m0(x, scales) => Rows::Fp8Ue8m0(x, scales),
        }
    }

    /// The bytes of a row's elements.
    pub(crate) fn row_mut(&mut self, expert: usize, row: usize) -> &mut [u8] {
        let at = (expert * self.rows_per_expert + row) * self.hidden;
        match &mut self.store {
            Store::Bf16(x) => bytemuck::cast_slice_mut(&mut x[at..at + self.hidden]),
            Store::Fp8(x, _) | Store::Fp8Ue8m0(x, _) => &mut x[at..at + self.hidden],
        }
    }

    /// Puts the scales of a row, as they travel, where those of its groups are.
    pub(crate) fn put_scales(&mut self, expert: usize, row: usize, sent: &[u8]) {
        for group in 0..self.hidden / GROUP {
            let at = self.scale_at(expert, row, group);
            match &mut self.store {
                Store::Bf16(_) => return,
                Store::Fp8(_, scales) => {
                    scales[at] = bytemuck::pod_read_unaligned(&sent[group * 4..][..4]);
                }
                Store::Fp8Ue8m0(_, scales) => scales[at] = sent[group],
            }
        }
    }

    /// Where the scale of a row's group is.
    fn scale_at(&self, expert: usize, row: usize, group: usize) -> usize {
        let groups = self.hidden / GROUP;
        let (per_expert, index, lanes) = match self.store {
            Store::Fp8Ue8m0(..) => (
                groups.div_ceil(SCALES_PER_WORD),
                group / SCALES_PER_WORD,
                SCALES_PER_WORD,
            ),
            _ => (groups, group, 1),
        };
        ((expert * per_expert + index) * self.rows_per_expert + row) * lanes + group % lanes
    }

    /// One number of a row.
    pub(crate) fn value(&self, expert: usize, row: usize, channel: usize) -> f32 {
        let at = (expert * self.rows_per_expert + row) * self.hidden + channel;
        let scale = || self.scale_at(expert, row, channel / GROUP);
        match &self.store {
            Store::Bf16(x) => x[at].to_f32(),
            Store::Fp8(x, scales) => fp8::decode(x[at]) * scales[scale()],
            Store::Fp8Ue8m0(x, scales) => fp8::decode(x[at]) * fp8::from_ue8m0(scales[scale()]),
        }
    }
}
