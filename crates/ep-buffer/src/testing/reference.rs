//! What operations must deliver, computed slowly and obviously from what all ranks bring.
//!
//! Tests, benchmarks and programs that check themselves hold both forms of the buffer against it.

use crate::config::Config;
use crate::fp8::{self, ScaleFormat};
use crate::output::RowRange;
use crate::rows::{DispatchType, SCALES_PER_WORD};
use ep_transport::{Rank, RankSet};
use half::bf16;
use std::collections::BTreeSet;

pub use crate::rows::Rows;

/// What one rank brings to a dispatch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Choices of each token, at least 1.
    pub top_k: usize,
    /// `[tokens][hidden]`
    pub x: Vec<bf16>,
    /// `[tokens][top_k]`; what is no expert is no choice.
    pub topk_idx: Vec<i32>,
    /// `[tokens][top_k]`
    pub topk_weights: Vec<f32>,
}

impl Batch {
    /// How many tokens it has.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.topk_idx.len() / self.top_k.max(1)
    }

    /// The choices of a token that are experts: (k, expert, weight).
    fn choices(&self, token: usize, experts: u32) -> impl Iterator<Item = (usize, u32, f32)> {
        let range = token * self.top_k..(token + 1) * self.top_k;
        let chosen = self.topk_idx[range.clone()].iter();
        let pairs = chosen.zip(&self.topk_weights[range]).enumerate();
        pairs.filter_map(move |(k, (expert, weight))| {
            let expert = u32::try_from(*expert).ok()?;
            (expert < experts).then_some((k, expert, *weight))
        })
    }
}

/// A difference between what was delivered and what had to be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// A number that can only have one value.
    #[error("{what} of {rank}, at {at}: {got} in place of {expected}")]
    Number {
        /// Whose.
        rank: Rank,
        /// The array.
        what: &'static str,
        /// The index in it.
        at: usize,
        /// What it holds.
        got: u64,
        /// What it must hold.
        expected: u64,
    },
    /// Other bytes than those that were sent.
    #[error("recv_x of {rank}: expert {expert} has other bytes for token {token} of {source_rank}")]
    Row {
        /// Who received it.
        rank: Rank,
        /// For which expert, of all.
        expert: u32,
        /// Who sent it.
        source_rank: Rank,
        /// Its index there.
        token: u32,
    },
    /// A sum that is farther off than rounding explains.
    #[error(
        "sum of {rank}: token {token}, channel {channel} is {got}, expected {expected} +- {bound}"
    )]
    Sum {
        /// Whose token.
        rank: Rank,
        /// Its index.
        token: usize,
        /// Which element of it.
        channel: usize,
        /// What came back.
        got: f64,
        /// The sum in `f64`.
        expected: f64,
        /// The most that rounding can make of it.
        bound: f64,
    },
}

/// All that a dispatch delivered to a rank.
#[derive(Clone, Copy, Debug)]
pub struct Delivered<'a> {
    /// `[local_experts]`
    pub recv_count: &'a [u32],
    /// `[local_experts][capacity * max_tokens]`
    pub src_info: &'a [u32],
    /// `[local_experts][capacity]`
    pub layout_range: &'a [RowRange],
    /// The rows themselves.
    pub rows: Rows<'a>,
}

/// What one dispatch must deliver to everybody.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    config: &'a Config,
    batches: &'a [Batch],
    /// By expert, who sent each row and which token it is.
    rows: Vec<Vec<(Rank, u32)>>,
}

impl<'a> Reference<'a> {
    /// For what the ranks bring, `batches` by rank, of which those in `present` take part.
    #[must_use]
    pub fn new(config: &'a Config, batches: &'a [Batch], present: &RankSet) -> Self {
        let mut rows = vec![Vec::new(); config.experts() as usize];
        let ranks = (0..config.capacity()).map(Rank);
        for (source, batch) in ranks
            .zip(batches)
            .filter(|(rank, _)| present.contains(*rank))
        {
            for token in 0..batch.tokens() {
                let chosen = batch.choices(token, config.experts());
                for expert in chosen.map(|(_, e, _)| e).collect::<BTreeSet<u32>>() {
                    rows[expert as usize].push((source, token as u32));
                }
            }
        }
        Self {
            config,
            batches,
            rows,
        }
    }

    /// Who sent each row of an expert (of all experts), and its token's index there.
    #[must_use]
    pub fn rows(&self, expert: u32) -> &[(Rank, u32)] {
        self.rows.get(expert as usize).map_or(&[], Vec::as_slice)
    }

    /// The row at `expert` of a token of `source`; `None` if it does not go there.
    #[must_use]
    pub fn row(&self, expert: u32, source: Rank, token: u32) -> Option<usize> {
        self.rows(expert).binary_search(&(source, token)).ok()
    }

