//! Storage of the bookkeeping: one node per live or free block.

use alloc::collections::TryReserveError;
use alloc::vec;
use alloc::vec::Vec;

/// The sentinel's index: "no node", and the neighbour at both ends of the heap.
pub(crate) const NIL: u32 = 0;
/// Highest node index, so that no link ever has the bit that marks live blocks.
const LAST: usize = (1 << 31) - 1;

/// Who a block is next to. 16 bytes, four to a cache line: freeing a block in a
/// large heap waits for this to come from memory, and for nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    /// Neighbour below.
    pub(crate) prev: u32,
    /// Neighbour above.
    pub(crate) next: u32,
    /// Free: previous in the class list, unless first. Live: low half of the stamp.
    pub(crate) back: u32,
    /// Free: next in the class list. Live: high half of the stamp. Spare: next spare.
    pub(crate) forth: u32,
}

impl Links {
    const NONE: Self = Self {
        prev: NIL,
        next: NIL,
        back: NIL,
        forth: NIL,
    };

    /// The stamp of a live block; without the bit that marks it for any other node.
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

/// What a block covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// First granule.
    pub(crate) offset: u32,
    /// Granules.
    pub(crate) size: u32,
}

impl Span {
    const NONE: Self = Self { offset: 0, size: 0 };
}

/// All nodes of a heap.
///
/// # Invariants
/// Node 0 is the sentinel: it closes the ring of neighbours, is not free and has
/// no stamp. `free` has the bit of each node that is a free block. Nodes that are
/// no block form the spare stack, linked through `forth`.
#[derive(Debug)]
pub(crate) struct Nodes {
    links: Vec<Links>,
    spans: Vec<Span>,
    /// Apart from the nodes, so that freeing a block need not fetch neighbours
    /// that are live.
    free: Vec<u64>,
    spare: u32,
    spares: u32,
}

impl Nodes {
    /// No blocks, and some spares.
    pub(crate) fn new() -> Self {
        let mut nodes = Self {
            links: vec![Links::NONE; 64],
            spans: vec![Span::NONE; 64],
            free: vec![0],
            spare: NIL,
            spares: 0,
        };
        nodes.make_spare(1);
        nodes
    }

    /// Nodes that are blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.links.len() - 1 - self.spares as usize
    }

    pub(crate) fn spares(&self) -> u32 {
        self.spares
    }

    #[inline]
    pub(crate) fn stamp(&self, node: u32) -> Option<u64> {
        self.links.get(node as usize).map(Links::stamp)
    }

    #[inline]
    pub(crate) fn span(&self, node: u32) -> Span {
        self.spans[node as usize]
    }

    pub(crate) fn is_free(&self, node: u32) -> bool {
        self.free[node as usize / 64] >> (node % 64) & 1 != 0
    }

    /// For work on many nodes: what indexing would fetch again and again.
    #[inline]
    pub(crate) fn hold(&mut self) -> Held<'_> {
        Held {
            links: &mut self.links,
            spans: &mut self.spans,
            free: &mut self.free,
            spare: &mut self.spare,
            spares: &mut self.spares,
        }
    }

    /// Makes sure that `count` spares stand ready.
    pub(crate) fn reserve(&mut self, count: u32) -> Result<(), NoNodes> {
        let missing = count.saturating_sub(self.spares) as usize;
        if missing == 0 {
            return Ok(());
        }
        let len = self.links.len();
        let room = LAST + 1 - len;
        if missing > room {
            return Err(NoNodes);
        }
        // By half again, so that the cost per node stays constant.
        let ample = missing.max(len / 2).min(room);
        let add = if self.make_capacity(ample).is_ok() {
            ample
        } else {
            self.make_capacity(missing)?;
            missing
        };
        self.links.resize(len + add, Links::NONE);
        self.spans.resize(len + add, Span::NONE);
        self.free.resize((len + add).div_ceil(64), 0);
        self.make_spare(len);
        Ok(())
    }

    fn make_capacity(&mut self, add: usize) -> Result<(), NoNodes> {
        let words = (self.links.len() + add).div_ceil(64);
        self.links.try_reserve_exact(add)?;
        self.spans.try_reserve_exact(add)?;
        self.free.try_reserve_exact(words - self.free.len())?;
        Ok(())
    }

    /// Stacks the nodes from `first` on so that they come out in memory order.
    fn make_spare(&mut self, first: usize) {
        for node in (first..self.links.len()).rev() {
            self.hold().give(node as u32);
        }
    }

    /// Gives the spares at the end of the storage back to the global allocator.
    pub(crate) fn shrink_to_fit(&mut self) {
        let mut is_spare = vec![false; self.links.len()];
        let mut node = self.spare;
        while node != NIL {
            is_spare[node as usize] = true;
            node = self[node].forth;
        }
        let keep = is_spare.iter().rposition(|s| !s).map_or(1, |last| last + 1);
        self.links.truncate(keep);
        self.links.shrink_to_fit();
        self.spans.truncate(keep);
        self.spans.shrink_to_fit();
        self.free.truncate(keep.div_ceil(64));
        self.free.shrink_to_fit();
        (self.spare, self.spares) = (NIL, 0);
        for node in (0..keep).rev().filter(|n| is_spare[*n]) {
            self.hold().give(node as u32);
        }
    }
}

impl core::ops::Index<u32> for Nodes {
    type Output = Links;
    #[inline]
    fn index(&self, node: u32) -> &Links {
        &self.links[node as usize]
    }
}

/// The nodes, with the addresses of their storage in registers.
pub(crate) struct Held<'a> {
    links: &'a mut [Links],
    spans: &'a mut [Span],
    free: &'a mut [u64],
    spare: &'a mut u32,
    spares: &'a mut u32,
}

impl Held<'_> {
    #[inline(always)]
    pub(crate) fn span(&mut self, node: u32) -> &mut Span {
        &mut self.spans[node as usize]
    }

    #[inline(always)]
    pub(crate) fn is_free(&self, node: u32) -> bool {
        self.free[node as usize / 64] >> (node % 64) & 1 != 0
    }

    #[inline(always)]
    pub(crate) fn set_free(&mut self, node: u32) {
        self.free[node as usize / 64] |= 1 << (node % 64);
    }

    #[inline(always)]
    pub(crate) fn clear_free(&mut self, node: u32) {
        self.free[node as usize / 64] &= !(1 << (node % 64));
    }

    /// Takes a spare. One must stand ready.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> u32 {
        let node = *self.spare;
        *self.spare = self[node].forth;
        *self.spares -= 1;
        node
    }

    /// Makes `node`, which is no block any more, a spare.
    #[inline(always)]
    pub(crate) fn give(&mut self, node: u32) {
        self[node].forth = *self.spare;
        *self.spare = node;
        *self.spares += 1;
    }
}

impl core::ops::Index<u32> for Held<'_> {
    type Output = Links;
    #[inline(always)]
    fn index(&self, node: u32) -> &Links {
        &self.links[node as usize]
    }
}

impl core::ops::IndexMut<u32> for Held<'_> {
    #[inline(always)]
    fn index_mut(&mut self, node: u32) -> &mut Links {
        &mut self.links[node as usize]
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
