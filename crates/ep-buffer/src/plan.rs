//! What a dispatch remembers for its combine.

use crate::config::Config;
use crate::placement::Placement;
use crate::slot::Received;
use ep_transport::{Epoch, Incarnation, Rank, RankSet};
use std::sync::Arc;

/// Owner of a choice that is -1.
const NOBODY: Rank = Rank(u32::MAX);

/// Who sent what to whom in one dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of the buffer that made it.
    pub(crate) buffer: u64,
    pub(crate) epoch: Epoch,
    pub(crate) tokens: usize,
    pub(crate) top_k: usize,
    /// Ranks whose tokens are in `recv_x`, this one included.
    pub(crate) answered: RankSet,
    /// Their lives.
    pub(crate) incarnations: Vec<Incarnation>,
    /// Owner of each choice, `[tokens][top_k]`.
    pub(crate) owners: Vec<Rank>,
    /// By destination, the tokens that go there, ascending.
    pub(crate) sent: Vec<Vec<u32>>,
    /// By source, what came and where it was put.
    pub(crate) received: Vec<Received>,
}

impl Plan {
    pub(crate) fn new(buffer: u64, config: &Config) -> Self {
        let capacity = config.capacity() as usize;
        let tokens = config.max_tokens() as usize;
        let top_k = config.max_top_k() as usize;
        Self {
            buffer,
            epoch: Epoch(0),
            tokens: 0,
            top_k: 0,
            answered: RankSet::new(config.capacity()),
            incarnations: vec![Incarnation(0); capacity],
            owners: Vec::with_capacity(tokens * top_k),
            sent: (0..capacity).map(|_| Vec::with_capacity(tokens)).collect(),
            received: (0..capacity)
                .map(|_| Received::with_capacity(tokens, top_k))
                .collect(),
        }
    }

    /// Finds out which token goes where. The choices have been checked.
    pub(crate) fn route(&mut self, placement: &Placement, topk_idx: &[i32], top_k: usize) {
        self.tokens = topk_idx.len() / top_k;
        self.top_k = top_k;
        self.owners.clear();
        self.answered.clear();
        self.sent.iter_mut().for_each(Vec::clear);
        self.received.iter_mut().for_each(Received::clear);
        for (token, choices) in topk_idx.chunks_exact(top_k).enumerate() {
            let token = token as u32;
            for choice in choices {
                let owner = u32::try_from(*choice).map_or(NOBODY, |e| placement.owner(e));
                self.owners.push(owner);
                if let Some(list) = self.sent.get_mut(owner.index())
                    && list.last() != Some(&token)
                {
                    list.push(token);
                }
            }
        }
    }

    /// The owners of a token's choices.
    pub(crate) fn owners_of(&self, token: usize) -> &[Rank] {
        &self.owners[token * self.top_k..(token + 1) * self.top_k]
    }

    /// One bit for each choice of a token whose owner is not in `present`.
    pub(crate) fn missing(&self, token: usize, present: &RankSet) -> u32 {
        let mut bits = 0;
        for (k, owner) in self.owners_of(token).iter().enumerate() {
            if *owner != NOBODY && !present.contains(*owner) {
                bits |= 1 << k;
            }
        }
        bits
    }
}

/// Ties a combine to its dispatch. Dropping it without a combine is fine.
#[derive(Clone, Debug)]
pub struct DispatchHandle {
    pub(crate) plan: Arc<Plan>,
}

impl DispatchHandle {
    /// The epoch of the dispatch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.plan.epoch
    }

    /// Tokens that this rank brought to the dispatch.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.plan.tokens
    }

    /// Ranks whose tokens arrived, this one included.
    #[must_use]
    pub fn answered(&self) -> &RankSet {
        &self.plan.answered
    }
}

/// Plans for reuse, so that a dispatch allocates nothing once there are enough for
/// all handles that live at once.
#[derive(Debug, Default)]
pub(crate) struct PlanPool(Vec<Arc<Plan>>);

impl PlanPool {
    /// A plan that no handle refers to.
    pub(crate) fn take(&mut self, make: impl FnOnce() -> Plan) -> Arc<Plan> {
        match self.0.iter().position(|plan| Arc::strong_count(plan) == 1) {
            Some(free) => self.0.swap_remove(free),
            None => Arc::new(make()),
        }
    }

    /// Keeps `plan` for the time after its handle, and makes that handle.
    pub(crate) fn keep(&mut self, plan: Arc<Plan>) -> DispatchHandle {
        self.0.push(Arc::clone(&plan));
        DispatchHandle { plan }
    }
}
