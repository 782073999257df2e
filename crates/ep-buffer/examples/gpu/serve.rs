//! A graph that is captured once and replayed whoever dies or comes, every replay checked.

use crate::data::Data;
use crate::members::Watch;
use crate::moe::events::{Event, Step, Summary, now_us};
use crate::moe::layer::Emit;
use crate::orders::Orders;
use crate::rank::GpuRank;
use anyhow::{Result, bail};
use cudarc::driver::CudaGraph;
use ep_buffer::Config;
use ep_buffer::cuda::Tensor;
use ep_buffer::testing::reference::{Batch, check_combine};
use ep_transport::{Rank, RankSet};
use half::bf16;

/// Layers after one another, each with the rows as they came as the experts' results.
pub(crate) fn capture(rank: &mut GpuRank) -> Result<CudaGraph> {
    rank.capture(|rank| {
        for layer in 0..rank.layers.len() {
            rank.dispatch(layer)?;
            let y = Tensor::from(&rank.received.recv_x);
            rank.combine(layer, y)?;
        }
        Ok(())
    })
}

/// Replays `graph` until there is an order to leave.
pub(crate) fn run(
    rank: &mut GpuRank,
    graph: &CudaGraph,
    data: &Data,
    orders: &Orders,
    watch: &mut Watch,
    emit: &mut Emit<'_>,
) -> Result<Summary> {
    let me = rank.buffer.rank();
    let config = rank.buffer.config().clone();
    let mut summary = Summary {
        rank: me.0,
        ..Summary::default()
    };
    while !orders.to_leave() {
        watch.poll(rank.buffer.fabric(), emit);
        if let Some(by) = rank.buffer.fabric().superseded() {
            bail!("another process, {by}, has taken {me}");
        }
        let batch = data.batch(me, summary.steps);
        rank.load_rows(&batch)?;
        let begin_us = now_us();
        graph.launch()?;
        rank.stream.synchronize()?;
        let end_us = now_us();
        let mut step = Step {
            begin_us,
            end_us,
            ..check(rank, &config, &batch)?
        };
        step.verified = step.problem.is_none();
        summary.steps += 1;
        summary.verified_steps += u64::from(step.verified);
        summary.missing += step.missing;
        emit(Event::Step(step));
    }
    Ok(summary)
}

/// Everything of a replay but its times.
fn check(rank: &GpuRank, config: &Config, batch: &Batch) -> Result<Step> {
    let me = rank.buffer.rank();
    let last = rank.buffer.combine_answers()?;
    let ops = 2 * rank.layers.len() as u64;
    // The number of the last operation of the round.
    let epoch = last.epoch.0 + 1 - ops;
    let mut step = Step {
        rank: me.0,
        step: epoch / ops,
        epoch,
        begin_us: 0,
        end_us: 0,
        verified: false,
        problem: None,
        rel_err: 0.0,
        missing: 0,
        missing_expected: 0,
        answered: last.answered.iter().map(|rank| rank.0).collect(),
        dispatch_us: 0,
        combine_us: 0,
    };
    let hidden = config.hidden() as usize;
    let rows = |_: u32, token: usize, row: &mut [bf16]| {
        row.copy_from_slice(&batch.x[token * hidden..(token + 1) * hidden]);
    };
    let mut done: Vec<(Vec<bf16>, Vec<u32>)> = Vec::new();
    for layer in 0..rank.layers.len() {
        let (x, missing) = rank.sums(layer)?;
        let present = match layer + 1 == rank.layers.len() {
            true => last.answered.iter().copied().collect(),
            false => present(config, batch, &missing),
        };
        let expected = absent(config, batch, &present);
        step.missing += bits(&missing);
        step.missing_expected += bits(&expected);
        // Layers of the same ranks have the same bits.
        let first = done.iter().position(|(_, words)| *words == missing);
        let problem = match first {
            _ if missing != expected => Some("is not what its ranks explain".to_owned()),
            Some(first) if same(&done[first].0, &x) => None,
            Some(first) => Some(format!("differs from that of layer {first}")),
            None => match check_combine(config, me, batch, &present, (&x, &missing), rows) {
                Ok(error) => {
                    step.rel_err = step.rel_err.max(error);
                    None
                }
                Err(why) => Some(why.to_string()),
            },
        };
        step.problem = problem
            .map(|what| format!("layer {layer}: {what}"))
            .or(step.problem);
        done.push((x, missing));
    }
    Ok(step)
}

fn same(a: &[bf16], b: &[bf16]) -> bool {
    bytemuck::cast_slice::<bf16, u16>(a) == bytemuck::cast_slice::<bf16, u16>(b)
}

fn bits(missing: &[u32]) -> u64 {
    missing
        .iter()
        .map(|word| u64::from(word.count_ones()))
        .sum()
}

/// The owners of a batch's choices, each with its token and place.
fn owners(config: &Config, batch: &Batch) -> impl Iterator<Item = (usize, usize, Rank)> {
    let placement = config.placement();
    let choices = batch.topk_idx.iter().enumerate();
    choices.filter_map(move |(i, expert)| {
        let owner = placement.owner(u32::try_from(*expert).ok()?);
        Some((i / batch.top_k, i % batch.top_k, owner))
    })
}

/// Ranks of which nothing is missing.
fn present(config: &Config, batch: &Batch, missing: &[u32]) -> RankSet {
    let mut present: RankSet = (0..config.capacity()).map(Rank).collect();
    for (token, k, owner) in owners(config, batch) {
        if missing[token] >> k & 1 == 1 {
            present.remove(owner);
        }
    }
    present
}

/// The missing bits if the ranks in `present` are there and no others.
fn absent(config: &Config, batch: &Batch, present: &RankSet) -> Vec<u32> {
    let mut words = vec![0; batch.tokens()];
    for (token, k, owner) in owners(config, batch) {
        if !present.contains(owner) {
            words[token] |= 1 << k;
        }
    }
    words
}
