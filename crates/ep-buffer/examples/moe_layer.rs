//! One rank of a mixture-of-experts layer, as a process.
//!
//! Start one process per rank with the same settings; rank 0 also serves the
//! rendezvous. Kill one and start it again with `--join`: the others go on.
//!
//! ```text
//! moe_layer --rank 0 --capacity 2 --serve-store &
//! moe_layer --rank 1 --capacity 2
//! ```
//!
//! Built with the feature `etcd`, it meets on an etcd as well (`--store http://HOST:PORT`),
//! and any rank may be killed.

#[path = "moe/args.rs"]
mod args;
#[path = "moe/members.rs"]
mod members;
mod moe;
#[path = "moe/orders.rs"]
mod orders;
#[path = "moe/program.rs"]
mod program;
#[path = "moe/rendezvous.rs"]
mod rendezvous;

use anyhow::bail;
use args::Args;
use clap::Parser;
use ep_buffer::EpBuffer;
use members::Watch;
use moe::events::Event;
use moe::layer;
use moe::workload::Workload;
use orders::Orders;
use program::say;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

/// How long the ranks wait for each other at the beginning and at the end.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = Args::parse();
    program::run(args.rank, || rank(&args))
}

fn rank(args: &Args) -> anyhow::Result<()> {
    let mut emit = |event: Event| say(&event);
    let config = args.buffer()?;
    let group_config = args.group(&config)?;
    let (server, store) = rendezvous::open(args, group_config.secret.clone())?;
    let workload = Workload::new(args.shape()?);
    let ready = |group: &ep_transport::Group| {
        say(&Event::Ready {
            rank: args.rank,
            incarnation: group.incarnation().0,
            pid: std::process::id(),
        });
    };
    let footprint = config.footprint();
    let group = rendezvous::join(&group_config, footprint, &store, ready, PATIENCE)?;
    let mut watch = Watch::new(&group);
    watch.poll(&group, &mut emit);
    let mut buffer = EpBuffer::new(config, group)?;
    let orders = args.orders.then(Orders::take);
    let steps = if args.orders { u64::MAX } else { args.steps };
    let mut told_to_leave = false;
    let mut summary = layer::run(
        &mut buffer,
        &workload,
        steps,
        &mut emit,
        &mut |group, emit| {
            watch.poll(group, emit);
            told_to_leave |= orders.as_ref().is_some_and(Orders::to_leave);
            if told_to_leave || group.superseded().is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    let unverified = summary.steps - summary.verified_steps;
    let group = buffer.into_fabric();
    if let Some(by) = group.superseded() {
        bail!("another process, {by}, has taken rank {}", args.rank);
    }
    if !told_to_leave {
        group.finish(PATIENCE)?;
        if server.is_some() {
            group.wait_alone(PATIENCE)?;
        }
    }
    group.leave()?;
    summary.leaked_objects = orders::leaked_objects();
    say(&Event::Summary(summary));
    if unverified > 0 {
        bail!("{unverified} steps did not agree with the reference");
    }
    Ok(())
}
