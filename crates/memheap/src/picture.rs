//! Heaps to look at.

use core::fmt;

use crate::Heap;

/// Cells of a picture when the format string asks for no width.
const DEFAULT_CELLS: usize = 64;

/// Draws the heap as a line of text: one cell for each equal part of the heap,
/// `.` where nothing is allocated, `#` where everything is, `+` in between. The
/// format width sets the number of cells: `{heap:32}`.
///
/// ```
/// let mut heap = memheap::Heap::new(1024);
/// let _ring = heap.alloc(300, 1)?;
/// assert_eq!(format!("{heap:8}"), "[##+.....] 300 of 1024 bytes in 1 block");
/// # Ok::<(), memheap::AllocError>(())
/// ```
impl fmt::Display for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let capacity = self.capacity();
        // No cell stands for less than a byte.
        let most = usize::try_from(capacity).unwrap_or(usize::MAX);
        let cells = f.width().unwrap_or(DEFAULT_CELLS).min(most).max(1);
        let mut blocks = self.blocks().peekable();
        f.write_char('[')?;
        for cell in 0..cells {
            let bound = |cell: usize| {
                let at = u128::from(capacity) * cell as u128 / cells as u128;
                // At most `capacity`.
                at as u64
            };
            let (start, end) = (bound(cell), bound(cell + 1));
            let mut used = 0;
            while let Some(block) = blocks.next_if(|block| block.end <= end) {
                used += block.end - block.start.max(start);
            }
            if let Some(block) = blocks.peek()
                && block.start < end
            {
                used += end - block.start.max(start);
            }
            f.write_char(match used {
                0 => '.',
                used if used == end - start => '#',
                _ => '+',
            })?;
        }
        let stats = self.stats();
        let plural = if stats.blocks == 1 { "" } else { "s" };
        write!(
            f,
            "] {} of {capacity} bytes in {} block{plural}",
            stats.used, stats.blocks
        )
    }
}

#[cfg(feature = "svg")]
impl Heap {
    /// An SVG picture of the heap: 32 rows from the lowest offset, top left, to
    /// the highest, with a rectangle for each live block and its range as tooltip.
    pub fn to_svg(&self) -> alloc::string::String {
        use alloc::format;
        use alloc::string::ToString;
        use svg::Document;
        use svg::node::element::{Group, Rectangle, Title};

        const ROWS: u64 = 32;
        const WIDTH: f64 = 1024.0;
        const ROW_HEIGHT: f64 = 12.0;
        const BAR_HEIGHT: f64 = 10.0;
        const COLOURS: [&str; 4] = ["#3b6ea5", "#5b8c5a", "#a5673b", "#7a5ba5"];

        let row_bytes = self.capacity().div_ceil(ROWS).max(1);
        let bar = |row: u64, from: f64, to: f64| {
            Rectangle::new()
                .set("x", from * WIDTH)
                .set("y", row as f64 * ROW_HEIGHT)
                .set("width", (to - from) * WIDTH)
                .set("height", BAR_HEIGHT)
        };
        let mut picture = Document::new()
            .set("viewBox", (0.0, 0.0, WIDTH, ROWS as f64 * ROW_HEIGHT))
            .add(Title::new(self.to_string()));
        for row in 0..ROWS {
            picture = picture.add(bar(row, 0.0, 1.0).set("fill", "#e8e8e8"));
        }
        for (i, block) in self.blocks().enumerate() {
            let label = format!("{}..{}", block.start, block.end);
            let mut group = Group::new()
                .set("fill", COLOURS[i % COLOURS.len()])
                .add(Title::new(label));
            for row in block.start / row_bytes..=(block.end - 1) / row_bytes {
                let in_row = |at: u64| {
                    let at = at.clamp(row * row_bytes, (row + 1) * row_bytes);
                    (at - row * row_bytes) as f64 / row_bytes as f64
                };
                group = group.add(bar(row, in_row(block.start), in_row(block.end)));
            }
            picture = picture.add(group);
        }
        picture.to_string()
    }
}
