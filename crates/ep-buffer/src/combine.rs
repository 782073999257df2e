//! Combine: one weighted partial sum per token and rank goes back, and is added up.

use crate::buffer::{EpBuffer, Scratch};
use crate::error::EpError;
use crate::output::CombineOutput;
use crate::plan::{DispatchHandle, Plan};
use crate::slot::{COMBINE, HEADER_BYTES, NO_DISPATCH, SlotError, SlotHeader};
use bytemuck::Zeroable;
use ep_transport::{Epoch, Fabric, Rank, RegionError};
use half::bf16;

impl<F: Fabric> EpBuffer<F> {
    /// Returns what the experts computed to the owners of the tokens, and sums up
    /// what comes back for this rank's own.
    ///
    /// `expert_out` has the shape of `recv_x`, in bf16 whatever rows were dispatched as:
    /// the result for a row is where the row was. For each token, each rank sums `weight * result` over its own experts in
    /// the order of (expert, k) in f32 and rounds the sum to bf16; the token's owner
    /// adds these partial sums in the order of ranks in f32 and rounds once more.
    /// Its own partial sum is rounded like all others, so the result depends on
    /// which rank owns which expert, but not on which rank owns the token.
    ///
    /// A rank that did not take part in the dispatch or does not in this operation
    /// contributes nothing, and [`CombineOutput::missing`] says so per token.
    ///
    /// # Errors
    /// As for [`EpBuffer::dispatch`].
    pub fn combine(
        &mut self,
        handle: &DispatchHandle,
        expert_out: &[bf16],
        out: &mut CombineOutput,
    ) -> Result<(), EpError> {
        let rank = self.rank;
        let foreign = |what| EpError::Foreign { rank, what };
        if handle.plan.buffer != self.number {
            return Err(foreign("the handle"));
        }
        if !out.has_shape_of(&self.config) {
            return Err(foreign("the combine output"));
        }
        if expert_out.len() != self.expert_output_len() {
            return Err(EpError::Length {
                rank,
                what: "expert_out",
                len: expert_out.len(),
                expected: self.expert_output_len(),
            });
        }
        let epoch = self.begin()?;
        let result = self.run_combine(epoch, &handle.plan, expert_out, out);
        self.end(result)
    }

    fn run_combine(
        &mut self,
        epoch: Epoch,
        plan: &Plan,
        expert_out: &[bf16],
        out: &mut CombineOutput,
    ) -> Result<(), RegionError> {
        self.choose_contributors(plan);
        let own = self.fabric.control().own_incarnation();
        let hidden = self.config.hidden();
        let rows_per_expert = self.config.rows_per_expert();
        let row_bytes = self.config.sum_bytes();
        let Scratch {
            sum, row, ranks, ..
        } = &mut self.scratch;
        self.exchange.run(
            &mut self.fabric,
            &self.layout,
            &self.config,
            &mut self.stats,
            epoch,
            &mut |region, rank, at| {
                // A rank that was not in the dispatch is still told that this
                // operation is here: both halves of the buffer rely on it.
                let received = ranks.contains(rank).then(|| &plan.received[rank.index()]);
                let count = received.map_or(0, |r| r.tokens.len());
                let dispatch = received.map(|_| plan.epoch);
                let header = SlotHeader::combine(epoch, own, dispatch, count as u32, hidden);
                region.write(at, bytemuck::bytes_of(&header))?;
                let mut row_at = at + HEADER_BYTES;
                for position in 0..count {
                    sum.fill(0.0);
                    for entry in received.map_or(&[][..], |r| r.entries_of(position)) {
                        let from = entry.expert as usize * rows_per_expert + entry.row as usize;
                        let result = &expert_out[from * sum.len()..(from + 1) * sum.len()];
                        for (sum, value) in sum.iter_mut().zip(result) {
                            *sum += entry.weight * value.to_f32();
                        }
                    }
                    round(sum, row);
                    region.write(row_at, bytemuck::cast_slice(row))?;
                    row_at += row_bytes;
                }
                Ok(row_at - at)
            },
        )?;
        self.check_answers(epoch, plan)?;
        self.add_up(epoch, plan, out)
    }

    /// Ranks that were in the dispatch and live the same life in this operation.
    fn choose_contributors(&mut self, plan: &Plan) {
        self.scratch.ranks.clear();
        for rank in plan.answered.iter() {
            let row = self.fabric.control().participation(rank);
            let same_life =
                row.is_some_and(|row| row.incarnation == plan.incarnations[rank.index()]);
            if same_life || rank == self.rank {
                self.scratch.ranks.insert(rank);
            }
        }
    }

    /// Reduces the contributors to those whose partial sums are there.
    fn check_answers(&mut self, epoch: Epoch, plan: &Plan) -> Result<(), RegionError> {
        for rank in (0..self.config.capacity()).map(Rank) {
            if !self.exchange.answered().contains(rank) {
                self.scratch.ranks.remove(rank);
                continue;
            }
            let at = self.layout.receive(epoch.half(), rank);
            let mut header = SlotHeader::zeroed();
            self.fabric
                .region()
                .read(at, bytemuck::bytes_of_mut(&mut header))?;
            let expect = self.expect(COMBINE, epoch, rank);
            let contributes = self.scratch.ranks.contains(rank);
            let checked = header.check(&expect).and_then(|()| {
                let answers_us = contributes && header.dispatch_epoch != NO_DISPATCH;
                if answers_us {
                    same("dispatch_epoch", header.dispatch_epoch, plan.epoch.0)?;
                    let sent = plan.sent[rank.index()].len() as u64;
                    same("tokens", header.tokens.into(), sent)?;
                }
                Ok(answers_us)
            });
            match checked {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    self.exchange
                        .mask(&self.fabric, &mut self.stats, rank, epoch, error.into())
                }
            }
            self.scratch.ranks.remove(rank);
        }
        Ok(())
    }

    fn add_up(
        &mut self,
        epoch: Epoch,
        plan: &Plan,
        out: &mut CombineOutput,
    ) -> Result<(), RegionError> {
        let Scratch {
            sum,
            row,
            ranks,
            cursors,
            ..
        } = &mut self.scratch;
        let region = self.fabric.region();
        cursors.fill(0);
        out.tokens = plan.tokens;
        for token in 0..plan.tokens {
            sum.fill(0.0);
            for rank in ranks.iter() {
                let cursor = &mut cursors[rank.index()];
                if plan.sent[rank.index()].get(*cursor) != Some(&(token as u32)) {
                    continue;
                }
                let at = self.layout.receive(epoch.half(), rank)
                    + HEADER_BYTES
                    + *cursor as u64 * self.config.sum_bytes();
                region.read(at, bytemuck::cast_slice_mut(row))?;
                for (sum, partial) in sum.iter_mut().zip(&*row) {
                    *sum += partial.to_f32();
                }
                *cursor += 1;
            }
            round(
                sum,
                &mut out.x[token * out.hidden..(token + 1) * out.hidden],
            );
            out.missing[token] = plan.missing(token, ranks);
        }
        out.answered.clear();
        for rank in ranks.iter() {
            out.answered.insert(rank);
        }
        Ok(())
    }
}

fn same(field: &'static str, value: u64, expected: u64) -> Result<(), SlotError> {
    if value == expected {
        return Ok(());
    }
    Err(SlotError::Header {
        field,
        value,
        expected,
    })
}

fn round(sum: &[f32], row: &mut [bf16]) {
    for (to, from) in row.iter_mut().zip(sum) {
        *to = bf16::from_f32(*from);
    }
}
