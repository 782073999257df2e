//! Dispatch: every token to the ranks that own its experts, packed by expert.

use crate::buffer::EpBuffer;
use crate::error::EpError;
use crate::output::DispatchOutput;
use crate::plan::{DispatchHandle, Plan};
use crate::slot::{self, DISPATCH, HEADER_BYTES, SlotError, SlotHeader, TokenEntries};
use bytemuck::Zeroable;
use ep_transport::{Epoch, Fabric, Rank, RegionError};
use half::bf16;
use std::sync::Arc;

/// The caller's side of a dispatch, checked.
#[derive(Clone, Copy)]
struct Input<'a> {
    x: &'a [bf16],
    topk_idx: &'a [i32],
    topk_weights: &'a [f32],
    top_k: usize,
}

impl<F: Fabric> EpBuffer<F> {
    /// Sends each token to the owners of its experts and receives what others send.
    ///
    /// `x` is `[tokens][hidden]`, in bf16 also if rows travel in FP8; `topk_idx` and `topk_weights` are
    /// `[tokens][top_k]`, with -1 for a choice that is not used. The number of
    /// tokens may differ between ranks and may be 0. A token that names an expert
    /// twice arrives there once, and its weights add up. Weights may be any number:
    /// one that is not finite ends up in that token's sum and nowhere else.
    ///
    /// Peers that do not take part in time are masked and left out, see
    /// [`DispatchOutput::answered`] and [`EpBuffer::losses`].
    ///
    /// # Errors
    /// An argument is out of its limits; nothing was sent and no epoch was used.
    /// [`EpError::Region`] and [`EpError::EpochsExhausted`] cannot happen with a
    /// fabric that keeps its word.
    pub fn dispatch(
        &mut self,
        x: &[bf16],
        topk_idx: &[i32],
        topk_weights: &[f32],
        top_k: usize,
        out: &mut DispatchOutput,
    ) -> Result<DispatchHandle, EpError> {
        let input = Input {
            x,
            topk_idx,
            topk_weights,
            top_k,
        };
        self.check_input(&input)?;
        if !self.is_shape_of(out) {
            return Err(EpError::Foreign {
                rank: self.rank,
                what: "the dispatch output",
            });
        }
        if !std::mem::take(&mut self.round_begun) {
            self.fabric.control().begin_round();
        }
        let epoch = self.begin()?;
        let mut plan = self.plans.take(|| Plan::new(self.number, &self.config));
        let result = self.run_dispatch(epoch, Arc::make_mut(&mut plan), &input, out);
        let handle = self.plans.keep(plan);
        self.end(result)?;
        Ok(handle)
    }

    fn is_shape_of(&self, out: &DispatchOutput) -> bool {
        out.capacity == self.config.capacity() as usize
            && out.rows.dispatch_type() == self.config.dispatch_type()
            && out.rows.rows_per_expert == self.config.rows_per_expert()
            && out.rows.hidden == self.config.hidden() as usize
            && out.recv_count.len() == self.placement.local_experts(self.rank) as usize
    }

