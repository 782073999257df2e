//! Storage of the bookkeeping: one node per live or free block.

use alloc::collections::TryReserveError;
use alloc::vec;
use alloc::vec::Vec;

use crate::generation::Stamp;

/// The sentinel's index: "no node", and the neighbour at both ends of the heap.
pub(crate) const NIL: u32 = 0;
/// Set in the stamp of every live block and in no link.
pub(crate) const LIVE: u64 = 1 << 63;
/// Highest node index, so that no link ever has the bit that marks live blocks.
const LAST: usize = (1 << 31) - 1;

/// A block of the heap, live or free, or a spare record.
///
/// 24 bytes: a program with many blocks waits for these to come from memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// First granule.
    pub(crate) offset: u32,
    /// Granules.
    pub(crate) size: u32,
    /// Neighbour below.
    pub(crate) prev: u32,
    /// Neighbour above.
    pub(crate) next: u32,
    /// Free: previous in the class list. Live: low half of the stamp.
    pub(crate) back: u32,
    /// Free: next in the class list. Live: high half of the stamp. Spare: next spare.
    pub(crate) forth: u32,
}

impl Node {
    /// A live block.
    #[inline]
    pub(crate) fn live(offset: u32, size: u32, prev: u32, next: u32, stamp: Stamp) -> Self {
        let mut node = Self::free(offset, size, prev, next);
        node.set_stamp(stamp.get());
        node
    }

    /// A block that is free but in no list yet.
    #[inline]
    pub(crate) const fn free(offset: u32, size: u32, prev: u32, next: u32) -> Self {
        Self {
            offset,
            size,
            prev,
            next,
            back: NIL,
            forth: NIL,
        }
    }

    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.forth & (LIVE >> 32) as u32 == 0
    }

    /// The stamp of a live block; without [`LIVE`] for any other node.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        u64::from(self.forth) << 32 | u64::from(self.back)
    }

    #[inline]
    pub(crate) fn set_stamp(&mut self, stamp: u64) {
        self.back = stamp as u32;
        self.forth = (stamp >> 32) as u32;
    }
}

/// The stack of nodes that are no block, linked through the nodes.
#[derive(Debug)]
pub(crate) struct Spares {
    first: u32,
    count: u32,
}

impl Spares {
    const NONE: Self = Self {
        first: NIL,
        count: 0,
    };

    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes a spare. One must stand ready.
    #[inline]
    pub(crate) fn take(&mut self, nodes: &mut [Node], content: Node) -> u32 {
        let node = self.first;
        let slot = &mut nodes[node as usize];
        self.first = slot.forth;
        self.count -= 1;
        *slot = content;
        node
    }

    /// Makes `node`, which is no block any more, a spare.
    #[inline]
    pub(crate) fn give(&mut self, nodes: &mut [Node], node: u32) {
        nodes[node as usize].forth = self.first;
        self.first = node;
        self.count += 1;
    }
}

/// No blocks: the sentinel, which closes the ring of neighbours, counts as live
/// and is never freed, and `count` spares.
pub(crate) fn with_spares(count: u32) -> (Vec<Node>, Spares) {
    let mut nodes = vec![Node::free(0, 0, NIL, NIL); 1 + count as usize];
    nodes[NIL as usize].set_stamp(LIVE);
    let mut spares = Spares::NONE;
    for node in (1..=count).rev() {
        spares.give(&mut nodes, node);
    }
    (nodes, spares)
}

/// Makes sure that `count` spares stand ready.
#[cold]
pub(crate) fn reserve(
    nodes: &mut Vec<Node>,
    spares: &mut Spares,
    count: u32,
) -> Result<(), NoNodes> {
    let missing = count.saturating_sub(spares.count) as usize;
    let len = nodes.len();
    if missing == 0 {
        return Ok(());
    }
    if missing > LAST - (len - 1) {
        return Err(NoNodes);
    }
    // By half again, so that the cost per node stays constant.
    let ample = missing.max(len / 2 + 16).min(LAST - (len - 1));
    let add = match nodes.try_reserve_exact(ample) {
        Ok(()) => ample,
        Err(_) => {
            nodes.try_reserve_exact(missing)?;
            missing
        }
    };
    nodes.resize(len + add, Node::free(0, 0, NIL, NIL));
    // Backwards, so that spares come out in memory order.
    for node in (len..len + add).rev() {
        spares.give(nodes, node as u32);
    }
    Ok(())
}

/// Gives the spares at the end of the storage back to the global allocator.
pub(crate) fn shrink_to_fit(nodes: &mut Vec<Node>, spares: &mut Spares) {
    let mut is_spare = vec![false; nodes.len()];
    let mut node = spares.first;
    while node != NIL {
        is_spare[node as usize] = true;
        node = nodes[node as usize].forth;
    }
    let keep = is_spare.iter().rposition(|s| !s).map_or(1, |last| last + 1);
    nodes.truncate(keep);
    nodes.shrink_to_fit();
    *spares = Spares::NONE;
    for node in (0..keep).rev().filter(|n| is_spare[*n]) {
        spares.give(nodes, node as u32);
    }
}

/// The global allocator has no room for more nodes, or indices ran out.
#[derive(Debug)]
pub(crate) struct NoNodes;

impl From<TryReserveError> for NoNodes {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}
