//! Growing and shrinking the managed range.

use crate::classes::class_of;
use crate::nodes::{NIL, Node};
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
        let records = self.nodes.in_use();
        let room = self.nodes.reserve(1);
        room.map_err(|_| GrowError::NoRecords { records })?;
        let from = self.units();
        self.size = grown;
        let added = self.units() - from;
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
        let last = self.nodes[NIL].prev;
        let Node {
            offset, size, prev, ..
        } = self.nodes[last];
        if last != NIL && self.nodes[last].is_free() {
            self.classes.remove(&mut self.nodes, class_of(size), last);
            self.nodes[prev].next = NIL;
            self.nodes[NIL].prev = prev;
            self.nodes.recycle(last);
            self.free -= size;
            self.size = self.bytes(offset);
        } else {
            self.size = self.capacity();
        }
        self.nodes.shrink_to_fit();
        if let Some(index) = &mut self.index {
            index.shrink_to_fit(&self.nodes);
        }
        self.size
    }

    /// Adds free granules at the end. A spare node must stand ready.
    pub(crate) fn append(&mut self, offset: u32, units: u32) {
        let last = self.nodes[NIL].prev;
        self.free += units;
        if self.nodes[last].is_free() {
            let size = self.nodes[last].size;
            self.resize_free(class_of(size), last, size + units);
        } else {
            let node = self.nodes.take(Node::free(offset, units, last, NIL));
            self.nodes[last].next = node;
            self.nodes[NIL].prev = node;
            self.classes.push(&mut self.nodes, class_of(units), node);
        }
    }
}
