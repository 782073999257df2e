//! The command line of one rank on a GPU.

use crate::args as moe;
use anyhow::ensure;
use clap::{Parser, ValueEnum};
use ep_buffer::Config;
use ep_buffer::cuda::Settings;

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Verifies one configuration, times it, and ends.
    Bench,
    /// Replays one graph until it is told to leave, whoever dies or comes.
    Serve,
}

/// One rank of a mixture-of-experts layer on a GPU. It prints one JSON object a line.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    #[arg(value_enum)]
    pub(crate) mode: Mode,
    /// Layers, of a dispatch and a combine each, in a graph.
    #[arg(long, default_value_t = 10)]
    pub(crate) layers: u32,
    /// Times that each graph is timed.
    #[arg(long, default_value_t = 20)]
    pub(crate) replays: u32,
    /// Multiprocessors that an operation occupies; all by default. Ranks that share a GPU must
    /// share them.
    #[arg(long)]
    pub(crate) sms: Option<u32>,
    /// The GPU; by default the one whose number is the rank, modulo how many there are.
    #[arg(long)]
    pub(crate) gpu: Option<u32>,
    /// Tokens of rank 0, where ranks bring different numbers: the last brings `--tokens`, and
    /// those between are evenly apart. All bring `--tokens` by default.
    #[arg(long)]
    pub(crate) least_tokens: Option<u32>,
    /// All ranks in this process, on the GPUs that there are, whose multiprocessors they share;
    /// `--rank` and `--store` do not matter. For `bench`.
    #[arg(long)]
    pub(crate) share: bool,
    #[command(flatten)]
    pub(crate) common: moe::Args,
}

impl Args {
    /// The graph is one round: who comes in does so between two replays.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        ensure!(self.layers > 0, "--layers 0: at least 1");
        ensure!(
            !self.share || self.mode == Mode::Bench,
            "--share: only for `bench`"
        );
        let (least, most) = (self.least_tokens.unwrap_or(0), self.common.tokens);
        ensure!(
            least <= most,
            "--least-tokens {least}: at most --tokens, {most}"
        );
        self.common.buffer_of_rounds(2 * self.layers)
    }

    /// Tokens that `rank` brings.
    pub(crate) fn tokens_of(&self, rank: u32) -> u32 {
        let (most, last) = (self.common.tokens, self.common.capacity.saturating_sub(1));
        let fewer = most.saturating_sub(self.least_tokens.unwrap_or(most));
        let behind = u64::from(last.saturating_sub(rank)) * u64::from(fewer);
        most - (behind / u64::from(last.max(1))) as u32
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            sms: self.sms,
            ..Settings::default()
        }
    }
}
