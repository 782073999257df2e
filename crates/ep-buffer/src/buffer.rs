//! The buffer itself: one rank's end of dispatch and combine.

use crate::config::Config;
use crate::error::{EpError, Loss};
use crate::exchange::Exchange;
use crate::layout::Layout;
use crate::output::{CombineOutput, DispatchOutput, zeroed};
use crate::pause::Pause;
use crate::placement::Placement;
use crate::plan::PlanPool;
use crate::rows::DispatchType;
use crate::signal::{MAX_EPOCH, MAX_INCARNATION};
use crate::slot::{self, DISPATCH, Expect};
use crate::stats::EpStats;
use ep_transport::{Epoch, Fabric, Rank, RankSet, RegionError};
use half::bf16;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

static NEXT_BUFFER: AtomicU64 = AtomicU64::new(1);

/// Dispatch and combine on the host, over any [`Fabric`].
///
/// All ranks of the group call the same operations in the same order. An operation
/// takes at most `time_out` when nobody waits for a dead rank but this one, and at
/// most three of them in any case, plus `decision_time_out` at its beginning.
#[derive(Debug)]
pub struct EpBuffer<F> {
    pub(crate) number: u64,
    pub(crate) rank: Rank,
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) placement: Placement,
    pub(crate) fabric: F,
    pub(crate) exchange: Exchange,
    pub(crate) stats: EpStats,
    pub(crate) plans: PlanPool,
    pub(crate) scratch: Scratch,
    /// [`EpBuffer::begin_round`] was called, and no dispatch since.
    pub(crate) round_begun: bool,
}

/// Memory that operations need while they run.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Meta data of one slot.
    pub(crate) meta: Vec<u8>,
    /// The tokens of a dispatch in FP8 as they travel.
    pub(crate) quantised: Vec<u8>,
    /// The scales of one of its rows.
    pub(crate) scales: Vec<u8>,
    /// One row in full precision.
    pub(crate) sum: Vec<f32>,
    /// One row.
    pub(crate) row: Vec<bf16>,
    /// Ranks whose partial sums go into a combine.
    pub(crate) ranks: RankSet,
    /// By rank, the next partial sum to be read.
    pub(crate) cursors: Vec<usize>,
}

