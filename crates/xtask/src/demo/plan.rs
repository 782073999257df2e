//! The demo's flags, checked and turned into a plan before anything is started.

use super::store::{StoreArgs, StoreKind};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Processes that one machine is asked to run at most.
pub(crate) const MAX_RANKS: u32 = 64;
const MAX_TOP_K: u32 = 32;
const MAX_HIDDEN: u32 = 65_536;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Processes in the group
    #[arg(long, default_value_t = 4)]
    pub(crate) ranks: u32,
    /// Experts in all
    #[arg(long, default_value_t = 16)]
    pub(crate) experts: u32,
    /// Elements of a token's hidden vector, a multiple of 8, in FP8 of 128
    #[arg(long, default_value_t = 256)]
    pub(crate) hidden: u32,
    /// What tokens travel as on their way to the experts
    #[arg(long, value_enum, default_value_t = Dispatch::Bf16)]
    pub(crate) dispatch: Dispatch,
    /// Tokens of each rank and step
    #[arg(long, default_value_t = 64)]
    pub(crate) tokens: u32,
    /// Experts that each token chooses
    #[arg(long, default_value_t = 4)]
    pub(crate) top_k: u32,
    /// Ranks come, leave and die as this file says: a JSON array of phases, each an
    /// array of the ranks that take part in it, such as `[[0,1],[0,1,2,3],[0,1,-2,3],[0,3]]`.
    /// Who is missing from the next phase leaves on purpose, who is new there joins, a
    /// negative rank gets SIGKILL in the middle of the phase (-0 for rank 0). Capacity is
    /// the largest rank plus one
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["ranks", "kill", "no_rejoin", "repeat", "svg"]
    )]
    pub(crate) plan: Option<PathBuf>,
    /// Steps of the layer; with --plan, of each phase
    #[arg(long, default_value_t = 200)]
    pub(crate) steps: u64,
    /// Who dies and when: RANK, RANK@STEP or none. May be given several times,
    /// for the same rank too. Without it the seed decides. Rank 0 serves the
    /// rendezvous store, if that is not an etcd, and cannot be killed then
    #[arg(long, value_name = "RANK[@STEP]|none")]
    pub(crate) kill: Vec<KillArg>,
    /// Start no new process for a rank that died
    #[arg(long)]
    pub(crate) no_rejoin: bool,
    /// How tokens choose their experts
    #[arg(long, value_enum, default_value_t = Routing::Model)]
    pub(crate) routing: Routing,
    /// Seed of weights, tokens, victim and step; from the clock by default
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How data travels: through queue pairs, or through shared memory
    #[arg(long, value_enum, default_value_t = DataPath::Rdma)]
    pub(crate) path: DataPath,
    /// Queue pairs to each peer
    #[arg(long, default_value_t = 2)]
    pub(crate) lanes: u32,
    /// How long a step waits for a peer that does not answer
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub(crate) time_out_ms: u64,
    #[command(flatten)]
    pub(crate) meeting: StoreArgs,
    /// TCP port of the rendezvous store; a free one by default
    #[arg(long, value_name = "PORT")]
    pub(crate) store_port: Option<u16>,
    /// End the run, as failed, after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) deadline_s: u64,
    /// Run this often, each time with another seed; all must be verified
    #[arg(long, default_value_t = 1)]
    pub(crate) repeat: u32,
    /// Write the account here, for machines
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the time line here
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Keep what every process printed in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
    /// Run this program as the ranks' process in place of building `moe_layer`
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Routing {
    /// A router: softmax over a gating matrix
    Model,
    /// Every expert equally likely
    Uniform,
    /// Few experts popular, many not
    Zipf,
    /// 90 % of the tokens choose all their experts among a few
    KHot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dispatch {
    /// As they are
    Bf16,
    /// In FP8, with a scale for each 128 elements
    Fp8,
    /// In FP8, with scales that are powers of two
    Fp8Ue8m0,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DataPath {
    /// RDMA writes through the software NIC
    Rdma,
    /// Stores into peers' shared memory
    Window,
}

/// A flag's value as its own command line spells it.
pub(crate) fn name_of<T: ValueEnum>(value: T) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |v| v.get_name().to_owned())
}

