//! What is under way between the ranks of a cluster.

use super::{Network, Place};
use ep_transport::{Half, Rank};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
enum Operation {
    Write { from: u64, to: u64, len: u64 },
    Signal { to: u64, value: u64 },
}

/// A work queue entry. Without `rung` the NIC has not been told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posted {
    operation: Operation,
    rung: Option<(Half, Instant)>,
}

impl Posted {
    pub(super) fn write(from: u64, to: u64, len: u64) -> Self {
        Self {
            operation: Operation::Write { from, to, len },
            rung: None,
        }
    }

    pub(super) fn signal(to: u64, value: u64) -> Self {
        Self {
            operation: Operation::Signal { to, value },
            rung: None,
        }
    }
}

/// One ordered channel.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Posted>,
    pub(super) held: bool,
    pub(super) broken: bool,
}

impl Lane {
    /// Whether something rung for `half` is still to be delivered.
    pub(super) fn reads(&self, half: Half) -> bool {
        self.queue
            .iter()
            .any(|posted| posted.rung.is_some_and(|(of, _)| of == half))
    }

    fn deliver(&mut self, now: Instant, source: &Place, destination: &Place) {
        while !self.held
            && !self.broken
            && let Some(Posted {
                operation,
                rung: Some((_, due)),
            }) = self.queue.front().copied()
            && due <= now
        {
            // Ranges were checked when it was posted; all regions are alike.
            let delivered = match operation {
                Operation::Write { from, to, len } => {
                    source.region.copy_to(from, &destination.region, to, len)
                }
                Operation::Signal { to, value } => destination.region.store_release(to, value),
            };
            self.broken = delivered.is_err();
            self.queue.pop_front();
        }
    }
}

/// All channels, `[source][destination][lane]`.
#[derive(Debug)]
pub(super) struct Wire {
    capacity: usize,
    lanes: usize,
    delay: Duration,
    random: u64,
    table: Vec<Lane>,
}

impl Wire {
    pub(super) fn new(capacity: u32, lanes: u32, network: Network) -> Self {
        let (capacity, lanes) = (capacity as usize, lanes as usize);
        Self {
            capacity,
            lanes,
            delay: network.delay,
            random: network.seed,
            table: (0..capacity * capacity * lanes)
                .map(|_| Lane {
                    queue: VecDeque::with_capacity(network.depth),
                    ..Lane::default()
                })
                .collect(),
        }
    }

    fn index(&self, source: Rank, destination: Rank, lane: u32) -> usize {
        (source.index() * self.capacity + destination.index()) * self.lanes + lane as usize
    }

    pub(super) fn lane(&mut self, source: Rank, destination: Rank, lane: u32) -> &mut Lane {
        let index = self.index(source, destination, lane);
        &mut self.table[index]
    }

    pub(super) fn each_lane(
        &mut self,
        source: Rank,
        destination: Rank,
        mut change: impl FnMut(&mut Lane),
    ) {
        for lane in 0..self.lanes as u32 {
            change(self.lane(source, destination, lane));
        }
    }

    /// New, empty channels to and from `rank`.
    pub(super) fn reset(&mut self, rank: Rank) {
        for other in (0..self.capacity as u32).map(Rank) {
            for (source, destination) in [(rank, other), (other, rank)] {
                self.each_lane(source, destination, |lane| *lane = Lane::default());
            }
        }
    }

    pub(super) fn ring(&mut self, source: Rank, destination: Rank, half: Half) {
        let now = Instant::now();
        for lane in 0..self.lanes as u32 {
            let index = self.index(source, destination, lane);
            for i in 0..self.table[index].queue.len() {
                if self.table[index].queue[i].rung.is_none() {
                    let due = now + self.random_delay();
                    self.table[index].queue[i].rung = Some((half, due));
                }
            }
        }
    }

    fn random_delay(&mut self) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.delay.mul_f64((z >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// Delivers what is due. `places` are the current lives.
    pub(super) fn deliver(&mut self, places: &[Place]) {
        let now = Instant::now();
        let (capacity, lanes) = (self.capacity, self.lanes);
        for (i, lane) in self.table.iter_mut().enumerate() {
            let pair = i / lanes;
            lane.deliver(now, &places[pair / capacity], &places[pair % capacity]);
        }
    }
}