impl<F: Fabric> EpBuffer<F> {
    /// A buffer on `fabric`, whose region must have at least
    /// [`Config::footprint`] bytes.
    ///
    /// # Errors
    /// [`EpError::Mismatch`], [`EpError::RegionTooSmall`] or
    /// [`EpError::Incarnation`] if the group does not fit the configuration.
    pub fn new(config: Config, fabric: F) -> Result<Self, EpError> {
        let rank = fabric.rank();
        for (what, of_config, of_fabric) in [
            ("capacity", config.capacity(), fabric.capacity()),
            ("capacity", config.capacity(), fabric.control().capacity()),
            ("lanes", config.lanes(), fabric.lanes()),
        ] {
            if of_config != of_fabric {
                return Err(EpError::Mismatch {
                    rank,
                    what,
                    config: of_config.into(),
                    fabric: of_fabric.into(),
                });
            }
        }
        if rank.0 >= config.capacity() {
            return Err(EpError::Limit {
                rank,
                what: "rank",
                value: rank.index(),
                min: 0,
                max: config.capacity() as usize - 1,
            });
        }
        let layout = Layout::new(&config);
        if fabric.region().len() < layout.bytes() {
            return Err(EpError::RegionTooSmall {
                rank,
                bytes: fabric.region().len(),
                needed: layout.bytes(),
            });
        }
        let incarnation = fabric.control().own_incarnation();
        if !(1..=MAX_INCARNATION).contains(&incarnation.0) {
            return Err(EpError::Incarnation {
                rank,
                incarnation,
                max: MAX_INCARNATION,
            });
        }
        let capacity = config.capacity() as usize;
        let hidden = config.hidden() as usize;
        let placement = config.placement();
        let rows = config.dispatch_type();
        let quantised = match rows {
            DispatchType::Bf16 => 0,
            DispatchType::Fp8(_) => rows.row_bytes(config.hidden()) as usize,
        } * config.max_tokens() as usize;
        let meta = slot::meta_stride(config.max_top_k()) as usize * config.max_tokens() as usize;
        Ok(Self {
            number: NEXT_BUFFER.fetch_add(1, Relaxed),
            rank,
            layout,
            placement,
            fabric,
            exchange: Exchange::new(capacity),
            stats: EpStats::new(capacity, placement.local_experts(rank) as usize),
            plans: PlanPool::default(),
            scratch: Scratch {
                meta: zeroed(rank, "slot meta data", meta)?,
                quantised: zeroed(rank, "rows in FP8", quantised)?,
                scales: vec![0; rows.scale_bytes(config.hidden()) as usize],
                sum: vec![0.0; hidden],
                row: vec![bf16::ZERO; hidden],
                ranks: RankSet::new(config.capacity()),
                cursors: vec![0; capacity],
            },
            round_begun: false,
            config,
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The network under the buffer.
    #[must_use]
    pub fn fabric(&self) -> &F {
        &self.fabric
    }

    /// Gives the network back.
    #[must_use]
    pub fn into_fabric(self) -> F {
        self.fabric
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &EpStats {
        &self.stats
    }

    /// Peers that were masked in the last operation, and why.
    #[must_use]
    pub fn losses(&self) -> &[Loss] {
        self.exchange.losses()
    }

    /// A place for the results of dispatches.
    ///
    /// # Errors
    /// [`EpError::Memory`] if there is not enough.
    pub fn dispatch_output(&self) -> Result<DispatchOutput, EpError> {
        DispatchOutput::new(&self.config, self.rank)
    }

    /// A place for the results of combines.
    ///
    /// # Errors
    /// [`EpError::Memory`] if there is not enough.
    pub fn combine_output(&self) -> Result<CombineOutput, EpError> {
        CombineOutput::new(&self.config, self.rank)
    }

    /// Zeroed memory for what the experts compute, in the shape of `recv_x` and always in bf16.
    ///
    /// # Errors
    /// [`EpError::Memory`] if there is not enough.
    pub fn expert_output(&self) -> Result<Vec<bf16>, EpError> {
        zeroed(self.rank, "expert_out", self.expert_output_len())
    }

    pub(crate) fn expert_output_len(&self) -> usize {
        self.placement.local_experts(self.rank) as usize
            * self.config.rows_per_expert()
            * self.config.hidden() as usize
    }

    /// Begins a round and returns the epoch of its first operation. Rounds need not be
    /// begun like this: the first dispatch does it too. But a rank that was thought
    /// dead, and is taken in again, goes on at another epoch when it begins a round,
    /// and a caller whose work depends on the epoch must know it beforehand.
    pub fn begin_round(&mut self) -> Epoch {
        self.round_begun = true;
        self.fabric.control().begin_round()
    }

    /// Begins an operation. While the agent has promised to wait for a decision,
    /// so does this, but not for ever.
    pub(crate) fn begin(&mut self) -> Result<Epoch, EpError> {
        let control = self.fabric.control();
        let began = Instant::now();
        let mut pause = Pause::default();
        let epoch = loop {
            if let Some(epoch) = control.try_begin() {
                break epoch;
            }
            if began.elapsed() >= self.config.decision_time_out() {
                tracing::warn!("no decision about an admission in time; going on without it");
                break control.begin_beyond_limit();
            }
            pause.wait();
        };
        if epoch.0 > MAX_EPOCH {
            control.end();
            return Err(EpError::EpochsExhausted {
                rank: self.rank,
                epoch,
                max: MAX_EPOCH,
            });
        }
        self.stats.begin();
        Ok(epoch)
    }

    /// Ends the operation, however it went.
    pub(crate) fn end<T>(&mut self, result: Result<T, RegionError>) -> Result<T, EpError> {
        self.fabric.control().end();
        self.stats.end();
        result.map_err(|source| EpError::Region {
            rank: self.rank,
            source,
        })
    }

    /// What a slot of this operation from `source` has to look like.
    pub(crate) fn expect(&self, kind: u32, epoch: Epoch, source: Rank) -> Expect {
        Expect {
            kind,
            epoch,
            incarnation: self.exchange.incarnation(source),
            hidden: self.config.hidden(),
            rows: match kind {
                DISPATCH => self.config.dispatch_type(),
                _ => DispatchType::Bf16,
            },
            max_tokens: self.config.max_tokens(),
            max_top_k: self.config.max_top_k(),
            local_experts: self.placement.local_experts(self.rank),
        }
    }
}
