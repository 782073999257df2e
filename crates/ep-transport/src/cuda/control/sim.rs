//! A GPU that runs operations by the rules of the table, step by step: between any two
//! words that the host touches, thread blocks do as many steps as a seed says, each of
//! them with its loads in an order of its own.

use super::*;
use std::collections::BTreeMap;

const WORDS: usize = size_of::<Table>() / 8;
const SWITCH_OP: usize = (HEAD + offset_of!(Head, switch_op)) / 8;
const BASE_BEFORE: usize = (HEAD + offset_of!(Head, base_before)) / 8;
const BASE_AFTER: usize = (HEAD + offset_of!(Head, base_after)) / 8;
const ATTACHED: usize = (HEAD + offset_of!(Head, attached_op)) / 8;
const STEP: Duration = Duration::from_nanos(300);

/// What a kernel, or the memory, may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Thread blocks take longer to read the table than they may.
    SlowReads,
    /// What the host reads of the progress is what it read before.
    StaleProgress,
    /// Nobody heeds the limit.
    NoLimit,
    /// Who has waited goes on with the rows that it read before.
    OldRows,
    /// Thread blocks say that they have begun when they end.
    SilentBegin,
    /// Who finds a rank absent takes it out of the operation that runs.
    TooSoon,
}

/// What a thread block thinks of its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) epoch: u64,
    /// Rank and life.
    pub(super) active: BTreeMap<u32, u32>,
}

enum Doing {
    /// There is no room on the GPU yet.
    Queued,
    /// These words are yet to be read.
    Reading(Vec<usize>),
    Waiting {
        limit: u64,
        since: Duration,
    },
    Working {
        view: View,
        /// Whose memory it may touch.
        reachable: Vec<u32>,
        steps: u64,
    },
    Ended,
}

struct Block {
    number: usize,
    begun: bool,
    words: BTreeMap<usize, u64>,
    waited: bool,
    doing: Doing,
}

impl Block {
    fn reads(&self) -> bool {
        matches!(self.doing, Doing::Reading(_))
    }
}

pub(super) struct Sim {
    seed: u64,
    memory: Vec<u64>,
    /// Of the operation that runs, by number.
    blocks: Vec<Block>,
    now: Duration,
    settings: Settings,
    flaw: Flaw,
    stale: u64,
    /// Of 100 chances to start an operation, how many are taken.
    pub(super) eagerness: u64,
    pub(super) dead: Vec<u32>,
    /// Whose memory must not be touched.
    pub(super) unmapped: Vec<u32>,
    pub(super) promised: Option<u64>,
    /// Each operation, as its first thread block saw it.
    pub(super) log: BTreeMap<u64, View>,
    pub(super) wrong: Vec<String>,
}

impl Sim {
    pub(super) fn new(seed: u64, settings: Settings, flaw: Flaw) -> Self {
        Self {
            seed: seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            memory: vec![0; WORDS],
            blocks: Vec::new(),
            now: Duration::from_secs(1),
            settings,
            flaw,
            stale: 0,
            eagerness: 50,
            dead: Vec::new(),
            unmapped: Vec::new(),
            promised: None,
            log: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 20) % below.max(1)
    }

    pub(super) fn op(&self) -> u64 {
        self.memory[ENDED / 8] / OPERATION
    }

    fn share(&self, block: &Block) -> u64 {
        match block.number {
            0 => OPERATION - (self.blocks.len() as u64 - 1),
            _ => 1,
        }
    }

    fn words_of_interest(&self) -> Vec<usize> {
        let head = [RUN_LIMIT / 8, SWITCH_OP, BASE_BEFORE, BASE_AFTER, ATTACHED];
        let ranks = 1..self.settings.capacity as usize;
        let rows = ranks.flat_map(|rank| (0..3).map(move |word| row(rank) / 8 + word));
        head.into_iter().chain(rows).collect()
    }

