//! Faults on purpose.

use crate::config::Faults;

/// Faults with their progress.
#[derive(Debug)]
pub(crate) struct FaultState {
    faults: Faults,
    random: u64,
    commands: u64,
    link_down: bool,
}

impl FaultState {
    pub(crate) const fn new(faults: Faults) -> Self {
        Self {
            faults,
            random: faults.seed,
            commands: 0,
            link_down: false,
        }
    }

    /// Other faults from now on; the link stays as it is.
    pub(crate) const fn replace(&mut self, faults: Faults) {
        *self = Self {
            link_down: self.link_down,
            ..Self::new(faults)
        };
    }

    pub(crate) const fn link_is_down(&self) -> bool {
        self.link_down
    }

    /// Takes the link down or up; whether that changes anything.
    pub(crate) const fn set_link(&mut self, up: bool) -> bool {
        let changes = self.link_down == up;
        self.link_down = !up;
        changes
    }

    /// Counts a command; whether it is the one to fail.
    pub(crate) fn command_fails(&mut self) -> bool {
        let number = self.commands;
        self.commands += 1;
        self.faults.fail_command == Some(number)
    }

    /// Whether the next datagram is to be lost.
    pub(crate) fn loses(&mut self) -> bool {
        if self.link_down {
            return true;
        }
        if self.faults.loss <= 0.0 {
            return false;
        }
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits are what a double holds.
        ((mixed >> 11) as f64) < self.faults.loss * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_about_as_frequent_as_asked() {
        for loss in [0.0, 0.1, 0.5, 1.0] {
            let mut state = FaultState::new(Faults {
                loss,
                seed: 3,
                fail_command: None,
            });
            let lost = (0..10_000).filter(|_| state.loses()).count();
            let share = lost as f64 / 10_000.0;
            assert!((share - loss).abs() < 0.02, "{loss} {share}");
        }
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
