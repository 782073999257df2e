//! Where dispatch and combine put their results. Made once, used again and again.

use crate::config::Config;
use crate::error::EpError;
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
    pub(crate) rows_per_expert: usize,
    pub(crate) hidden: usize,
    pub(crate) recv_x: Vec<bf16>,
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
        let hidden = config.hidden() as usize;
        Ok(Self {
            capacity,
            rows_per_expert: config.rows_per_expert(),
            hidden,
            recv_x: zeroed(rank, "recv_x", rows.saturating_mul(hidden))?,
            recv_count: vec![0; experts],
            src_info: zeroed(rank, "src_info", rows)?,
            layout_range: vec![RowRange::default(); experts * capacity],
            answered: RankSet::new(config.capacity()),
        })
    }

    /// All rows, `[local_experts][capacity * max_tokens][hidden]`. Of each expert's
    /// block the first [`DispatchOutput::recv_count`] rows are valid.
    #[must_use]
    pub fn recv_x(&self) -> &[bf16] {
        &self.recv_x
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

    /// The valid rows of a local expert, `[recv_count][hidden]`; `None` if there is
    /// no such expert.
    #[must_use]
    pub fn expert_rows(&self, expert: usize) -> Option<&[bf16]> {
        let count = *self.recv_count.get(expert)? as usize;
        let at = expert * self.rows_per_expert * self.hidden;
        self.recv_x.get(at..at + count * self.hidden)
    }

    /// Where those rows are in [`DispatchOutput::recv_x`], and in what an expert
    /// writes for combine.
    #[must_use]
    pub fn expert_range(&self, expert: usize) -> Option<std::ops::Range<usize>> {
        let count = *self.recv_count.get(expert)? as usize;
        let at = expert * self.rows_per_expert * self.hidden;
        Some(at..at + count * self.hidden)
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