/// One `--kill`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillArg {
    Nobody,
    Rank { rank: u32, step: Option<u64> },
}

impl FromStr for KillArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(KillArg::Nobody);
        }
        let (rank, step) = match text.split_once('@') {
            Some((rank, step)) => (rank, Some(step)),
            None => (text, None),
        };
        let rank = rank
            .parse()
            .with_context(|| format!("'{rank}' is no rank: give RANK, RANK@STEP or none"))?;
        let step = step
            .map(|s| {
                s.parse()
                    .with_context(|| format!("'{s}' is no step number"))
            })
            .transpose()?;
        Ok(KillArg::Rank { rank, step })
    }
}

/// `rank` gets SIGKILL while it works on `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kill {
    pub(crate) rank: u32,
    pub(crate) step: u64,
    /// How far into the step, so that not only its beginning is tried.
    pub(crate) delay_us: u64,
}

/// One run, every choice made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) ranks: u32,
    pub(crate) experts: u32,
    pub(crate) hidden: u32,
    pub(crate) dispatch: Dispatch,
    pub(crate) tokens: u32,
    pub(crate) top_k: u32,
    pub(crate) steps: u64,
    pub(crate) routing: Routing,
    pub(crate) path: DataPath,
    pub(crate) lanes: u32,
    pub(crate) time_out_ms: u64,
    /// How long the store goes without a sign of life of a rank.
    pub(crate) lease_ms: u64,
    pub(crate) store: StoreKind,
    pub(crate) secret: bool,
    pub(crate) seed: u64,
    pub(crate) rejoin: bool,
    /// Ascending by step.
    pub(crate) kills: Vec<Kill>,
}

impl Plan {
    /// Checks the flags and draws what they leave open from `seed`.
    pub(crate) fn new(args: &Args, seed: u64) -> Result<Self> {
        check_shape(args)?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let kills = kills(args, &mut rng)?;
        Ok(Self {
            ranks: args.ranks,
            experts: args.experts,
            hidden: args.hidden,
            dispatch: args.dispatch,
            tokens: args.tokens,
            top_k: args.top_k,
            steps: args.steps,
            routing: args.routing,
            path: args.path,
            lanes: args.lanes,
            time_out_ms: args.time_out_ms,
            lease_ms: match args.meeting.store {
                StoreKind::Tcp => 5_000,
                // What etcd grants at least: it does not see processes end.
                StoreKind::Etcd => 2_000,
            },
            store: args.meeting.store,
            secret: args.meeting.secret,
            seed,
            rejoin: !args.no_rejoin,
            kills,
        })
    }
}

impl Plan {
    /// What every rank's process is told.
    pub(crate) fn arguments(&self, store: &str) -> Vec<String> {
        [
            ("capacity", self.ranks.to_string()),
            ("store", store.to_owned()),
            ("experts", self.experts.to_string()),
            ("hidden", self.hidden.to_string()),
            ("dispatch", name_of(self.dispatch)),
            ("tokens", self.tokens.to_string()),
            ("top-k", self.top_k.to_string()),
            ("steps", self.steps.to_string()),
            ("routing", name_of(self.routing)),
            ("seed", self.seed.to_string()),
            ("path", name_of(self.path)),
            ("lanes", self.lanes.to_string()),
            ("time-out-ms", self.time_out_ms.to_string()),
            ("lease-ms", self.lease_ms.to_string()),
        ]
        .into_iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
    }
}

