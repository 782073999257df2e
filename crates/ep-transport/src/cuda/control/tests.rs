use super::sim::{Flaw, Sim};
use super::*;

const SEEDS: u64 = 1000;

struct World {
    control: DeviceControl<Mutex<Sim>>,
    /// The lives of all ranks.
    lives: [u32; 4],
    wrong: Vec<String>,
}

impl World {
    fn new(seed: u64, flaw: Flaw) -> Self {
        let settings = Settings {
            capacity: 4,
            own: Incarnation(1),
            round: 2,
            time_out: Duration::from_millis(5),
            decision_time_out: Duration::from_secs(1),
        };
        let sim = Mutex::new(Sim::new(seed, settings, flaw));
        Self {
            control: DeviceControl::new(sim, settings).unwrap(),
            lives: [1; 4],
            wrong: Vec::new(),
        }
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.control.words.lock().unwrap()
    }

    fn random(&self, below: u64) -> u64 {
        self.sim().random(below)
    }

    /// Runs until this many more operations have ended, or none does any more.
    fn run(&self, ops: u64) {
        let mut sim = self.sim();
        let then = sim.op() + ops;
        let eagerness = std::mem::replace(&mut sim.eagerness, 50);
        for _ in 0..100_000 {
            if sim.op() >= then {
                break;
            }
            sim.step();
        }
        sim.eagerness = eagerness;
    }

    fn check(&mut self, what: &str, holds: bool) {
        if !holds {
            self.wrong.push(format!("not {what}"));
        }
    }

    fn some_eagerness(&self) {
        let eagerness = [0, 3, 50, 100][self.random(4) as usize];
        self.sim().eagerness = eagerness;
    }

    /// Masks these ranks, as for an update, and waits until their memory may be exchanged.
    fn prepare(&mut self, ranks: &[u32]) {
        for rank in ranks {
            self.control.mask_now(Rank(*rank)).unwrap();
        }
        let quiet = self.control.quiesce(Duration::from_secs(1)).unwrap();
        self.check("quiet in time", quiet);
        let mut sim = self.sim();
        let touched = ranks.iter().any(|rank| sim.touches(*rank));
        sim.dead.retain(|rank| !ranks.contains(rank));
        sim.unmapped = ranks.to_vec();
        drop(sim);
        self.check("left alone by operations", !touched);
    }

    /// This rank comes in, whatever it was before.
    fn enter(&mut self) {
        self.prepare(&[1, 2, 3]);
        // Backwards too.
        let from = self.control.unshared().unwrap().0 + self.random(40);
        let from = from.next_multiple_of(2);
        let before = {
            let mut sim = self.sim();
            sim.unmapped.clear();
            sim.op()
        };
        let idle = self.control.done().unwrap().idle() && self.sim().eagerness == 0;
        let lives = self.lives.iter().map(|life| Incarnation(*life));
        let others: Vec<_> = (0..).map(Rank).zip(lives).skip(1).collect();
        self.control.admit_self(&others, Epoch(from)).unwrap();
        self.run(6);
        let sim = self.sim();
        let together = |view: &sim::View| view.active.len() == 3;
        let first = sim.log.range(before..).find(|(_, view)| together(view));
        let agreed = first.is_some_and(|(op, view)| view.epoch == from && op % 2 == 0);
        let first = first.map_or(before, |(op, _)| *op);
        let mut earlier = sim.log.range(before + 1..first.max(before + 1));
        let alone = earlier.all(|(_, view)| view.active.is_empty());
        drop(sim);
        self.check("in at the agreed epoch, between two rounds", agreed);
        self.check("alone before", alone);
        let at_once = first == before.next_multiple_of(2);
        self.check("at once although nothing ran", at_once || !idle);
    }

