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
    low: u32,
    /// Free: next in the class list. Live: high half of the stamp. Spare: next spare.
    high: u32,
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
    pub(crate) fn free(offset: u32, size: u32, prev: u32, next: u32) -> Self {
        Self {
            offset,
            size,
            prev,
            next,
            low: NIL,
            high: NIL,
        }
    }

    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.high & (LIVE >> 32) as u32 == 0
    }

    /// The stamp of a live block; without [`LIVE`] for any other node.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }

    #[inline]
    pub(crate) fn set_stamp(&mut self, stamp: u64) {
        self.low = stamp as u32;
        self.high = (stamp >> 32) as u32;
    }
}

/// All nodes of a heap.
///
/// # Invariants
/// Node 0 is the sentinel: it closes the ring of neighbours, counts as live and
/// is never freed. Nodes that are no block form the spare list.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    spare: u32,
    spares: u32,
}

impl Nodes {
    /// No blocks, `spares` nodes that stand ready.
    pub(crate) fn with_spares(spares: u32) -> Self {
        let mut nodes = Self {
            nodes: vec![Node::free(0, 0, NIL, NIL); 1 + spares as usize],
            spare: NIL,
            spares: 0,
        };
        nodes[NIL].set_stamp(LIVE);
        for node in (1..=spares).rev() {
            nodes.recycle(node);
        }
        nodes
    }

    /// Nodes that stand ready.
    #[inline]
    pub(crate) fn spares(&self) -> u32 {
        self.spares
    }

    /// Nodes that are blocks.
    pub(crate) fn in_use(&self) -> usize {
        self.nodes.len() - 1 - self.spares as usize
    }

    /// Makes sure that `count` spares stand ready.
    #[cold]
    pub(crate) fn reserve(&mut self, count: u32) -> Result<(), NoNodes> {
        let missing = count.saturating_sub(self.spares) as usize;
        let len = self.nodes.len();
        if missing == 0 {
            return Ok(());
        }
        if missing > LAST - (len - 1) {
            return Err(NoNodes);
        }
        // By half again, so that the cost per node stays constant.
        let ample = missing.max(len / 2 + 16).min(LAST - (len - 1));
        let add = match self.nodes.try_reserve_exact(ample) {
            Ok(()) => ample,
            Err(_) => {
                self.nodes.try_reserve_exact(missing)?;
                missing
            }
        };
        self.nodes.resize(len + add, Node::free(0, 0, NIL, NIL));
        // Backwards, so that spares come out in memory order.
        for node in (len..len + add).rev() {
            self.recycle(node as u32);
        }
        Ok(())
    }

    /// Gives the spares at the end of the storage back to the global allocator.
    pub(crate) fn shrink_to_fit(&mut self) {
        let mut is_spare = vec![false; self.nodes.len()];
        let mut node = self.spare;
        while node != NIL {
            is_spare[node as usize] = true;
            node = self[node].high;
        }
        let keep = is_spare.iter().rposition(|s| !s).map_or(1, |last| last + 1);
        self.nodes.truncate(keep);
        self.nodes.shrink_to_fit();
        self.spare = NIL;
        self.spares = 0;
        for node in (0..keep).rev().filter(|n| is_spare[*n]) {
            self.recycle(node as u32);
        }
    }

    /// Takes a spare. One must stand ready.
    #[inline]
    pub(crate) fn take(&mut self, content: Node) -> u32 {
        let node = self.spare;
        let slot = &mut self.nodes[node as usize];
        self.spare = slot.high;
        self.spares -= 1;
        *slot = content;
        node
    }

    /// Makes `node`, which is no block any more, a spare.
    #[inline]
    pub(crate) fn recycle(&mut self, node: u32) {
        self.nodes[node as usize].high = self.spare;
        self.spare = node;
        self.spares += 1;
    }

    #[inline]
    pub(crate) fn get(&self, node: u32) -> Option<&Node> {
        self.nodes.get(node as usize)
    }

    #[inline]
    pub(crate) fn links(&self, node: u32) -> (u32, u32) {
        let node = &self[node];
        (node.low, node.high)
    }

    #[inline]
    pub(crate) fn set_links(&mut self, node: u32, back: u32, forth: u32) {
        let node = &mut self[node];
        node.low = back;
        node.high = forth;
    }

    #[inline]
    pub(crate) fn set_link_back(&mut self, node: u32, back: u32) {
        self[node].low = back;
    }

    #[inline]
    pub(crate) fn set_link_forth(&mut self, node: u32, forth: u32) {
        self[node].high = forth;
    }
}

impl core::ops::Index<u32> for Nodes {
    type Output = Node;
    #[inline]
    fn index(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }
}

impl core::ops::IndexMut<u32> for Nodes {
    #[inline]
    fn index_mut(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
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
