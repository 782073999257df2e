//! Whether a step delivered what it had to.

use super::workload::{Batch, Workload};
use ep_buffer::testing::reference::as_dispatched;
use ep_buffer::{CombineOutput, DispatchOutput};
use ep_transport::{Rank, RankSet};

/// Largest error of an element of a token's result, relative to the largest sum of
/// absolute contributions to one of its elements.
///
/// Three values are rounded to bf16 on the way: an expert's result, a rank's partial
/// sum, the whole sum. bf16 has a significand of 8 bits, so each rounding moves a
/// value by at most 2^-8 of itself, and none of the three is larger than that sum:
/// 3 * 2^-8 = 0.0117. The rest is room for f32 in the experts.
pub(crate) const TOLERANCE: f64 = 0.0125;

/// What the check of a combine found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// See [`TOLERANCE`].
    pub(crate) rel_err: f64,
    /// Bits that the combine set.
    pub(crate) missing: u64,
    /// Bits that it had to set.
    pub(crate) missing_expected: u64,
    /// The first difference, in words.
    pub(crate) fault: Option<String>,
}

/// Compares a dispatch with what the ranks that answered brought to the step.
///
/// # Errors
/// The first difference, in words.
pub(crate) fn check_dispatch(
    workload: &Workload,
    rank: Rank,
    step: u64,
    out: &DispatchOutput,
) -> Result<(), String> {
    let shape = &workload.shape;
    let hidden = shape.hidden;
    let sources: Vec<(Rank, Batch)> = out
        .answered()
        .iter()
        .map(|source| (source, workload.batch(source, step)))
        .collect();
    let capacity = shape.capacity as usize;
    let rows_per_expert = capacity * shape.tokens;
    for (local, expert) in workload.placement.experts_of(rank).enumerate() {
        let mut row = 0;
        for source in (0..shape.capacity).map(Rank) {
            let begin = row;
            let batch = sources.iter().find(|(answered, _)| *answered == source);
            for (token, choices) in batch.iter().flat_map(|(_, batch)| {
                let choices = batch.topk_idx.chunks_exact(shape.top_k);
                choices.enumerate().map(move |(t, c)| ((t, batch), c))
            }) {
                if !choices.contains(&(expert as i32)) {
                    continue;
                }
                let (token, batch) = token;
                let at = local * rows_per_expert + row;
                same(
                    "src_info",
                    expert,
                    source,
                    out.src_info()[at] as usize,
                    token,
                )?;
                let sent = &batch.x[token * hidden..(token + 1) * hidden];
                let want = as_dispatched(shape.dispatch, sent);
                if !out.row(local, row).is_some_and(|got| got.eq(want)) {
                    return Err(format!(
                        "recv_x of expert {expert}: token {token} of {source} has other numbers"
                    ));
                }
                row += 1;
            }
            let range = out.layout_range()[local * capacity + source.index()];
            same(
                "layout_range count",
                expert,
                source,
                range.count as usize,
                row - begin,
            )?;
            if row > begin {
                same(
                    "layout_range begin",
                    expert,
                    source,
                    range.begin as usize,
                    begin,
                )?;
            }
        }
        same(
            "recv_count",
            expert,
            rank,
            out.recv_count()[local] as usize,
            row,
        )?;
    }
    Ok(())
}

fn same(what: &str, expert: u32, rank: Rank, got: usize, want: usize) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    Err(format!(
        "{what} of expert {expert}, {rank}: {got} in place of {want}"
    ))
}

/// Compares a combine with an f64 sum over the choices whose owners are in `answered`. The
/// experts have seen rows as they were dispatched.
pub(crate) fn check_combine(
    workload: &Workload,
    own: &Batch,
    out: &CombineOutput,
    answered: &RankSet,
) -> Outcome {
    let shape = &workload.shape;
    let mut outcome = Outcome::default();
    let tokens = out.missing().len();
    if tokens != own.tokens {
        outcome.fault = Some(format!(
            "{tokens} tokens came back in place of {}",
            own.tokens
        ));
        return outcome;
    }
    let rows = out.x().chunks_exact(shape.hidden);
    for (token, (row, bits)) in rows.zip(out.missing()).enumerate() {
        let want = expected(workload, own, token, answered);
        outcome.missing += u64::from(bits.count_ones());
        outcome.missing_expected += u64::from(want.missing.count_ones());
        if *bits != want.missing && outcome.fault.is_none() {
            outcome.fault = Some(format!(
                "token {token} reports {bits:#b} as missing in place of {:#b}",
                want.missing
            ));
        }
        for (got, sum) in row.iter().zip(&want.sum) {
            let difference = (got.to_f64() - sum).abs();
            // Where nothing contributed the result must be zero, not just small.
            let error = if difference == 0.0 {
                0.0
            } else {
                difference / want.scale
            };
            // What is not a number has no size that JSON could hold.
            let error = if error.is_finite() { error } else { f64::MAX };
            outcome.rel_err = outcome.rel_err.max(error);
        }
    }
    if outcome.rel_err > TOLERANCE && outcome.fault.is_none() {
        let error = outcome.rel_err;
        outcome.fault = Some(format!("relative error {error}, allowed are {TOLERANCE}"));
    }
    outcome
}

/// What must come back for one token.
struct Expected {
    sum: Vec<f64>,
    /// The largest sum of absolute contributions to one element.
    scale: f64,
    missing: u32,
}

fn expected(workload: &Workload, own: &Batch, token: usize, answered: &RankSet) -> Expected {
    let shape = &workload.shape;
    let x = &own.x[token * shape.hidden..(token + 1) * shape.hidden];
    let x = as_dispatched(shape.dispatch, x);
    let choices = token * shape.top_k..(token + 1) * shape.top_k;
    let mut sum = vec![0.0; shape.hidden];
    let mut scale = vec![0.0; shape.hidden];
    let mut missing = 0;
    let weights = &own.topk_weights[choices.clone()];
    for (k, (expert, weight)) in own.topk_idx[choices].iter().zip(weights).enumerate() {
        let Ok(expert) = u32::try_from(*expert) else {
            continue;
        };
        if !answered.contains(workload.placement.owner(expert)) {
            missing |= 1 << k;
            continue;
        }
        let result = workload.model.reference(expert, &x);
        for (i, value) in result.iter().enumerate() {
            sum[i] += f64::from(*weight) * value;
            scale[i] += (f64::from(*weight) * value).abs();
        }
    }
    Expected {
        sum,
        scale: scale.into_iter().fold(0.0, f64::max),
        missing,
    }
}