    /// Compares what a dispatch delivered to `rank`. Of rows only the valid ones are looked at,
    /// of ranges that are empty only that they are.
    ///
    /// # Errors
    /// The first difference.
    ///
    /// # Panics
    /// An array is shorter than the configuration says.
    pub fn check_dispatch(&self, rank: Rank, got: &Delivered<'_>) -> Result<(), Mismatch> {
        let capacity = self.config.capacity() as usize;
        let room = self.config.rows_per_expert();
        let number = |what, at, got: u32, expected: usize| {
            if got as usize == expected {
                return Ok(());
            }
            Err(Mismatch::Number {
                rank,
                what,
                at,
                got: got.into(),
                expected: expected as u64,
            })
        };
        let experts = self.config.placement().experts_of(rank);
        for (local, expert) in experts.enumerate() {
            let rows = self.rows(expert);
            number("recv_count", local, got.recv_count[local], rows.len())?;
            for source in 0..capacity {
                let at = local * capacity + source;
                let range = got.layout_range[at];
                let before = |limit: usize| rows.partition_point(|(r, _)| r.index() < limit);
                let (begin, end) = (before(source), before(source + 1));
                number("layout_range.count", at, range.count, end - begin)?;
                if end > begin {
                    number("layout_range.begin", at, range.begin, begin)?;
                }
            }
            for (row, &(source, token)) in rows.iter().enumerate() {
                let at = local * room + row;
                number("src_info", at, got.src_info[at], token as usize)?;
                if !self.is_row(local, row, source, token, &got.rows) {
                    return Err(Mismatch::Row {
                        rank,
                        expert,
                        source_rank: source,
                        token,
                    });
                }
            }
        }
        Ok(())
    }

    fn is_row(&self, local: usize, row: usize, source: Rank, token: u32, got: &Rows<'_>) -> bool {
        let hidden = self.config.hidden() as usize;
        let room = self.config.rows_per_expert();
        let token = token as usize;
        let sent = &self.batches[source.index()].x[token * hidden..(token + 1) * hidden];
        let at = (local * room + row) * hidden;
        let (groups, _) = sent.as_chunks::<{ fp8::GROUP }>();
        let quantised = |bytes: &[u8], format, is_scale: &dyn Fn(usize, f32) -> bool| {
            let rows = bytes[at..at + hidden].chunks_exact(fp8::GROUP);
            groups.iter().zip(rows).enumerate().all(|(g, (sent, got))| {
                let (scale, bytes) = fp8::quantize_group(sent, format);
                bytes == got && is_scale(g, scale)
            })
        };
        match got {
            Rows::Bf16(x) => bits(&x[at..at + hidden]) == bits(sent),
            Rows::Fp8(bytes, scales) => quantised(bytes, ScaleFormat::F32, &|g, scale| {
                let at = (local * groups.len() + g) * room + row;
                scales[at].to_bits() == scale.to_bits()
            }),
            Rows::Fp8Ue8m0(bytes, scales) => quantised(bytes, ScaleFormat::Ue8m0, &|g, scale| {
                let words = groups.len().div_ceil(SCALES_PER_WORD);
                let word = (local * words + g / SCALES_PER_WORD) * room + row;
                scales[word * SCALES_PER_WORD + g % SCALES_PER_WORD] == fp8::to_ue8m0(scale)
            }),
        }
    }
}

/// What an expert sees of a row `x`, `[hidden]`, that was dispatched as `rows`: in FP8 each number
/// is rounded to E4M3 under its group's scale. What is left of whole groups is left out.
#[must_use]
pub fn as_dispatched(rows: DispatchType, x: &[bf16]) -> Vec<f32> {
    let DispatchType::Fp8(format) = rows else {
        return x.iter().map(|x| x.to_f32()).collect();
    };
    let groups = x.as_chunks::<{ fp8::GROUP }>().0.iter();
    let seen = |group| {
        let (scale, bytes) = fp8::quantize_group(group, format);
        bytes.map(|byte| fp8::decode(byte) * scale)
    };
    groups.flat_map(seen).collect()
}

/// Values that are not numbers are equal to themselves too.
fn bits(x: &[bf16]) -> &[u16] {
    bytemuck::cast_slice(x)
}