    /// One rank dies, or seems to, and comes back; `late`: when kernels have lost patience.
    fn replace(&mut self, late: bool) {
        let rank = 1 + self.random(3) as u32;
        if self.random(3) > 0 {
            self.sim().dead.push(rank);
            self.run(self.random(3));
        }
        self.prepare(&[rank]);
        let ahead = 1 + self.random(12);
        let limit = self.control.promise(ahead).unwrap();
        if late {
            self.run(3 + ahead);
            self.control.words.pause(Duration::from_secs(2));
            self.run(3);
        } else {
            self.sim().promised = Some(limit.0);
            for _ in 0..self.random(8) {
                self.control.words.pause(POLL);
            }
        }
        let from = (limit.0 + self.random(6)).next_multiple_of(2);
        self.sim().promised = None;
        if self.random(6) == 0 {
            return self.control.release().unwrap();
        }
        self.lives[rank as usize] += 1;
        let life = self.lives[rank as usize];
        let first = {
            let mut sim = self.sim();
            sim.unmapped.clear();
            sim.op()
        };
        let newcomer = [(Rank(rank), Incarnation(life))];
        let admitted = self.control.admit(&newcomer, Epoch(from)).unwrap().0;
        self.check("as agreed", admitted == from || late && admitted > from);
        let next = self.control.next_epoch().unwrap().0;
        self.run(admitted.saturating_sub(next) + 4);
        let sim = self.sim();
        let ops: Vec<_> = sim
            .log
            .range(first..)
            .map(|(_, view)| view)
            .cloned()
            .collect();
        drop(sim);
        let counted = ops.iter().all(|view| {
            view.active.get(&rank).copied() == (view.epoch >= admitted).then_some(life)
        });
        self.check("counted from its epoch on", counted);
        let reached = ops.iter().any(|view| view.epoch >= admitted);
        self.check("there", reached);
    }

    fn verdict(mut self) -> Vec<String> {
        let sim = self.control.words.into_inner().unwrap();
        let shared = sim.log.values().filter(|view| !view.active.is_empty());
        if !shared.is_sorted_by(|a, b| a.epoch < b.epoch) {
            self.wrong.push("an epoch was used twice".to_owned());
        }
        self.wrong.extend(sim.wrong);
        self.wrong
    }
}

fn live(seed: u64, flaw: Flaw) -> Vec<String> {
    let mut world = World::new(seed, flaw);
    world.run(world.random(7));
    world.some_eagerness();
    world.enter();
    for _ in 0..5 {
        world.some_eagerness();
        match world.random(8) {
            0 => world.enter(),
            1 => world.replace(true),
            _ => world.replace(false),
        }
    }
    world.verdict()
}

#[test]
fn whatever_the_order_of_things_all_thread_blocks_agree() {
    for seed in 0..SEEDS {
        let wrong = live(seed, Flaw::None);
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

/// The test above would tell.
#[test]
fn whoever_breaks_a_rule_is_found_out() {
    for flaw in [
        Flaw::SlowReads,
        Flaw::StaleProgress,
        Flaw::NoLimit,
        Flaw::OldRows,
        Flaw::SilentBegin,
        Flaw::TooSoon,
    ] {
        let found = (0..SEEDS).find(|seed| !live(*seed, flaw).is_empty());
        assert!(found.is_some(), "{flaw:?}");
    }
}

#[test]
fn ranks_that_take_part_or_that_there_cannot_be_are_refused() {
    let world = World::new(1, Flaw::None);
    let newcomer = [(Rank(2), Incarnation(1))];
    world.control.admit(&newcomer, Epoch(4)).unwrap();
    let again = world.control.admit(&newcomer, Epoch(8));
    assert_eq!(again, Err(CudaError::NotMasked { rank: Rank(2) }));
    assert!(world.control.counts(Rank(2), Incarnation(1)).unwrap());
    assert!(!world.control.counts(Rank(2), Incarnation(2)).unwrap());
    assert!(world.control.mask_now(Rank(4)).is_err());
    let settings = Settings {
        capacity: 33,
        ..*world.control.settings()
    };
    let sim = Mutex::new(Sim::new(1, settings, Flaw::None));
    assert!(DeviceControl::new(sim, settings).is_err());
}
