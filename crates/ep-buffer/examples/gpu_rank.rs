//! One rank of a group of GPUs, as a process: `cargo xtask bench-gpu` and `gpu-chaos` start them.
//!
//! ```text
//! gpu_rank bench --rank 0 --capacity 2 --serve-store --hidden 7168 --tokens 128 &
//! gpu_rank bench --rank 1 --capacity 2 --hidden 7168 --tokens 128
//! ```
//!
//! In the mode `serve` it captures a graph of several layers before it is a member, and replays
//! it until it is told to leave; others die and come meanwhile.

#[expect(dead_code, reason = "rounds are longer here")]
#[path = "moe/args.rs"]
mod args;
#[path = "gpu/bench.rs"]
mod bench;
#[path = "gpu/data.rs"]
mod data;
#[path = "gpu/args.rs"]
mod gpu_args;
#[path = "moe/members.rs"]
mod members;
#[expect(dead_code, reason = "the layer on the host is the other example's")]
mod moe;
#[expect(dead_code, reason = "there is no software NIC that could leak")]
#[path = "moe/orders.rs"]
mod orders;
#[path = "moe/program.rs"]
mod program;
#[path = "gpu/rank.rs"]
mod rank;
#[expect(dead_code, reason = "a group of GPUs is joined in two steps")]
#[path = "moe/rendezvous.rs"]
mod rendezvous;
#[path = "gpu/serve.rs"]
mod serve;
#[path = "gpu/share.rs"]
mod share;

use anyhow::{Context, Result, bail};
use clap::Parser;
use data::Data;
use ep_buffer::cuda::EpBuffer;
use ep_buffer::cuda::testing::device_count;
use gpu_args::{Args, Mode};
use members::Watch;
use moe::events::Event;
use orders::Orders;
use program::say;
use rank::GpuRank;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long the ranks wait for each other at the beginning.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = Args::parse();
    program::run(args.common.rank, || rank(&args))
}

fn rank(args: &Args) -> Result<()> {
    let common = &args.common;
    let (config, settings) = (args.config()?, args.settings());
    let group_config = common.group(&config)?;
    let gpus = device_count();
    if gpus == 0 {
        bail!("no GPU, or no driver of one");
    }
    if args.share {
        share::run(args, &config)?.iter().for_each(say);
        return Ok(());
    }
    let (_server, store) = rendezvous::open(common, group_config.secret.clone())?;
    let buffer = EpBuffer::builder(group_config.rank, config.clone())
        .settings(settings)
        .device(args.gpu.unwrap_or(common.rank % gpus))
        .group(|group| *group = group_config)
        .open(Arc::clone(&store))?;
    say(&Event::Ready {
        rank: common.rank,
        incarnation: buffer.fabric().incarnation().0,
        pid: std::process::id(),
    });
    let data = Data::new(&config, args);
    let me = buffer.rank();
    let layers = match args.mode {
        Mode::Bench => 1,
        Mode::Serve => args.layers,
    };
    let mut rank = GpuRank::new(buffer, layers)?;
    if args.mode == Mode::Bench {
        rank.buffer.fabric_mut().wait_admitted(PATIENCE)?;
        say(&bench::run(&mut rank, args, &data, &*store)?);
        return Ok(());
    }
    rank.load(&data.batch(me, 0))?;
    let graph = serve::capture(&mut rank)?;
    // Alone, with every peer masked: the first replay is slower than others.
    graph.launch()?;
    rank.stream.synchronize()?;
    let mut watch = Watch::new(rank.buffer.fabric());
    rank.buffer.fabric_mut().wait_admitted(PATIENCE)?;
    let orders = Orders::take();
    let mut emit = |event: Event| say(&event);
    let summary = serve::run(&mut rank, &graph, &data, &orders, &mut watch, &mut emit)?;
    drop(graph);
    let unverified = summary.steps - summary.verified_steps;
    rank.buffer.into_fabric().leave().context("leaving")?;
    say(&Event::Summary(summary));
    if unverified > 0 {
        bail!("{unverified} replays did not agree with the reference");
    }
    Ok(())
}
