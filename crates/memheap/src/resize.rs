//! Growing and shrinking the managed range.

use crate::classes::class_of;
use crate::nodes::{self, NIL, Node};
use crate::{GrowError, Heap};

impl Heap {
    /// Adds `by` bytes at the end. Live blocks stay where they are.
    ///
    /// # Errors
    /// See [`GrowError`]; the heap is as it was.
    pub fn grow(&mut self, by: u64) -> Result<(), GrowError> {
        let size = self.size;
        let limit = u64::MAX >> u32::BITS.saturating_sub(self.shift);
        let grown = size.checked_add(by).filter(|grown| *grown <= limit);
        let grown = grown.ok_or(GrowError::TooLarge { size, by, limit })?;
        let records = self.records();
        let room = nodes::reserve(&mut self.nodes, &mut self.spares, 1);
        room.map_err(|_| GrowError::NoRecords { records })?;
        let from = self.units();
        let added = (grown >> self.shift) as u32 - from;
        self.set_extent(grown, self.free + added);
        if added != 0 {
            self.append(from, added);
        }
        Ok(())
    }

    /// Gives up what is free at the end, and the memory of unused records.
    /// Returns the new size in bytes: the end of the highest live block.
    ///
    /// Takes time in proportion to the number of records.
    pub fn shrink_to_fit(&mut self) -> u64 {
        let last = self.nodes[NIL as usize].prev;
        let Node {
            offset, size, prev, ..
        } = self.nodes[last as usize];
        if last != NIL && self.nodes[last as usize].is_free() {
            self.classes.remove(&mut self.nodes, class_of(size), last);
            self.nodes[prev as usize].next = NIL;
            self.nodes[NIL as usize].prev = prev;
            self.spares.give(&mut self.nodes, last);
            self.set_extent(self.bytes(offset), self.free - size);
        } else {
            self.size = self.capacity();
        }
        nodes::shrink_to_fit(&mut self.nodes, &mut self.spares);
        if let Some(index) = &mut self.index {
            index.shrink_to_fit(&self.nodes);
        }
        self.size
    }

    /// Adds free granules at the end, uncounted. A spare node must stand ready.
    pub(crate) fn append(&mut self, offset: u32, units: u32) {
        let last = self.nodes[NIL as usize].prev;
        if self.nodes[last as usize].is_free() {
            let size = self.nodes[last as usize].size;
            self.classes
                .resize(&mut self.nodes, last, size, size + units);
        } else {
            let node = self
                .spares
                .take(&mut self.nodes, Node::free(offset, units, last, NIL));
            self.nodes[last as usize].next = node;
            self.nodes[NIL as usize].prev = node;
            self.classes.push(&mut self.nodes, class_of(units), node);
        }
    }
}
