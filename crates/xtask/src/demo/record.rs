//! What happened in one run: the raw material of the account.

use super::events::{Event, Step, Update};

/// Everything that one run left behind, times in `CLOCK_MONOTONIC` microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Every process in the order in which they were started.
    pub(crate) lives: Vec<Life>,
    /// What went wrong outside of the ranks' own reports.
    pub(crate) problems: Vec<String>,
}

/// One process: one life of a rank.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) rank: u32,
    pub(crate) spawned_us: u64,
    /// The index among the plan's kills of the death that made place for this one.
    pub(crate) replaces: Option<usize>,
    /// When SIGKILL was sent, and for which of the plan's kills.
    pub(crate) killed: Option<Death>,
    /// Whether another process was started to take its rank from it while it lived.
    pub(crate) ousted: bool,
    /// What it said, with the time at which it was heard.
    pub(crate) heard: Vec<(u64, Event)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) kill: usize,
    pub(crate) at_us: u64,
}

impl Life {
    pub(crate) fn new(rank: u32, spawned_us: u64, replaces: Option<usize>) -> Self {
        Self {
            rank,
            spawned_us,
            replaces,
            killed: None,
            ousted: false,
            heard: Vec::new(),
        }
    }

    pub(crate) fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.heard.iter().filter_map(|(_, event)| match event {
            Event::Step(step) => Some(step),
            _ => None,
        })
    }

    pub(crate) fn last_step(&self) -> Option<u64> {
        self.steps().next_back().map(|step| step.step)
    }

    pub(crate) fn ready_us(&self) -> Option<u64> {
        self.heard.iter().find_map(|(at, event)| match event {
            Event::Ready {} => Some(*at),
            _ => None,
        })
    }

    /// Objects that the process left behind, if it ended in order and could tell.
    pub(crate) fn leaked_objects(&self) -> Option<u64> {
        self.heard.iter().find_map(|(_, event)| match event {
            // Without a software NIC there is nothing to count.
            Event::Summary { leaked_objects } => Some(leaked_objects.unwrap_or(0)),
            _ => None,
        })
    }

    /// Updates for `peer`, heard between the two times, each with when it was heard.
    pub(crate) fn updates(
        &self,
        peer: u32,
        since_us: u64,
        until_us: u64,
    ) -> impl Iterator<Item = (u64, &Update)> {
        self.heard
            .iter()
            .filter_map(move |(at, event)| match event {
                Event::Update(update)
                    if update.peer == peer && (since_us..until_us).contains(at) =>
                {
                    Some((*at, update))
                }
                _ => None,
            })
    }

    /// When this process first showed that it counts `peer` as dead, after `since_us`:
    /// by saying so, or by a step without it.
    pub(crate) fn noticed_us(&self, peer: u32, since_us: u64) -> Option<u64> {
        let said = self.heard.iter().filter_map(|(_, event)| match event {
            Event::PeerLost { rank, at_us, .. } if *rank == peer && *at_us >= since_us => {
                Some(*at_us)
            }
            _ => None,
        });
        let shown = self
            .steps()
            .filter(|step| step.end_us >= since_us && !step.answered.contains(&peer))
            .map(|step| step.end_us);
        said.chain(shown).min()
    }

    /// Why this process first masked `peer` after `since_us`, in its own words.
    pub(crate) fn why_lost(&self, peer: u32, since_us: u64) -> Option<&str> {
        self.heard.iter().find_map(|(_, event)| match event {
            Event::PeerLost { rank, how, at_us } if *rank == peer && *at_us >= since_us => {
                Some(how.as_str())
            }
            _ => None,
        })
    }

    /// From which epoch on, and since when, `peer` counts again; the first such
    /// admission that this process reported after `since_us`.
    pub(crate) fn admitted(&self, peer: u32, since_us: u64) -> Option<(u64, u64)> {
        self.heard.iter().find_map(|(_, event)| match event {
            Event::Admitted {
                rank, epoch, at_us, ..
            } if *rank == peer && *at_us >= since_us => Some((*epoch, *at_us)),
            _ => None,
        })
    }

    /// Whether the process was there at `at_us` (it may die later).
    pub(crate) fn alive_at(&self, at_us: u64) -> bool {
        self.spawned_us < at_us && self.killed.is_none_or(|death| death.at_us > at_us)
    }
}

impl Record {
    /// The process that was killed for the plan's kill number `kill`.
    pub(crate) fn victim(&self, kill: usize) -> Option<(&Life, u64)> {
        self.lives.iter().find_map(|life| {
            let death = life.killed.filter(|death| death.kill == kill)?;
            Some((life, death.at_us))
        })
    }

    /// The process that took the place of kill number `kill`.
    pub(crate) fn replacement(&self, kill: usize) -> Option<&Life> {
        self.lives.iter().find(|life| life.replaces == Some(kill))
    }

    /// Processes that took part when kill number `kill` happened, the victim aside.
    pub(crate) fn survivors(&self, kill: usize) -> impl Iterator<Item = &Life> {
        let death = self.victim(kill);
        self.lives.iter().filter(move |life| {
            death.is_some_and(|(victim, at)| {
                // One that was itself waiting to be taken in noticed nothing.
                let took_part = life.replaces.is_none() || life.steps().any(|s| s.end_us < at);
                life.rank != victim.rank && life.alive_at(at) && took_part
            })
        })
    }
}
