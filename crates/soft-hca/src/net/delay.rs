//! Datagrams that are under way for longer.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::Path;

/// Datagrams that leave later, in the order of their time.
#[derive(Debug, Default)]
pub(crate) struct DelayLine {
    held: BinaryHeap<Held>,
    count: u64,
}

/// A datagram with its time. The greatest is the one that leaves first.
#[derive(Debug)]
struct Held {
    due: Instant,
    number: u64,
    path: Path,
    datagram: Box<[u8]>,
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

impl DelayLine {
    /// Holds a datagram until `due`.
    pub(crate) fn push(&mut self, due: Instant, path: Path, datagram: &[u8]) {
        self.count += 1;
        self.held.push(Held {
            due,
            number: self.count,
            path,
            datagram: datagram.into(),
        });
    }

    /// When the next one leaves.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.held.peek().map(|held| held.due)
    }

    /// The next one that leaves by now.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Path, Box<[u8]>)> {
        self.due().filter(|due| *due <= now)?;
        self.held.pop().map(|held| (held.path, held.datagram))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn datagrams_leave_by_time_and_then_in_order() {
        let path = Path {
            remote: std::net::Ipv4Addr::LOCALHOST.into(),
            src_port: 0,
            traffic_class: 0,
            grh: None,
        };
        let now = Instant::now();
        let mut line = DelayLine::default();
        for (millis, name) in [(2, b"c"), (1, b"a"), (1, b"b"), (9, b"d")] {
            line.push(now + Duration::from_millis(millis), path, name);
        }
        assert_eq!(line.pop(now), None);
        let later = now + Duration::from_millis(5);
        let names: Vec<u8> = std::iter::from_fn(|| line.pop(later))
            .map(|(_, datagram)| datagram[0])
            .collect();
        assert_eq!(names, b"abc");
        assert_eq!(line.due(), Some(now + Duration::from_millis(9)));
    }
}