    /// One step of one thread block, or a chance for an operation to start.
    pub(super) fn step(&mut self) {
        self.now += STEP;
        if self.blocks.is_empty() {
            if self.random(100) < self.eagerness {
                let grid = 1 + self.random(4) as usize;
                let block = |number| Block {
                    number,
                    begun: false,
                    words: BTreeMap::new(),
                    waited: false,
                    doing: Doing::Queued,
                };
                self.blocks = (0..grid).map(block).collect();
            }
            return;
        }
        // In some operations one thread block has ended before the others begin.
        let first = (self.op() / 4) as usize % self.blocks.len();
        let any = self.random(self.blocks.len() as u64) as usize;
        let alone = self.op() % 4 < 2 && !matches!(self.blocks[first].doing, Doing::Ended);
        self.step_of(if alone { first } else { any });
    }

    fn step_of(&mut self, which: usize) {
        let resting = Block {
            number: which,
            begun: true,
            words: BTreeMap::new(),
            waited: false,
            doing: Doing::Ended,
        };
        let mut block = std::mem::replace(&mut self.blocks[which], resting);
        if block.reads() && self.random(16) == 0 && self.flaw != Flaw::SilentBegin {
            self.begin(&mut block);
        }
        self.advance(&mut block);
        self.blocks[which] = block;
        if self.blocks.iter().all(|b| matches!(b.doing, Doing::Ended)) {
            self.blocks.clear();
        }
    }

    fn begin(&mut self, block: &mut Block) {
        if !block.begun {
            self.memory[BEGUN / 8] += self.share(block);
            block.begun = true;
        }
    }

    fn advance(&mut self, block: &mut Block) {
        match std::mem::replace(&mut block.doing, Doing::Ended) {
            Doing::Queued => block.doing = Doing::Reading(self.words_of_interest()),
            Doing::Reading(mut left) => {
                let next = left.swap_remove(self.random(left.len() as u64) as usize);
                let keep = self.flaw == Flaw::OldRows && block.waited && next >= row(0) / 8;
                if !keep {
                    block.words.insert(next, self.memory[next]);
                }
                if left.is_empty() {
                    self.decide(block);
                } else {
                    block.doing = Doing::Reading(left);
                }
            }
            Doing::Waiting { limit, since } => {
                let late = self.now - since > self.settings.decision_time_out;
                if late && self.memory[RUN_LIMIT / 8] == limit {
                    self.memory[RUN_LIMIT / 8] = NEVER;
                }
                block.doing = if self.memory[RUN_LIMIT / 8] == limit {
                    Doing::Waiting { limit, since }
                } else {
                    block.waited = true;
                    Doing::Reading(self.words_of_interest())
                };
            }
            Doing::Working {
                view,
                reachable,
                steps,
            } => {
                if steps == 0 {
                    self.finish(block, &view, &reachable);
                } else {
                    let steps = steps - 1;
                    block.doing = Doing::Working {
                        view,
                        reachable,
                        steps,
                    };
                }
            }
            Doing::Ended => {}
        }
    }

    /// All words are read.
    fn decide(&mut self, block: &mut Block) {
        if self.flaw != Flaw::SilentBegin {
            self.begin(block);
        }
        let word = |at: usize| block.words.get(&at).copied().unwrap_or(0);
        let op = self.op();
        let base = match op < word(SWITCH_OP) {
            true => word(BASE_BEFORE),
            false => word(BASE_AFTER),
        };
        let (epoch, limit) = (op.wrapping_add(base), word(RUN_LIMIT / 8));
        if epoch >= limit && self.flaw != Flaw::NoLimit {
            let since = self.now;
            block.doing = Doing::Waiting { limit, since };
            return;
        }
        let mut active = BTreeMap::new();
        let mut reachable = Vec::new();
        for rank in 1..self.settings.capacity {
            let row = row(rank as usize) / 8;
            if op >= word(ATTACHED) && word(row) <= epoch && epoch < word(row + 1) {
                active.insert(rank, word(row + 2) as u32);
                if word(row + 2) >> 32 == 0 {
                    reachable.push(rank);
                }
            }
        }
        let view = View { epoch, active };
        let first = self.log.entry(op).or_insert_with(|| view.clone()).clone();
        if first != view {
            let what = format!("operation {op} is {first:?} and {view:?}");
            self.wrong.push(what);
        }
        if self.promised.is_some_and(|limit| epoch >= limit) {
            let what = format!("epoch {epoch} began in spite of {:?}", self.promised);
            self.wrong.push(what);
        }
        if reachable.iter().any(|rank| self.unmapped.contains(rank)) {
            self.wrong
                .push(format!("operation {op} reaches {reachable:?}"));
        }
        let steps = self.random(12);
        block.doing = Doing::Working {
            view,
            reachable,
            steps,
        };
    }

