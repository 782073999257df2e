//! The loads: what is asked for, how much of it lives at once, in what order it
//! is freed.

/// A small fast generator (SplitMix64), so that the loads cost next to nothing
/// and repeat exactly.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator with that seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from `0..limit`.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }
}

/// One allocation to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Bytes.
    pub size: u64,
    /// Bytes.
    pub align: u64,
}

/// The order of frees and allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Churn {
    /// Free a random block, allocate another.
    OneByOne,
    /// Free a random quarter of the queues (a ring and a doorbell record each),
    /// then allocate them again.
    Queues,
}

/// A load.
#[derive(Debug, Clone)]
pub struct Load {
    /// Its name in reports.
    pub name: String,
    /// Live blocks when nothing is being replaced.
    pub slots: usize,
    /// Order of operations.
    pub churn: Churn,
    /// Requests to draw from, evenly; for queues, the ring of each.
    pub requests: Vec<Request>,
    /// The granule that suits the load, for allocators that have one.
    pub granule: u64,
}

const PAGE: u64 = 4096;
/// Bytes of the largest request.
pub(super) const LARGEST: u64 = 1 << 20;
/// A doorbell record has a cache line of its own.
const RECORD: Request = Request {
    size: 64,
    align: 64,
};
const QUEUES: usize = 256;
/// Sizes per load: enough to look random, few enough to stay in the L1 cache.
const DRAWN: usize = 512;

impl Load {
    /// Sizes of 64 bytes to 1 MiB, each octave as likely, on 4 KiB boundaries.
    pub fn log_uniform(slots: usize) -> Self {
        let mut random = Random::new(1);
        let octaves = (1_048_576f64 / 64.0).ln();
        let mut draw = || {
            let position = random.bits() as f64 / u64::MAX as f64;
            (64.0 * (octaves * position).exp()) as u64
        };
        Self::one_by_one(format!("log_uniform_{slots}"), slots, &mut draw)
    }

    /// Sizes of 1 byte to 1 MiB, each as likely, on 4 KiB boundaries.
    pub fn uniform(slots: usize) -> Self {
        let mut random = Random::new(2);
        let mut draw = || 1 + random.below(1 << 20) as u64;
        Self::one_by_one(format!("uniform_{slots}"), slots, &mut draw)
    }

    fn one_by_one(name: String, slots: usize, draw: &mut dyn FnMut() -> u64) -> Self {
        let requests = (0..DRAWN).map(|_| Request {
            size: draw(),
            align: PAGE,
        });
        Self {
            name,
            slots,
            churn: Churn::OneByOne,
            requests: requests.collect(),
            granule: PAGE,
        }
    }

    /// 256 queues, each a ring of 64 KiB on a 4 KiB boundary and a doorbell record.
    pub fn queues_equal() -> Self {
        Self::queues("queues_equal", &[64 << 10])
    }

    /// 256 queues with rings of 64 KiB, 256 KiB or 1 MiB in turn, otherwise the
    /// same. A queue that comes back has the ring size it had.
    pub fn queues_mixed() -> Self {
        Self::queues("queues_mixed", &[64 << 10, 256 << 10, 1 << 20])
    }

    fn queues(name: &str, rings: &[u64]) -> Self {
        let requests = rings.iter().cycle().take(QUEUES).map(|size| Request {
            size: *size,
            align: PAGE,
        });
        Self {
            name: name.to_owned(),
            slots: 2 * QUEUES,
            churn: Churn::Queues,
            requests: requests.collect(),
            granule: RECORD.size,
        }
    }

    /// The loads on which allocators are compared.
    pub fn all() -> Vec<Self> {
        vec![
            Self::log_uniform(1_000),
            Self::log_uniform(64_000),
            Self::uniform(1_000),
            Self::queues_equal(),
            Self::queues_mixed(),
        ]
    }

    /// One load at growing numbers of live blocks.
    pub fn scaling() -> Vec<Self> {
        [1_000, 10_000, 100_000, 1_000_000]
            .map(Self::log_uniform)
            .to_vec()
    }

    /// Bytes of heap that leave three quarters free.
    pub fn heap_size(&self) -> u64 {
        let sum: u64 = self.requests.iter().map(|r| r.size + r.align).sum();
        4 * self.slots as u64 * sum / self.requests.len() as u64
    }

    /// What slot `slot` asks for next.
    #[inline]
    pub(super) fn draw(&self, random: &mut Random, slot: usize) -> Request {
        match self.churn {
            Churn::OneByOne => self.requests[random.bits() as usize % DRAWN],
            Churn::Queues if slot % 2 == 1 => RECORD,
            Churn::Queues => self.requests[slot / 2],
        }
    }
}
