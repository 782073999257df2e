//! From an offset to the live block that starts there.

use alloc::vec;
use alloc::vec::Vec;

use crate::nodes::{NIL, NoNodes, Nodes};
use crate::tiles::Tiles;

/// A hash table with linear probing over node indices; the keys are in the nodes.
///
/// # Invariants
/// The length is a power of two and at most half of the slots are taken, so a
/// probe ends at an empty slot. No empty slot lies between a node's home and it.
pub(crate) struct OffsetIndex {
    slots: Vec<u32>,
    taken: usize,
}

const MIN_SLOTS: usize = 64;

impl OffsetIndex {
    /// An index of all live blocks, of which there are `live`.
    pub(crate) fn build(tiles: &Tiles, live: usize) -> Result<Self, NoNodes> {
        let mut index = Self::with_room_for(live)?;
        let mut node = tiles.first();
        while node != NIL {
            if !tiles.nodes.is_free(node) {
                index.insert(&tiles.nodes, node);
            }
            node = tiles.nodes[node].next;
        }
        Ok(index)
    }

    fn with_room_for(count: usize) -> Result<Self, NoNodes> {
        let len = count.saturating_mul(2).max(MIN_SLOTS).next_power_of_two();
        let mut slots = Vec::new();
        slots.try_reserve_exact(len)?;
        slots.resize(len, NIL);
        Ok(Self { slots, taken: 0 })
    }

    /// Whether no further block can be inserted.
    pub(crate) fn is_full(&self) -> bool {
        (self.taken + 1) * 2 > self.slots.len()
    }

    /// Makes sure that one more block can be inserted.
    pub(crate) fn reserve(&mut self, nodes: &Nodes) -> Result<(), NoNodes> {
        if !self.is_full() {
            return Ok(());
        }
        let mut larger = Self::with_room_for(self.slots.len())?;
        for node in self.slots.iter().filter(|n| **n != NIL) {
            larger.insert(nodes, *node);
        }
        *self = larger;
        Ok(())
    }

    /// Fibonacci hashing: the top bits of the product mix all bits of the offset.
    fn home(&self, offset: u32) -> usize {
        let hash = u64::from(offset).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> (64 - self.slots.len().trailing_zeros())) as usize
    }

    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    /// Adds a live block. There must be room.
    pub(crate) fn insert(&mut self, nodes: &Nodes, node: u32) {
        let mut slot = self.home(nodes.span(node).offset);
        while self.slots[slot] != NIL {
            slot = self.after(slot);
        }
        self.slots[slot] = node;
        self.taken += 1;
    }

    /// The live block that starts at granule `offset`.
    pub(crate) fn find(&self, nodes: &Nodes, offset: u32) -> Option<u32> {
        let slot = self.slot_of(nodes, offset)?;
        Some(self.slots[slot])
    }

    fn slot_of(&self, nodes: &Nodes, offset: u32) -> Option<usize> {
        let mut slot = self.home(offset);
        loop {
            match self.slots[slot] {
                NIL => return None,
                node if nodes.span(node).offset == offset => return Some(slot),
                _ => slot = self.after(slot),
            }
        }
    }

    /// Takes out a block that is live (still).
    pub(crate) fn remove(&mut self, nodes: &Nodes, node: u32) {
        let Some(mut hole) = self.slot_of(nodes, nodes.span(node).offset) else {
            return;
        };
        self.taken -= 1;
        // Moves up what was pushed on by the removed one, so that no probe
        // ends too early.
        let mask = self.slots.len() - 1;
        let mut slot = self.after(hole);
        while self.slots[slot] != NIL {
            let home = self.home(nodes.span(self.slots[slot]).offset);
            if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[slot];
                hole = slot;
            }
            slot = self.after(slot);
        }
        self.slots[hole] = NIL;
    }

    /// Gives back slots that the live blocks do not need.
    pub(crate) fn shrink_to_fit(&mut self, nodes: &Nodes) {
        let needed = self
            .taken
            .saturating_mul(2)
            .max(MIN_SLOTS)
            .next_power_of_two();
        if needed < self.slots.len() {
            let mut smaller = Self {
                slots: vec![NIL; needed],
                taken: 0,
            };
            for node in self.slots.iter().filter(|n| **n != NIL) {
                smaller.insert(nodes, *node);
            }
            *self = smaller;
        }
    }
}