fn check_shape(args: &Args) -> Result<()> {
    let within = |name: &str, value: u64, low: u64, high: u64| {
        ensure!(
            (low..=high).contains(&value),
            "--{name} {value} is out of range: {low} to {high}"
        );
        Ok(())
    };
    within("ranks", args.ranks.into(), 1, MAX_RANKS.into())?;
    within("experts", args.experts.into(), 1, 1 << 20)?;
    within("hidden", args.hidden.into(), 8, MAX_HIDDEN.into())?;
    within("tokens", args.tokens.into(), 1, 1 << 16)?;
    within("top-k", args.top_k.into(), 1, MAX_TOP_K.into())?;
    within("steps", args.steps, 1, 10_000_000)?;
    within("lanes", args.lanes.into(), 1, 16)?;
    within("time-out-ms", args.time_out_ms, 1, 600_000)?;
    within("deadline-s", args.deadline_s, 1, 86_400)?;
    within("repeat", args.repeat.into(), 1, 100_000)?;
    ensure!(
        args.hidden.is_multiple_of(8),
        "--hidden {} is not a multiple of 8",
        args.hidden
    );
    ensure!(
        args.dispatch == Dispatch::Bf16 || args.hidden.is_multiple_of(128),
        "--hidden {} is not a multiple of 128, as --dispatch {} needs it",
        args.hidden,
        name_of(args.dispatch)
    );
    ensure!(
        args.top_k <= args.experts,
        "--top-k {} is more than --experts {}",
        args.top_k,
        args.experts
    );
    if let Some(port) = args.store_port {
        ensure!(
            port != 0,
            "--store-port 0 is no port that ranks could connect to"
        );
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("--store-port {port} cannot be used"))?;
    }
    Ok(())
}

fn kills(args: &Args, rng: &mut ChaCha8Rng) -> Result<Vec<Kill>> {
    let serves = |rank| rank == 0 && args.meeting.store == StoreKind::Tcp;
    if args.kill.contains(&KillArg::Nobody) {
        ensure!(
            args.kill.len() == 1,
            "--kill none contradicts another --kill"
        );
        return Ok(Vec::new());
    }
    if args.kill.is_empty() {
        let lowest = u32::from(serves(0));
        ensure!(
            args.ranks > lowest,
            "--ranks {} leaves nobody to kill besides rank 0: add --kill none",
            args.ranks
        );
        let rank = rng.random_range(lowest..args.ranks);
        return Ok(vec![kill_at(rank, None, args.steps, rng)?]);
    }
    let mut kills = Vec::new();
    for arg in &args.kill {
        let KillArg::Rank { rank, step } = *arg else {
            continue;
        };
        if serves(rank) {
            bail!("--kill 0: rank 0 serves the rendezvous store and cannot be killed");
        }
        ensure!(
            rank < args.ranks,
            "--kill {rank}: there is no such rank, the last of {} is {}",
            args.ranks,
            args.ranks - 1
        );
        kills.push(kill_at(rank, step, args.steps, rng)?);
    }
    kills.sort_by_key(|kill| kill.step);
    Ok(kills)
}

/// In fewer steps nobody can be sure to die and to have come back before the others are done.
const LEAST_STEPS: u64 = 10;

fn kill_at(rank: u32, step: Option<u64>, steps: u64, rng: &mut ChaCha8Rng) -> Result<Kill> {
    ensure!(
        steps >= LEAST_STEPS,
        "--steps {steps} are too few for a rank to die and come back in: at least {LEAST_STEPS}, or --kill none"
    );
    // Drawn whatever the flags say, so that one seed means one victim and step.
    // Late enough to have run, early enough that the newcomer has steps to do.
    let drawn = rng.random_range((steps / 10).max(1)..=(steps * 2 / 5).max(1));
    let delay_us = rng.random_range(0..3_000);
    let step = step.unwrap_or(drawn);
    ensure!(
        (1..steps).contains(&step),
        "--kill {rank}@{step}: the step is out of range: 1 to {}",
        steps - 1
    );
    Ok(Kill {
        rank,
        step,
        delay_us,
    })
}

/// A seed that differs from run to run and is short enough to type again.
pub(crate) fn seed_from_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |t| {
        (t.as_secs() ^ u64::from(t.subsec_nanos())) % 1_000_000_000
    })
}