    fn check_input(&self, input: &Input<'_>) -> Result<(), EpError> {
        let rank = self.rank;
        let limit = |what, value, min, max| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(EpError::Limit {
                rank,
                what,
                value,
                min,
                max,
            })
        };
        let length = |what, len, expected| {
            if len == expected {
                return Ok(());
            }
            Err(EpError::Length {
                rank,
                what,
                len,
                expected,
            })
        };
        let top_k = input.top_k;
        limit("top_k", top_k, 1, self.config.max_top_k() as usize)?;
        let tokens = input.topk_idx.len() / top_k;
        length("topk_idx", input.topk_idx.len(), tokens * top_k)?;
        limit(
            "the number of tokens",
            tokens,
            0,
            self.config.max_tokens() as usize,
        )?;
        length("topk_weights", input.topk_weights.len(), tokens * top_k)?;
        length("x", input.x.len(), tokens * self.config.hidden() as usize)?;
        let experts = self.config.experts();
        for (i, &expert) in input.topk_idx.iter().enumerate() {
            if expert < -1 || expert >= experts.cast_signed() {
                return Err(EpError::NoSuchExpert {
                    rank,
                    token: i / top_k,
                    k: i % top_k,
                    expert,
                    experts,
                });
            }
        }
        Ok(())
    }

    fn run_dispatch(
        &mut self,
        epoch: Epoch,
        plan: &mut Plan,
        input: &Input<'_>,
        out: &mut DispatchOutput,
    ) -> Result<(), RegionError> {
        plan.epoch = epoch;
        plan.route(&self.placement, input.topk_idx, input.top_k);
        let hidden = self.config.hidden();
        let own = self.fabric.control().own_incarnation();
        let top_k = input.top_k as u32;
        let row_bytes = self.config.dispatch_row_bytes() as usize;
        let rows_as = self.config.dispatch_type();
        // Once for all destinations.
        let rows = rows_as.encode(input.x, hidden, &mut self.scratch.quantised);
        let (routes, placement) = (&*plan, &self.placement);
        self.exchange.run(
            &mut self.fabric,
            &self.layout,
            &self.config,
            &mut self.stats,
            epoch,
            &mut |region, rank, at| {
                let list = &routes.sent[rank.index()];
                let count = list.len() as u32;
                let header = SlotHeader::dispatch(epoch, own, count, top_k, (hidden, rows_as));
                region.write(at, bytemuck::bytes_of(&header))?;
                let first = placement.experts_of(rank).start;
                let mut meta_at = at + HEADER_BYTES;
                let mut row_at = at + slot::rows_at(count, top_k);
                for &token in list {
                    let t = token as usize;
                    let choices = t * input.top_k..(t + 1) * input.top_k;
                    let entries = TokenEntries::collect(
                        token,
                        rank,
                        first,
                        routes.owners_of(t),
                        &input.topk_idx[choices.clone()],
                        &input.topk_weights[choices],
                    );
                    let head = entries.head();
                    region.write(meta_at, head)?;
                    region.write(meta_at + head.len() as u64, entries.entries(input.top_k))?;
                    meta_at += slot::meta_stride(top_k);
                    region.write(row_at, &rows[t * row_bytes..(t + 1) * row_bytes])?;
                    row_at += row_bytes as u64;
                }
                Ok(row_at - at)
            },
        )?;
        out.clear();
        for rank in (0..self.config.capacity()).map(Rank) {
            if self.exchange.answered().contains(rank) {
                self.receive(epoch, rank, plan, out)?;
            }
            // What was refused has been masked by now and is in the output nowhere.
            if self.exchange.answered().contains(rank) {
                plan.answered.insert(rank);
                plan.incarnations[rank.index()] = self.exchange.incarnation(rank);
                out.answered.insert(rank);
            }
        }
        for (sum, count) in self.stats.tokens_per_expert.iter_mut().zip(&out.recv_count) {
            *sum += u64::from(*count);
        }
        Ok(())
    }

    /// Parses what `source` sent and packs its rows behind those of lower ranks.
    fn receive(
        &mut self,
        epoch: Epoch,
        source: Rank,
        plan: &mut Plan,
        out: &mut DispatchOutput,
    ) -> Result<(), RegionError> {
        let at = self.layout.receive(epoch.half(), source);
        let received = &mut plan.received[source.index()];
        let mut header = SlotHeader::zeroed();
        self.fabric
            .region()
            .read(at, bytemuck::bytes_of_mut(&mut header))?;
        if let Err(error) = self.parse(epoch, source, at, &header, received)? {
            self.exchange
                .mask(&self.fabric, &mut self.stats, source, epoch, error.into());
            return Ok(());
        }
        let row_bytes = self.config.dispatch_row_bytes();
        let scales = &mut self.scratch.scales;
        let region = self.fabric.region();
        let rows_at = at + slot::rows_at(header.tokens, header.top_k);
        for position in 0..received.tokens.len() {
            let token = received.tokens[position];
            let row_at = rows_at + position as u64 * row_bytes;
            region.read(row_at + row_bytes - scales.len() as u64, scales)?;
            let mut last = None;
            for entry in received.entries_of_mut(position) {
                let expert = entry.expert as usize;
                if last == Some(expert) {
                    // Its second choice of the same expert: the row is there.
                    entry.row = out.recv_count[expert] - 1;
                    continue;
                }
                last = Some(expert);
                entry.row = out.recv_count[expert];
                out.recv_count[expert] += 1;
                let range = &mut out.layout_range[expert * out.capacity + source.index()];
                if range.count == 0 {
                    range.begin = entry.row;
                }
                range.count += 1;
                let row = entry.row as usize;
                out.src_info[expert * out.rows.rows_per_expert + row] = token;
                region.read(row_at, out.rows.row_mut(expert, row))?;
                out.rows.put_scales(expert, row, scales);
            }
        }
        Ok(())
    }

    fn parse(
        &mut self,
        epoch: Epoch,
        source: Rank,
        at: u64,
        header: &SlotHeader,
        received: &mut slot::Received,
    ) -> Result<Result<(), SlotError>, RegionError> {
        let expect = self.expect(DISPATCH, epoch, source);
        if let Err(error) = header.check(&expect) {
            return Ok(Err(error));
        }
        // The meta data is copied once and then both checked and used: its writer
        // could change the original in between.
        let len = header.tokens as usize * slot::meta_stride(header.top_k) as usize;
        let meta = &mut self.scratch.meta[..len];
        self.fabric.region().read(at + HEADER_BYTES, meta)?;
        Ok(received.parse(header, meta, &expect))
    }
}
