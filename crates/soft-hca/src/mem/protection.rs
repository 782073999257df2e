//! What the process may do with its own memory.

use std::fs;
use std::ops::Range;

/// Whether all of `range` is mapped readable, and writable where `writable`;
/// `None` where the system does not say, as without `/proc`.
pub(super) fn allows(range: &Range<usize>, writable: bool) -> Option<bool> {
    let maps = fs::read("/proc/self/maps").ok()?;
    // Names of mapped files may be of any bytes; nothing else is.
    Some(covers(&String::from_utf8_lossy(&maps), range, writable))
}

/// As [`allows`], by the text of `/proc/PID/maps`: a mapping a line, by address.
fn covers(maps: &str, range: &Range<usize>, writable: bool) -> bool {
    let mut next = range.start;
    for line in maps.lines() {
        let Some((start, end, access)) = mapping(line) else {
            continue;
        };
        if end <= next {
            continue;
        }
        let [read, write, ..] = access.as_bytes() else {
            return false;
        };
        if start > next || *read != b'r' || writable && *write != b'w' {
            return false;
        }
        next = end;
        if next >= range.end {
            return true;
        }
    }
    range.is_empty()
}

/// Start, end and access of a mapping: `start-end rwxp ...`.
fn mapping(line: &str) -> Option<(usize, usize, &str)> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00001000-00003000 r--p 00000000 00:00 0 \n\
00003000-00005000 rw-p 00000000 08:01 77   /a file\n\
00005000-00006000 rw-s 00000000 00:00 0 \n\
00006000-00007000 ---p 00000000 00:00 0 \n\
00009000-0000a000 rw-p 00000000 00:00 0 [heap]\n";

    #[test]
    fn every_page_has_to_be_there_and_to_allow_it() {
        for (range, read, write) in [
            (0x1000..0x3000, true, false),
            (0x3001..0x4fff, true, true),
            // Over several mappings.
            (0x3000..0x6000, true, true),
            (0x2fff..0x3001, true, false),
            // Into one without access, into a hole, from a hole, over one.
            (0x5000..0x6001, false, false),
            (0x9000..0xa001, false, false),
            (0x8fff..0x9001, false, false),
            (0x3000..0x9001, false, false),
            (0xb000..0xb001, false, false),
        ] {
            assert_eq!(covers(MAPS, &range, false), read, "{range:x?}");
            assert_eq!(covers(MAPS, &range, true), write, "{range:x?}");
        }
    }
}
