//! One rank of a mixture-of-experts layer, as a process.
//!
//! Start one process per rank with the same settings; rank 0 also serves the
//! rendezvous. Kill one and start it again with `--join`: the others go on.
//!
//! ```text
//! moe_layer --rank 0 --capacity 2 --serve-store &
//! moe_layer --rank 1 --capacity 2
//! ```

#[path = "moe/args.rs"]
mod args;
#[path = "moe/members.rs"]
mod members;
mod moe;
#[path = "moe/orders.rs"]
mod orders;

use anyhow::{Context, bail};
use args::Args;
use clap::Parser;
use ep_buffer::EpBuffer;
use ep_transport::Group;
use ep_transport::store::{Rendezvous, TcpStore, TcpStoreServer};
use members::Watch;
use moe::events::Event;
use moe::layer;
use moe::workload::Workload;
use orders::Orders;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long the ranks wait for each other at the beginning and at the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to look for the store, which another process may still be starting.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match rank(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(rank = args.rank, "{error:#}");
            emit(Event::Error {
                message: format!("{error:#}"),
            });
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. Nobody listening is no reason to stop serving.
fn emit(event: Event) {
    if let Ok(mut line) = serde_json::to_vec(&event) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn rank(args: &Args) -> anyhow::Result<()> {
    let config = args.buffer()?;
    let group_config = args.group(&config)?;
    let server = match args.serve_store {
        true => Some(TcpStoreServer::bind(&args.store).context("the rendezvous store")?),
        false => None,
    };
    let store: Arc<dyn Rendezvous> = match &server {
        Some(server) => Arc::new(server.store()),
        None => Arc::new(
            TcpStore::connect(&args.store, STORE_PATIENCE)
                .with_context(|| format!("the rendezvous store at {}", args.store))?,
        ),
    };
    let workload = Workload::new(args.shape()?);
    let mut group = Group::open(&group_config, config.footprint(), store)?;
    emit(Event::Ready {
        rank: args.rank,
        incarnation: group.incarnation().0,
        pid: std::process::id(),
    });
    group.wait_admitted(PATIENCE)?;
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
    emit(Event::Summary(summary));
    if unverified > 0 {
        bail!("{unverified} steps did not agree with the reference");
    }
    Ok(())
}
