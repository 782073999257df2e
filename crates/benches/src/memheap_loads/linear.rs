//! First fit by a scan over a fixed table, after the description of the control
//! buffer heap of Mooncake EP: entries are cut but never merged, and what no
//! entry holds comes from the end.

use super::load::{Load, Request};
use super::run::Contender;

struct Entry {
    offset: u64,
    size: u64,
    used: bool,
}

/// The table. The original ends at 1,024 entries; this one has room for the
/// load, since blocks beyond the end cannot be freed.
pub struct LinearScan {
    entries: Vec<Entry>,
    limit: usize,
    end: u64,
    size: u64,
}

impl LinearScan {
    fn add(&mut self, offset: u64, size: u64, used: bool) {
        self.entries.push(Entry { offset, size, used });
    }
}

impl Contender for LinearScan {
    type Handle = u64;

    fn build(load: &Load) -> Option<Self> {
        let limit = 4 * load.slots;
        // A scan over more takes minutes.
        (load.slots <= 2_000).then(|| Self {
            entries: Vec::with_capacity(limit),
            limit,
            end: 0,
            // Without merging, the heap must be ample.
            size: 16 * load.heap_size(),
        })
    }

    fn alloc(&mut self, request: Request) -> Option<(u64, u64)> {
        let Request { size, align } = request;
        let room = self.limit - self.entries.len();
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            let at = entry.offset.next_multiple_of(align);
            let end = entry.offset + entry.size;
            if entry.used || at + size > end {
                continue;
            }
            let (front, back) = (at - entry.offset, end - at - size);
            if usize::from(front > 0) + usize::from(back > 0) > room {
                continue;
            }
            let offset = entry.offset;
            self.entries[i] = Entry {
                offset: at,
                size,
                used: true,
            };
            if front > 0 {
                self.add(offset, front, false);
            }
            if back > 0 {
                self.add(at + size, back, false);
            }
            return Some((at, at));
        }
        let at = self.end.next_multiple_of(align);
        if room == 0 || at + size > self.size {
            return None;
        }
        self.end = at + size;
        self.add(at, size, true);
        Some((at, at))
    }

    fn free(&mut self, offset: u64) {
        let entry = self.entries.iter_mut();
        if let Some(entry) = entry.into_iter().find(|e| e.used && e.offset == offset) {
            entry.used = false;
        }
    }
}
