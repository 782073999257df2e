//! `cargo xtask gpu-chaos`: processes that replay a captured graph over NVLink get SIGKILL, and
//! new ones take their places; the others never capture again.

use super::shapes::TOP_K;
use crate::chaos::{self, Scenario};
use crate::demo::plan::{Routing, seed_from_clock};
use anyhow::{Result, ensure};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Processes in the group, one for each GPU
    #[arg(long, default_value_t = 4)]
    ranks: u32,
    /// How many of them get SIGKILL
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Layers, of a dispatch and a combine each, in the graph
    #[arg(long, default_value_t = 10)]
    layers: u32,
    /// Tokens of each rank and layer
    #[arg(long, default_value_t = 128)]
    tokens: u32,
    /// Elements of a row
    #[arg(long, default_value_t = 7168)]
    hidden: u32,
    /// Experts in all
    #[arg(long, default_value_t = 288)]
    experts: u32,
    /// How long a kernel waits for a rank that does not answer
    #[arg(long, value_name = "MS", default_value_t = 200)]
    time_out_ms: u64,
    /// Seed of everything that happens by chance; from the clock by default
    #[arg(long)]
    seed: Option<u64>,
    /// Write the account here, for machines
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep what every process printed in this directory
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Run this program as the ranks' process in place of building `gpu_rank`
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Let ranks share GPUs where there are fewer; slow, as their kernels take turns
    #[arg(long)]
    share: bool,
}

/// Runs it; whether everything was verified and nothing hung.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let gpus = match super::count() {
        Ok(gpus) => gpus,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(true);
        }
    };
    if gpus < args.ranks && !args.share {
        println!("skipped: {} ranks, as there are {gpus} GPUs", args.ranks);
        return Ok(true);
    }
    ensure!(args.ranks >= 2, "--ranks {}: at least 2", args.ranks);
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    let mut kills = chaos::Args::only_kills(args.ranks, args.kills, args.tokens);
    kills.json.clone_from(&args.json);
    kills.keep_logs.clone_from(&args.keep_logs);
    let mut layer = chaos::layer(&kills, seed)?;
    (layer.hidden, layer.experts) = (args.hidden, args.experts);
    (layer.top_k, layer.routing) = (TOP_K, Routing::Uniform);
    layer.time_out_ms = args.time_out_ms;
    chaos::play(&Scenario {
        args: kills,
        seed,
        layer,
        program: super::rank_program(args.program.as_ref())?,
        arguments: vec!["serve".to_owned(), format!("--layers={}", args.layers)],
        ops_per_step: 2 * u64::from(args.layers),
    })
}
