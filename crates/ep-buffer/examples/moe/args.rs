//! The command line of one rank.

use super::moe::routing::Routing;
use super::moe::workload::Shape;
use anyhow::{Context, ensure};
use clap::Parser;
use ep_buffer::{Config, DispatchType, ScaleFormat};
use ep_transport::{GroupConfig, NicConfig, Path, Rank};
use std::path::PathBuf;
use std::time::Duration;

/// How bytes get to the other ranks.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum DataPath {
    /// Queue pairs of a NIC.
    Rdma,
    /// Memory of the other processes, mapped; one host only.
    Window,
}

/// What rows are dispatched as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dispatch {
    /// As they are.
    Bf16,
    /// E4M3, with a scale for each 128 channels.
    Fp8,
    /// The same with scales that are powers of two.
    Fp8Ue8m0,
}

impl From<Dispatch> for DispatchType {
    fn from(dispatch: Dispatch) -> Self {
        match dispatch {
            Dispatch::Bf16 => Self::Bf16,
            Dispatch::Fp8 => Self::Fp8(ScaleFormat::F32),
            Dispatch::Fp8Ue8m0 => Self::Fp8(ScaleFormat::Ue8m0),
        }
    }
}

/// One rank of a mixture-of-experts layer that checks every value it gets.
/// It prints one JSON object a line.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// This process's rank.
    #[arg(long)]
    pub(crate) rank: u32,
    /// Ranks that the group can hold.
    #[arg(long, default_value_t = 4)]
    pub(crate) capacity: u32,
    /// Ranks that form the group together, separated by commas; others join later.
    /// All by default.
    #[arg(long, value_delimiter = ',')]
    pub(crate) initial: Vec<u32>,
    /// Address of the rendezvous store: HOST:PORT of one over TCP, or the members of an
    /// etcd cluster, http://HOST:PORT, separated by commas (feature `etcd`).
    #[arg(long, default_value = "127.0.0.1:7400")]
    pub(crate) store: String,
    /// A file with the secret that all ranks of the group know, 16 to 4,096 bytes. Without
    /// it nobody joins, and nothing at the rendezvous is believed.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Serve the rendezvous store at that address, until all others have gone.
    #[arg(long)]
    pub(crate) serve_store: bool,
    /// Experts of all ranks.
    #[arg(long, default_value_t = 16)]
    pub(crate) experts: u32,
    /// Elements of a token's row, a multiple of 8, in FP8 of 128.
    #[arg(long, default_value_t = 256)]
    pub(crate) hidden: u32,
    /// What rows are dispatched as.
    #[arg(long, value_enum, default_value_t = Dispatch::Bf16)]
    pub(crate) dispatch: Dispatch,
    /// Elements between an expert's two layers.
    #[arg(long, default_value_t = 64)]
    pub(crate) inter: usize,
    /// Most tokens of a rank in a step.
    #[arg(long, default_value_t = 64)]
    pub(crate) tokens: u32,
    /// Experts per token.
    #[arg(long, default_value_t = 4)]
    pub(crate) top_k: u32,
    /// Steps of the group, counted from its beginning.
    #[arg(long, default_value_t = 100)]
    pub(crate) steps: u64,
    /// Which experts tokens choose.
    #[arg(long, value_enum, default_value_t = Routing::Model)]
    pub(crate) routing: Routing,
    /// What weights and routing are made from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How bytes get to the other ranks.
    #[arg(long, value_enum, default_value_t = DataPath::Rdma)]
    pub(crate) path: DataPath,
    /// NICs of this machine in place of the software one, each DEVICE[:PORT][@GID] with
    /// an index or an IP address as GID, such as mlx5_0 or mlx5_1:2@10.0.0.1; several are
    /// separated by commas, and the queue pairs to each peer are spread over them.
    #[arg(long, value_delimiter = ',')]
    pub(crate) device: Vec<NicConfig>,
    /// Queue pairs to each peer.
    #[arg(long, default_value_t = 2)]
    pub(crate) lanes: u32,
    /// How long to wait for a rank that gives no sign of life.
    #[arg(long, default_value_t = 1000)]
    pub(crate) time_out_ms: u64,
    /// How long the store waits for a sign of life of this rank.
    #[arg(long, default_value_t = 5000)]
    pub(crate) lease_ms: u64,
    /// Take orders from standard input, one a line, see the module `orders`; end when
    /// one of them is `leave` or there are no more of them.
    #[arg(long)]
    pub(crate) orders: bool,
    /// Join a group that is running, as a new life of the rank or a new rank.
    #[arg(long)]
    pub(crate) join: bool,
}

impl Args {
    pub(crate) fn shape(&self) -> anyhow::Result<Shape> {
        ensure!(
            self.inter > 0 && self.inter <= 65_536,
            "--inter {} is out of range: 1 to 65536",
            self.inter
        );
        Ok(Shape {
            seed: self.seed,
            capacity: self.capacity,
            experts: self.experts,
            hidden: self.hidden as usize,
            dispatch: self.dispatch.into(),
            inter: self.inter,
            tokens: self.tokens as usize,
            top_k: self.top_k as usize,
            routing: self.routing,
        })
    }

    pub(crate) fn buffer(&self) -> anyhow::Result<Config> {
        self.buffer_of_rounds(2)
    }

    /// The same with so many operations in a round.
    pub(crate) fn buffer_of_rounds(&self, ops: u32) -> anyhow::Result<Config> {
        Config::builder(self.capacity, self.experts, self.hidden, self.tokens)
            .ops_per_round(ops)
            .dispatch_type(self.dispatch.into())
            .max_top_k(self.top_k)
            .lanes(self.lanes)
            .time_out(Duration::from_millis(self.time_out_ms))
            // Longer than an attempt to change the view may take, so that a decision
            // always comes first.
            .decision_time_out(UPDATE_TIME_OUT + Duration::from_secs(1))
            .build()
            .context("the buffer's configuration")
    }

    pub(crate) fn group(&self, config: &Config) -> anyhow::Result<GroupConfig> {
        ensure!(
            self.rank < self.capacity,
            "--rank {} does not fit --capacity {}",
            self.rank,
            self.capacity
        );
        let mut group = config.group(Rank(self.rank));
        if !self.initial.is_empty() {
            group.initial = self.initial.iter().copied().map(Rank).collect();
        }
        ensure!(
            self.join || group.initial.contains(&group.rank),
            "--rank {} is not among the --initial {:?} and needs --join",
            self.rank,
            self.initial
        );
        group.common = format!("{:?} {config:?}", self.shape()?);
        group.path = match self.path {
            DataPath::Rdma => Path::Rdma,
            DataPath::Window => Path::Window,
        };
        if !self.device.is_empty() {
            group.nics = self.device.clone();
        }
        if let Some(file) = &self.secret_file {
            group.secret = Some(super::rendezvous::secret(file)?);
        }
        group.update_time_out = UPDATE_TIME_OUT;
        group.lease = Duration::from_millis(self.lease_ms);
        Ok(group)
    }
}

const UPDATE_TIME_OUT: Duration = Duration::from_secs(3);
