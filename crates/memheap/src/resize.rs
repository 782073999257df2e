//! Growing and shrinking the managed range.

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
        let records = self.tiles.nodes.blocks();
        let room = self.tiles.nodes.reserve(1);
        room.map_err(|_| GrowError::NoRecords { records })?;
        let from = self.units();
        let added = (grown >> self.shift) as u32 - from;
        if added != 0 {
            self.tiles.append(from, added);
        }
        self.set_extent(grown, self.free + added);
        Ok(())
    }

    /// Gives up what is free at the end, and the memory of unused records as far
    /// as it lies behind the last record in use. Returns the new size in bytes: the end of the highest live block.
    ///
    /// Takes time in proportion to the number of records.
    pub fn shrink_to_fit(&mut self) -> u64 {
        match self.tiles.cut_end() {
            Some((offset, size)) => self.set_extent(self.bytes(offset), self.free - size),
            None => self.set_extent(self.capacity(), self.free),
        }
        self.tiles.nodes.shrink_to_fit();
        if let Some(index) = &mut self.index {
            index.shrink_to_fit(&self.tiles.nodes);
        }
        self.size
    }
}