/// The seed of run `index` of several.
pub(crate) fn seed_of_run(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(index));
    rng.random_range(0..1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn plan(flags: &str) -> Result<Plan> {
        let cli = Cli::try_parse_from(std::iter::once("demo").chain(flags.split_whitespace()))?;
        Plan::new(&cli.args, 7)
    }

    fn refusal(flags: &str) -> String {
        match plan(flags) {
            Ok(plan) => panic!("accepted: {plan:?}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn the_seed_decides_victim_and_step() -> Result<()> {
        let (a, b) = (plan("")?, plan("")?);
        assert_eq!(a.kills, b.kills);
        let [kill] = a.kills[..] else {
            panic!("one victim by default");
        };
        assert!((1..4).contains(&kill.rank) && (20..=80).contains(&kill.step));
        let steps: std::collections::BTreeSet<u64> =
            (0..20).map(|run| seed_of_run(7, run)).collect();
        assert_eq!(steps.len(), 20);
        Ok(())
    }

    #[test]
    fn kills_are_in_order_and_may_name_a_rank_twice() -> Result<()> {
        let plan = plan("--kill 2@100 --kill 1@30 --kill 2@60")?;
        let order: Vec<_> = plan.kills.iter().map(|k| (k.rank, k.step)).collect();
        assert_eq!(order, [(1, 30), (2, 60), (2, 100)]);
        Ok(())
    }

    #[test]
    fn nobody_dies_if_told_so() -> Result<()> {
        assert!(plan("--kill none")?.kills.is_empty());
        assert!(plan("--ranks 1 --kill none")?.kills.is_empty());
        Ok(())
    }

    #[test]
    fn any_rank_may_die_where_none_serves_the_store() -> Result<()> {
        let plan = plan("--store etcd --kill 0@5")?;
        let [kill] = plan.kills[..] else {
            panic!("{:?}", plan.kills);
        };
        assert_eq!((kill.rank, kill.step), (0, 5));
        assert!(plan.lease_ms < self::plan("")?.lease_ms);
        let cli = Cli::try_parse_from(["demo", "--store", "etcd"])?;
        let victims: Result<std::collections::BTreeSet<u32>> = (0..40)
            .map(|seed| Ok(Plan::new(&cli.args, seed)?.kills[0].rank))
            .collect();
        assert_eq!(victims?.len(), 4);
        Ok(())
    }

    #[test]
    fn bad_input_is_named() {
        for (flags, word) in [
            ("--top-k 17", "--top-k 17 is more than --experts 16"),
            (
                "--top-k 33 --experts 64",
                "--top-k 33 is out of range: 1 to 32",
            ),
            ("--hidden 250", "--hidden 250 is not a multiple of 8"),
            ("--hidden 0", "--hidden 0 is out of range"),
            (
                "--hidden 264 --dispatch fp8-ue8m0",
                "--hidden 264 is not a multiple of 128, as --dispatch fp8-ue8m0 needs it",
            ),
            ("--dispatch fp16", "fp16"),
            ("--ranks 0", "--ranks 0 is out of range"),
            ("--ranks 1", "leaves nobody to kill"),
            ("--kill 4", "--kill 4: there is no such rank"),
            ("--kill 0@5", "--kill 0: rank 0 serves"),
            (
                "--kill 1@200",
                "--kill 1@200: the step is out of range: 1 to 199",
            ),
            ("--kill 1@0", "--kill 1@0: the step is out of range"),
            ("--kill x", "'x' is no rank"),
            ("--kill 1@y", "'y' is no step number"),
            ("--kill none --kill 1", "--kill none contradicts"),
            ("--steps 9", "--steps 9 are too few"),
            ("--lanes 0", "--lanes 0 is out of range"),
            ("--store-port 0", "--store-port 0 is no port"),
            ("--path ib", "ib"),
            ("--routing best", "best"),
        ] {
            let text = refusal(flags);
            assert!(text.contains(word), "{flags}: {text}");
        }
    }

    #[test]
    fn ranks_are_told_what_tokens_travel_as() -> Result<()> {
        let told = |flags: &str| Ok::<_, anyhow::Error>(plan(flags)?.arguments("here"));
        for (flags, argument) in [
            ("", "--dispatch=bf16"),
            ("--dispatch fp8", "--dispatch=fp8"),
            ("--dispatch fp8-ue8m0", "--dispatch=fp8-ue8m0"),
        ] {
            assert!(told(flags)?.iter().any(|it| it == argument), "{argument}");
        }
        Ok(())
    }

    #[test]
    fn a_port_in_use_is_refused() -> Result<()> {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = taken.local_addr()?.port();
        let text = refusal(&format!("--store-port {port}"));
        assert!(
            text.contains(&format!("--store-port {port} cannot be used")),
            "{text}"
        );
        Ok(())
    }
}
