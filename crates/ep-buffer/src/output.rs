//! Where dispatch and combine put their results. Made once, used again and again.

use crate::config::Config;
use crate::error::EpError;
use crate::rows::{Packed, Rows};
use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_vec;
use ep_transport::{Rank, RankSet};
use half::bf16;

/// The rows of one local expert that came from one source rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowRange {
    /// First row in the expert's block.
    pub begin: u32,
    /// Number of rows.
    pub count: u32,
}

/// What a dispatch delivers: tokens packed by local expert, in the order of (source
/// rank, token index). A token that names an expert twice is there once.
#[derive(Debug)]
pub struct DispatchOutput {
    pub(crate) capacity: usize,
    pub(crate) rows: Packed,
    pub(crate) recv_count: Vec<u32>,
    pub(crate) src_info: Vec<u32>,
    pub(crate) layout_range: Vec<RowRange>,
    pub(crate) answered: RankSet,
}

impl DispatchOutput {
    pub(crate) fn new(config: &Config, rank: Rank) -> Result<Self, EpError> {
        let experts = config.placement().local_experts(rank) as usize;
        let capacity = config.capacity() as usize;
        let rows = experts * config.rows_per_expert();
        Ok(Self {
            capacity,
            rows: Packed::new(config, rank)?,
            recv_count: vec![0; experts],
            src_info: zeroed(rank, "src_info", rows)?,
            layout_range: vec![RowRange::default(); experts * capacity],
            answered: RankSet::new(config.capacity()),
        })
    }

    /// All rows as they were sent, and their scales. Of each expert's block the first
    /// [`DispatchOutput::recv_count`] rows are valid.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        self.rows.view()
    }

    /// All rows of a dispatch in bf16, `[local_experts][capacity * max_tokens][hidden]`,
    /// as in [`DispatchOutput::rows`]. Empty in FP8.
    #[must_use]
    pub fn recv_x(&self) -> &[bf16] {
        match self.rows.view() {
            Rows::Bf16(x) => x,
            _ => &[],
        }
    }

    /// The numbers of a valid row of a local expert, `[hidden]`, whatever they were sent
    /// as: in FP8 the decoded bytes times their scales. `None` if there is no such row.
    #[must_use]
    pub fn row(&self, expert: usize, row: usize) -> Option<impl ExactSizeIterator<Item = f32>> {
        let valid = row < *self.recv_count.get(expert)? as usize;
        let numbers = move |channel| self.rows.value(expert, row, channel);
        valid.then(|| (0..self.rows.hidden).map(numbers))
    }

    /// Valid rows, `[local_experts]`.
    #[must_use]
    pub fn recv_count(&self) -> &[u32] {
        &self.recv_count
    }

    /// Token index at its source of each row, `[local_experts][capacity * max_tokens]`.
    #[must_use]
    pub fn src_info(&self) -> &[u32] {
        &self.src_info
    }

    /// Which rows came from which rank, `[local_experts][capacity]`.
    #[must_use]
    pub fn layout_range(&self) -> &[RowRange] {
        &self.layout_range
    }

    /// Ranks whose tokens are in here, this one included.
    #[must_use]
    pub fn answered(&self) -> &RankSet {
        &self.answered
    }

    /// Ranks of the capacity whose tokens are not in here: not members, masked
    /// before, or masked in this operation.
    pub fn missing(&self) -> impl Iterator<Item = Rank> + '_ {
        (0..self.capacity as u32)
            .map(Rank)
            .filter(|rank| !self.answered.contains(*rank))
    }

    /// The valid rows of a local expert in bf16, `[recv_count][hidden]`; `None` if there
    /// is no such expert. Empty in FP8.
    #[must_use]
    pub fn expert_rows(&self, expert: usize) -> Option<&[bf16]> {
        let range = self.expert_range(expert)?;
        Some(self.recv_x().get(range).unwrap_or_default())
    }

    /// Where the valid rows of a local expert are in what [`DispatchOutput::rows`] has,
    /// counted in elements, and in what an expert writes for combine.
    #[must_use]
    pub fn expert_range(&self, expert: usize) -> Option<std::ops::Range<usize>> {
        let count = *self.recv_count.get(expert)? as usize;
        let at = expert * self.rows.rows_per_expert * self.rows.hidden;
        Some(at..at + count * self.rows.hidden)
    }

    pub(crate) fn clear(&mut self) {
        self.recv_count.fill(0);
        self.layout_range.fill(RowRange::default());
        self.answered.clear();
    }
}

/// What a combine delivers.
#[derive(Debug)]
pub struct CombineOutput {
    pub(crate) capacity: u32,
    pub(crate) hidden: usize,
    pub(crate) tokens: usize,
    pub(crate) x: Vec<bf16>,
    pub(crate) missing: Vec<u32>,
    pub(crate) answered: RankSet,
}

impl CombineOutput {
    pub(crate) fn new(config: &Config, rank: Rank) -> Result<Self, EpError> {
        let hidden = config.hidden() as usize;
        let tokens = config.max_tokens() as usize;
        Ok(Self {
            capacity: config.capacity(),
            hidden,
            tokens: 0,
            x: zeroed(rank, "x", tokens * hidden)?,
            missing: vec![0; tokens],
            answered: RankSet::new(config.capacity()),
        })
    }

    pub(crate) fn has_shape_of(&self, config: &Config) -> bool {
        self.hidden == config.hidden() as usize
            && self.missing.len() == config.max_tokens() as usize
            && self.capacity == config.capacity()
    }

    /// Weighted sums, `[tokens][hidden]`, for the tokens of the dispatch.
    #[must_use]
    pub fn x(&self) -> &[bf16] {
        &self.x[..self.tokens * self.hidden]
    }

    /// Per token, one bit for each of its top-k choices whose contribution is not
    /// in its sum: bit `k` for choice `k`. Never set for a choice of -1.
    #[must_use]
    pub fn missing(&self) -> &[u32] {
        &self.missing[..self.tokens]
    }

    /// Ranks whose contributions are in the sums, this one included. (A rank that
    /// owns none of the chosen experts is in it if it took part.)
    #[must_use]
    pub fn answered(&self) -> &RankSet {
        &self.answered
    }
}

/// Zeroed memory, or the number of bytes that could not be had.
pub(crate) fn zeroed<T: Zeroable>(
    rank: Rank,
    what: &'static str,
    len: usize,
) -> Result<Vec<T>, EpError> {
    try_zeroed_vec(len).map_err(|()| EpError::Memory {
        rank,
        what,
        bytes: (len as u64).saturating_mul(size_of::<T>() as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_had_is_an_error_with_its_size() {
        let error = zeroed::<u64>(Rank(3), "recv_x", usize::MAX / 16).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "rank 3: no memory for recv_x of {} bytes",
                usize::MAX as u64 / 16 * 8
            )
        );
    }
}
