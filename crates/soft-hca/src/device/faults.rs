//! Faults on purpose.

use std::time::{Duration, Instant};

use crate::config::{Faults, Outage};

/// The longest that a datagram is held back for others to overtake it.
const LONGEST_HOLD: Duration = Duration::from_micros(500);

/// Faults with their progress.
#[derive(Debug)]
pub(crate) struct FaultState {
    faults: Faults,
    random: u64,
    commands: u64,
    /// By hand.
    link_down: bool,
    /// By the faults.
    outage: bool,
    frozen: bool,
    /// When the outages are counted from.
    since: Option<Instant>,
}

/// What happens to a datagram on its way.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Sent {
        /// The bit that is flipped.
        flip: Option<usize>,
        /// How long it is under way.
        hold: Duration,
        /// How long its second copy is.
        again: Option<Duration>,
    },
}

impl FaultState {
    pub(crate) const fn new(faults: Faults) -> Self {
        Self {
            faults,
            random: faults.seed,
            commands: 0,
            link_down: false,
            outage: false,
            frozen: false,
            since: None,
        }
    }

    /// Other faults from now on; the link stays as it is set by hand.
    pub(crate) const fn replace(&mut self, faults: Faults) {
        *self = Self {
            link_down: self.link_down,
            ..Self::new(faults)
        };
    }

    pub(crate) const fn link_is_down(&self) -> bool {
        self.link_down || self.outage
    }

    pub(crate) const fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Takes the link down or up by hand.
    pub(crate) const fn set_link(&mut self, up: bool) {
        self.link_down = !up;
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let on = |outage: Option<Outage>| outage.is_some_and(|outage| outage.covers(passed));
        self.outage = on(self.faults.link_down);
        self.frozen = on(self.faults.frozen);
    }

    /// Counts a command; whether it is the one to fail.
    pub(crate) fn command_fails(&mut self) -> bool {
        let number = self.commands;
        self.commands += 1;
        self.faults.fail_command == Some(number)
    }

    /// Decides on the next datagram, of `len` bytes.
    pub(crate) fn fate(&mut self, len: usize) -> Fate {
        if self.link_is_down() {
            return Fate::Lost;
        }
        let Faults {
            loss,
            duplicate,
            corrupt,
            reorder,
            delay,
            ..
        } = self.faults;
        if self.happens(loss) {
            return Fate::Lost;
        }
        let flip = self.happens(corrupt).then(|| self.below(len * 8));
        let mut hold = delay;
        if self.happens(reorder) {
            hold = hold.saturating_add(self.moment());
        }
        let again = self.happens(duplicate);
        Fate::Sent {
            flip,
            hold,
            again: again.then(|| delay.saturating_add(self.moment())),
        }
    }

    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what a double holds.
        probability > 0.0 && ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        // The bias of a remainder does not matter here.
        (self.next() as usize).checked_rem(bound).unwrap_or(0)
    }

    fn moment(&mut self) -> Duration {
        let longest = LONGEST_HOLD.as_micros() as usize;
        Duration::from_micros(1 + self.below(longest) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_about_as_frequent_as_asked() {
        for share in [0.0, 0.1, 0.5, 1.0] {
            let mut state = FaultState::new(Faults {
                loss: share,
                seed: 3,
                ..Faults::default()
            });
            let lost = (0..10_000).filter(|_| state.fate(100) == Fate::Lost);
            let lost = lost.count() as f64 / 10_000.0;
            assert!((lost - share).abs() < 0.02, "{share} {lost}");
            state.replace(Faults {
                duplicate: share,
                corrupt: share,
                reorder: share,
                ..Faults::default()
            });
            let mut counts = [0; 3];
            for _ in 0..10_000 {
                let Fate::Sent { flip, hold, again } = state.fate(100) else {
                    panic!("lost");
                };
                assert!(flip.is_none_or(|bit| bit < 800) && hold <= LONGEST_HOLD);
                counts[0] += u32::from(flip.is_some());
                counts[1] += u32::from(!hold.is_zero());
                counts[2] += u32::from(again.is_some());
            }
            for count in counts {
                let found = f64::from(count) / 10_000.0;
                assert!((found - share).abs() < 0.02, "{share} {found}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let fates = |seed| {
            let mut state = FaultState::new(Faults {
                loss: 0.3,
                corrupt: 0.3,
                reorder: 0.3,
                seed,
                ..Faults::default()
            });
            (0..100).map(|_| state.fate(64)).collect::<Vec<_>>()
        };
        assert_eq!(fates(5), fates(5));
        assert_ne!(fates(5), fates(6));
    }

    #[test]
    fn outages_begin_and_end() {
        let millis = Duration::from_millis;
        let mut state = FaultState::new(Faults {
            frozen: Some(Outage {
                from: millis(20),
                until: Duration::MAX,
            }),
            link_down: Some(Outage {
                from: millis(0),
                until: millis(30),
            }),
            ..Faults::default()
        });
        let start = Instant::now();
        let mut seen = Vec::new();
        for at in [0, 19, 20, 29, 30] {
            state.tick(start + millis(at));
            seen.push((state.link_is_down(), state.is_frozen()));
        }
        let expected = [
            (true, false),
            (true, false),
            (true, true),
            (true, true),
            (false, true),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn exactly_the_numbered_command_fails() {
        let mut state = FaultState::new(Faults {
            fail_command: Some(2),
            ..Faults::default()
        });
        let failed: Vec<bool> = (0..5).map(|_| state.command_fails()).collect();
        assert_eq!(failed, [false, false, true, false, false]);
    }
}