    fn finish(&mut self, block: &mut Block, view: &View, reachable: &[u32]) {
        for rank in view.active.keys() {
            let at = row(*rank as usize) / 8 + 1;
            // A rank that lives and is not written to any more gives up too.
            if self.dead.contains(rank) || !reachable.contains(rank) {
                let until = view.epoch + u64::from(self.flaw != Flaw::TooSoon);
                self.memory[at] = self.memory[at].min(until);
            }
        }
        if block.number == 0 && !view.active.is_empty() {
            self.memory[SHARED_UNTIL / 8] = view.epoch + 1;
        }
        self.begin(block);
        self.memory[ENDED / 8] += self.share(block);
    }

    /// Whether an operation that runs may touch this rank's memory.
    pub(super) fn touches(&self, rank: u32) -> bool {
        self.blocks.iter().any(|block| {
            matches!(&block.doing, Doing::Working { reachable, .. } if reachable.contains(&rank))
        })
    }

    fn some_steps(&mut self, most: u64) {
        // Now and then the host stands still for a while.
        let most = match self.random(20) {
            0 => 400,
            _ => most,
        };
        for _ in 0..self.random(most) {
            self.step();
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let reading: Vec<usize> = (0..self.blocks.len())
            .filter(|number| self.blocks[*number].reads())
            .collect();
        if time >= SETTLED && self.flaw != Flaw::SlowReads {
            // Whoever reads now is through by then.
            for number in reading {
                while self.blocks.get(number).is_some_and(Block::reads) {
                    self.step_of(number);
                }
            }
        }
        self.some_steps(60);
        self.now = self.now.max(until);
    }
}

impl Words for Mutex<Sim> {
    fn load(&self, offset: usize, to: &mut [u8]) -> Result<(), CudaError> {
        let mut sim = self.lock().unwrap();
        for (i, bytes) in to.chunks_exact_mut(8).enumerate() {
            sim.some_steps(12);
            let mut word = sim.memory[offset / 8 + i];
            if offset == ENDED && sim.flaw == Flaw::StaleProgress {
                std::mem::swap(&mut word, &mut sim.stale);
            }
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    fn store(&self, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        let mut sim = self.lock().unwrap();
        sim.some_steps(12);
        if let Ok(half) = from.try_into() {
            let (half, shift) = (u64::from(u32::from_le_bytes(half)), offset % 8 * 8);
            let word = &mut sim.memory[offset / 8];
            *word = *word & !(0xFFFF_FFFF << shift) | half << shift;
        }
        // Words land one by one, in any order.
        let mut words: Vec<_> = from.chunks_exact(8).enumerate().collect();
        let first = sim.random(words.len() as u64) as usize;
        words.rotate_left(first);
        for (i, word) in words {
            sim.memory[offset / 8 + i] = u64::from_le_bytes(word.try_into().unwrap());
            sim.some_steps(12);
        }
        Ok(())
    }

    fn pause(&self, time: Duration) {
        self.lock().unwrap().pass(time);
    }

    fn now(&self) -> Duration {
        self.lock().unwrap().now
    }
}