/// Compares what a combine delivered to `rank`, which brought `batch`, with the sum in `f64` over
/// the choices whose owners are in `present`. `result_of` puts what an expert (of all experts)
/// made of a token of this rank into a row. Returns the largest error of all sums as a share of
/// what rounding allows, which is at most 1.
///
/// Rounded to bf16, with 8 bits of significand, are each rank's partial sum and their sum, each
/// of which is off by 2^-8 of itself at most; `f32`, in which sums are made, adds next to nothing.
///
/// # Errors
/// The first difference.
///
/// # Panics
/// An array is shorter than the batch says.
pub fn check_combine(
    config: &Config,
    rank: Rank,
    batch: &Batch,
    present: &RankSet,
    (x, missing): (&[bf16], &[u32]),
    mut result_of: impl FnMut(u32, usize, &mut [bf16]),
) -> Result<f64, Mismatch> {
    const HALF_PLACE: f64 = 1.0 / 256.0;
    const IN_F32: f64 = 1.0 / (1 << 20) as f64;
    let hidden = config.hidden() as usize;
    let placement = config.placement();
    let mut row = vec![bf16::ZERO; hidden];
    let mut worst = 0.0_f64;
    for token in 0..batch.tokens() {
        // By owner, in order, the partial sums and the sums of magnitudes.
        let mut partials: Vec<(Rank, Vec<f64>)> = Vec::new();
        let mut magnitude = vec![0.0; hidden];
        let mut absent = 0_u32;
        let mut choices: Vec<_> = batch.choices(token, config.experts()).collect();
        choices.sort_by_key(|(k, expert, _)| (*expert, *k));
        for (k, expert, weight) in choices {
            let owner = placement.owner(expert);
            if !present.contains(owner) {
                absent |= 1 << k;
                continue;
            }
            if partials.last().is_none_or(|(last, _)| *last != owner) {
                partials.push((owner, vec![0.0; hidden]));
            }
            result_of(expert, token, &mut row);
            // In the order of experts the owner is the last one.
            let Some((_, sum)) = partials.last_mut() else {
                continue;
            };
            for (i, value) in row.iter().enumerate() {
                let product = f64::from(weight) * value.to_f64();
                sum[i] += product;
                magnitude[i] += product.abs();
            }
        }
        if missing[token] != absent {
            return Err(Mismatch::Number {
                rank,
                what: "missing",
                at: token,
                got: missing[token].into(),
                expected: absent.into(),
            });
        }
        for channel in 0..hidden {
            let parts = || partials.iter().map(|(_, sum)| sum[channel]);
            let expected: f64 = parts().sum();
            let rounded: f64 = parts().map(f64::abs).sum::<f64>() + expected.abs();
            let bound = rounded * HALF_PLACE * (1.0 + HALF_PLACE) + magnitude[channel] * IN_F32;
            let got = x[token * hidden + channel].to_f64();
            let error = (got - expected).abs();
            // Written so that what is not a number is wrong.
            let is_right = error <= bound + f64::from(f32::MIN_POSITIVE);
            if !is_right {
                return Err(Mismatch::Sum {
                    rank,
                    token,
                    channel,
                    got,
                    expected,
                    bound,
                });
            }
            if bound > 0.0 {
                worst = worst.max(error / bound);
            }
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ranks with two experts each; rank 1 has nothing to bring.
    fn config() -> Config {
        Config::builder(2, 4, 128, 2).max_top_k(2).build().unwrap()
    }

    fn batches() -> [Batch; 2] {
        let x = (0..256).map(|i| bf16::from_f32(i as f32 / 64.0 - 1.0));
        [
            Batch {
                top_k: 2,
                x: x.collect(),
                // The second token names expert 3 twice.
                topk_idx: vec![1, -1, 3, 3],
                topk_weights: vec![0.5, 7.0, 0.25, 0.5],
            },
            Batch {
                top_k: 2,
                ..Batch::default()
            },
        ]
    }

    fn everybody() -> RankSet {
        [Rank(0), Rank(1)]
            .into_iter()
            .fold(RankSet::new(2), |mut all, rank| {
                all.insert(rank);
                all
            })
    }

    /// What rank 1 must receive, in each form: one row, for its second expert.
    struct Right {
        x: Vec<bf16>,
        bytes: Vec<u8>,
        scales: Vec<f32>,
        small_bytes: Vec<u8>,
        small_scales: Vec<u8>,
    }

    fn right(sent: &[bf16]) -> Right {
        let group: &[bf16; 128] = sent.try_into().unwrap();
        let mut right = Right {
            x: vec![bf16::ZERO; 2 * 4 * 128],
            bytes: vec![0; 2 * 4 * 128],
            scales: vec![0.0; 2 * 4],
            small_bytes: vec![0; 2 * 4 * 128],
            small_scales: vec![0; 2 * 4 * 4],
        };
        let at = 4 * 128..5 * 128;
        right.x[at.clone()].copy_from_slice(sent);
        let (scale, bytes) = fp8::quantize_group(group, ScaleFormat::F32);
        right.bytes[at.clone()].copy_from_slice(&bytes);
        right.scales[4] = scale;
        let (scale, bytes) = fp8::quantize_group(group, ScaleFormat::Ue8m0);
        right.small_bytes[at].copy_from_slice(&bytes);
        right.small_scales[16] = fp8::to_ue8m0(scale);
        right
    }

    const RANGES: [RowRange; 4] = {
        let empty = RowRange { begin: 9, count: 0 };
        [empty, empty, RowRange { begin: 0, count: 1 }, empty]
    };

    #[test]
    fn what_is_right_passes_and_every_difference_is_named() {
        let (config, batches) = (config(), batches());
        let reference = Reference::new(&config, &batches, &everybody());
        assert_eq!(reference.rows(3), [(Rank(0), 1)]);
        assert_eq!(reference.row(3, Rank(0), 1), Some(0));
        assert_eq!(reference.row(2, Rank(0), 1), None);
        let right = right(&batches[0].x[128..]);
        let mut wrong_scale = right.scales.clone();
        wrong_scale[4] = wrong_scale[4].next_up();
        let mut wrong_x = right.x.clone();
        wrong_x[4 * 128 + 77] = bf16::ONE;
        let delivered = Delivered {
            recv_count: &[0, 1],
            src_info: &[0, 0, 0, 0, 1, 5, 5, 5],
            layout_range: &RANGES,
            rows: Rows::Bf16(&right.x),
        };
        let check = |got: Delivered<'_>| reference.check_dispatch(Rank(1), &got);
        let with = |rows| check(Delivered { rows, ..delivered });
        assert_eq!(with(Rows::Bf16(&right.x)), Ok(()));
        assert_eq!(with(Rows::Fp8(&right.bytes, &right.scales)), Ok(()));
        let small = Rows::Fp8Ue8m0(&right.small_bytes, &right.small_scales);
        assert_eq!(with(small), Ok(()));
        for rows in [
            Rows::Bf16(&wrong_x),
            Rows::Fp8(&right.bytes, &wrong_scale),
            Rows::Fp8(&[1; 1024], &right.scales),
            Rows::Fp8Ue8m0(&right.small_bytes, &[0; 32]),
        ] {
            assert!(matches!(with(rows), Err(Mismatch::Row { token: 1, .. })));
        }
        let named = |got| check(got).unwrap_err().to_string();
        let count = Delivered {
            recv_count: &[1, 1],
            ..delivered
        };
        assert_eq!(named(count), "recv_count of rank 1, at 0: 1 in place of 0");
        let source = Delivered {
            src_info: &[0; 8],
            ..delivered
        };
        assert_eq!(named(source), "src_info of rank 1, at 4: 0 in place of 1");
        let begin = Delivered {
            layout_range: &[RowRange { begin: 1, count: 1 }; 4],
            ..delivered
        };
        assert!(named(begin).contains("layout_range.count of rank 1, at 0"));
    }

    #[test]
    fn who_does_not_take_part_sends_nothing() {
        let (config, batches) = (config(), batches());
        let reference = Reference::new(&config, &batches, &RankSet::new(2));
        assert!((0..4).all(|expert| reference.rows(expert).is_empty()));
    }

    #[test]
    fn sums_may_be_off_by_rounding_and_no_more() {
        let (config, [batch, _]) = (config(), batches());
        let twice = |_: u32, token: usize, row: &mut [bf16]| {
            let x = &batch.x[token * 128..(token + 1) * 128];
            row.copy_from_slice(x);
        };
        // Token 0: half of expert 1; token 1: three quarters of expert 3.
        let weight = |i: usize| if i < 128 { 0.5 } else { 0.75 };
        let sums = batch.x.iter().enumerate();
        let mut x: Vec<bf16> = sums
            .map(|(i, x)| bf16::from_f32(x.to_f32() * weight(i)))
            .collect();
        let check = |present: &RankSet, x: &[bf16], missing: &[u32]| {
            check_combine(&config, Rank(0), &batch, present, (x, missing), twice)
        };
        assert!(check(&everybody(), &x, &[0, 0]).is_ok_and(|worst| worst <= 1.0));
        let wrong = check(&everybody(), &x, &[0, 1]);
        assert!(matches!(
            wrong,
            Err(Mismatch::Number {
                what: "missing",
                at: 1,
                ..
            })
        ));
        // Three places of the significand are more than two roundings explain.
        x[200] = bf16::from_bits(x[200].to_bits() + 3);
        let wrong = check(&everybody(), &x, &[0, 0]);
        assert!(matches!(
            wrong,
            Err(Mismatch::Sum {
                token: 1,
                channel: 72,
                ..
            })
        ));
        x[200] = bf16::NAN;
        assert!(check(&everybody(), &x, &[0, 0]).is_err());
        let mut first = RankSet::new(2);
        first.insert(Rank(0));
        x[128..].fill(bf16::ZERO);
        assert!(check(&first, &x, &[0, 0b11]).is_ok());
    }
}
