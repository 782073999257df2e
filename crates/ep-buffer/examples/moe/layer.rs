//! The layer's loop on one rank: dispatch, experts, combine, check.

use super::events::{Event, Step, Summary, now_us};
use super::model::Activations;
use super::verify::{check_combine, check_dispatch};
use super::workload::Workload;
use ep_buffer::{DispatchOutput, EpBuffer, EpError};
use ep_transport::{Fabric, Rank};
use half::bf16;
use std::ops::ControlFlow;

/// Operations of a step. Admissions are aligned to it, so a newcomer's first
/// operation is a dispatch and all ranks count steps alike.
pub(crate) const OPS_PER_STEP: u64 = 2;

/// Where events go.
pub(crate) type Emit<'a> = dyn FnMut(Event) + 'a;

/// Runs steps up to `steps` (exclusive), from the one that the epoch counter says, or
/// until `between` breaks off. It is called after every step, with a place to put events.
///
/// # Errors
/// What [`EpBuffer::dispatch`] and [`EpBuffer::combine`] refuse.
pub(crate) fn run<F: Fabric>(
    buffer: &mut EpBuffer<F>,
    workload: &Workload,
    steps: u64,
    emit: &mut Emit<'_>,
    between: &mut dyn FnMut(&F, &mut Emit<'_>) -> ControlFlow<()>,
) -> Result<Summary, EpError> {
    let rank = buffer.rank();
    let mut received = buffer.dispatch_output()?;
    let mut expert_out = buffer.expert_output()?;
    let mut combined = buffer.combine_output()?;
    let mut work = Activations::default();
    let mut summary = Summary {
        rank: rank.0,
        ..Summary::default()
    };
    loop {
        let step = buffer.begin_round().0 / OPS_PER_STEP;
        if step >= steps {
            break;
        }
        let own = workload.batch(rank, step);
        let begin_us = now_us();
        let handle = buffer.dispatch(
            &own.x,
            &own.topk_idx,
            &own.topk_weights,
            workload.shape.top_k,
            &mut received,
        )?;
        let dispatched_us = now_us();
        report_losses(buffer, emit);
        run_experts(workload, rank, &received, &mut work, &mut expert_out);
        let computed_us = now_us();
        buffer.combine(&handle, &expert_out, &mut combined)?;
        let end_us = now_us();
        report_losses(buffer, emit);
        let outcome = check_combine(workload, &own, &combined, combined.answered());
        let packed = check_dispatch(workload, rank, step, &received);
        let problem = packed.err().or(outcome.fault);
        summary.steps += 1;
        summary.verified_steps += u64::from(problem.is_none());
        summary.missing += outcome.missing;
        summary.max_rel_err = summary.max_rel_err.max(outcome.rel_err);
        emit(Event::Step(Step {
            rank: rank.0,
            step,
            epoch: handle.epoch().0,
            begin_us,
            end_us,
            verified: problem.is_none(),
            problem,
            rel_err: outcome.rel_err,
            missing: outcome.missing,
            missing_expected: outcome.missing_expected,
            answered: combined.answered().iter().map(|r| r.0).collect(),
            dispatch_us: dispatched_us - begin_us,
            combine_us: end_us - computed_us,
        }));
        if between(buffer.fabric(), emit).is_break() {
            break;
        }
    }
    let stats = buffer.stats();
    summary.bytes_sent = stats.total.bytes;
    summary.messages_sent = stats.total.messages;
    let micros = |wait: &std::time::Duration| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    summary.waited_us = stats.wait.iter().map(micros).collect();
    Ok(summary)
}

fn report_losses<F: Fabric>(buffer: &EpBuffer<F>, emit: &mut Emit<'_>) {
    for loss in buffer.losses() {
        emit(Event::PeerLost {
            rank: loss.rank.0,
            incarnation: loss.incarnation.0,
            how: loss.cause.to_string(),
            at_us: now_us(),
        });
    }
}

/// Runs the experts of `rank` on what it received.
pub(crate) fn run_experts(
    workload: &Workload,
    rank: Rank,
    received: &DispatchOutput,
    work: &mut Activations,
    expert_out: &mut [bf16],
) {
    let hidden = workload.shape.hidden;
    for (local, expert) in workload.placement.experts_of(rank).enumerate() {
        let Some(range) = received.expert_range(local) else {
            continue;
        };
        for (row, out) in expert_out[range].chunks_exact_mut(hidden).enumerate() {
            if let Some(x) = received.row(local, row) {
                workload.model.run(expert, x, work, out);
            }
        }
    }
}
