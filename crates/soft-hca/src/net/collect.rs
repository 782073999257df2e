//! Datagrams that wait to be sent together.

use std::net::IpAddr;

use super::Path;

/// Segments that every kernel with this feature takes.
const MAX_SEGMENTS: u64 = 64;
/// Bytes of the largest datagram, headers left out.
const MAX_BYTES: usize = 65_000;

/// From where to where.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) remote: IpAddr,
    pub(super) port: u16,
    pub(super) traffic_class: u8,
}

impl From<&Path> for Way {
    fn from(path: &Path) -> Self {
        Self {
            remote: path.remote,
            port: path.src_port,
            traffic_class: path.traffic_class,
        }
    }
}

/// Datagrams of one size, the last one possibly shorter, that go the same way,
/// one after the other; and behind them one that is being made.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) way: Option<Way>,
    pub(super) count: u64,
    /// Bytes of each but the last.
    pub(super) segment: usize,
    /// The last one is shorter: nothing can follow.
    short: bool,
    /// Bytes of all that are complete.
    len: usize,
    pub(super) bytes: Vec<u8>,
}

impl Collected {
    /// What has been collected.
    pub(super) fn complete(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// The one that is being made.
    pub(super) fn open(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    /// Throws away the one that is being made.
    pub(super) fn discard(&mut self) {
        self.bytes.truncate(self.len);
    }

    /// Whether the one that is being made has to wait for the next batch.
    pub(super) fn is_full(&self, way: &Way) -> bool {
        let len = self.bytes.len() - self.len;
        self.count > 0
            && (self.way != Some(*way)
                || self.short
                || len > self.segment
                || self.count == MAX_SEGMENTS
                || self.bytes.len() > MAX_BYTES)
    }

    /// Takes the one that is being made.
    pub(super) fn accept(&mut self, way: Way) {
        let len = self.bytes.len() - self.len;
        if self.count == 0 {
            self.way = Some(way);
            self.segment = len;
        }
        self.short = len < self.segment;
        self.count += 1;
        self.len = self.bytes.len();
    }

    /// Forgets what has been collected, as it was sent.
    pub(super) fn sent(&mut self) {
        self.bytes.drain(..self.len);
        self.len = 0;
        self.count = 0;
        self.way = None;
        self.short = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(last: u8) -> Way {
        Way {
            remote: std::net::Ipv4Addr::new(127, 0, 0, last).into(),
            port: 0,
            traffic_class: 0,
        }
    }

    fn offer(batch: &mut Collected, way: Way, len: usize) -> bool {
        batch.bytes.extend(std::iter::repeat_n(len as u8, len));
        if batch.is_full(&way) {
            return false;
        }
        batch.accept(way);
        true
    }

    #[test]
    fn datagrams_of_one_size_go_together_and_a_shorter_one_ends_it() {
        let mut batch = Collected::default();
        assert!(offer(&mut batch, way(1), 10));
        assert!(offer(&mut batch, way(1), 10));
        assert!(!offer(&mut batch, way(1), 11));
        batch.discard();
        assert!(!offer(&mut batch, way(2), 10));
        batch.discard();
        assert!(offer(&mut batch, way(1), 4));
        assert!(!offer(&mut batch, way(1), 4));
        // It is the first of the next batch.
        assert_eq!(batch.complete().len(), 24);
        batch.sent();
        assert_eq!((batch.open().len(), batch.complete().len()), (4, 0));
        assert!(!batch.is_full(&way(2)));
        batch.accept(way(2));
        assert_eq!(
            (batch.complete(), batch.segment, batch.count),
            (&[4; 4][..], 4, 1)
        );
    }

    #[test]
    fn a_batch_has_an_end() {
        let mut batch = Collected::default();
        let many = (0..100).take_while(|_| offer(&mut batch, way(1), 100));
        assert_eq!(many.count(), 64);
        let mut batch = Collected::default();
        let large = (0..100).take_while(|_| offer(&mut batch, way(1), 4112));
        assert_eq!(large.count(), 15);
    }
}
