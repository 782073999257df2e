//! Doing harm to one of the processes.

use super::super::LEASE_MS;
use super::super::actions::Harm;
use super::{Deed, Drive, SETTLE_BOUND_MS};
use crate::demo::process::now_us;
use anyhow::Result;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

impl Drive<'_> {
    /// Does it to somebody, if there is somebody that it can be done to.
    pub(super) fn harm(&mut self, harm: Harm) -> Result<bool> {
        if let Harm::EtcdRestart { back_ms } = harm {
            return self.restart(harm, back_ms);
        }
        let record = &self.processes.record;
        let lives: Vec<usize> = self
            .ranks
            .iter()
            .filter_map(|rank| self.processes.current(*rank))
            .filter(|life| !self.frozen.contains_key(life))
            .collect();
        let serving = |life: &usize| {
            record
                .lives
                .get(*life)
                .is_some_and(|l| l.steps().next().is_some())
        };
        let serve: Vec<usize> = lives.iter().copied().filter(serving).collect();
        // Somebody has to go on, and to be there for those who come in.
        let enough = serve.len() >= self.ranks.len().min(3);
        let (Some(victim), true) = (lives.choose(&mut self.rng).copied(), enough) else {
            return Ok(false);
        };
        let Some(rank) = record.lives.get(victim).map(|life| life.rank) else {
            return Ok(false);
        };
        let now = now_us();
        let mut until = now;
        match harm {
            Harm::Kill { back_ms } => {
                self.processes.kill(victim, self.run.harms.len())?;
                self.due.insert(rank, now + back_ms * 1_000);
            }
            Harm::Freeze { ms } => {
                self.processes.signal(victim, Signal::STOP)?;
                self.frozen.insert(victim, (now + ms * 1_000, None));
                until = now + ms * 1_000;
            }
            Harm::Oust => {
                self.processes.signal(victim, Signal::STOP)?;
                self.processes
                    .record
                    .lives
                    .iter_mut()
                    .skip(victim)
                    .take(1)
                    .for_each(|l| l.ousted = true);
                let new = self.processes.record.lives.len();
                self.processes.spawn(rank, None, &["--join"])?;
                // A new process waits for the lease to end, and some more to be taken in.
                let longest = now + (10 * LEASE_MS + SETTLE_BOUND_MS / 2) * 1_000;
                self.frozen.insert(victim, (longest, Some(new)));
                until = longest;
            }
            Harm::Lose { percent, ms } => {
                self.processes.tell(victim, &format!("lose {percent} {ms}"));
                until = now + ms * 1_000;
            }
            Harm::LinkDown { ms } => {
                self.processes.tell(victim, &format!("link-down {ms}"));
                until = now + ms * 1_000;
            }
            Harm::FailCommand { number } => {
                self.processes
                    .tell(victim, &format!("fail-command {number}"));
            }
            Harm::EtcdRestart { .. } => {}
        }
        self.run.harms.push(Deed {
            harm,
            victim: Some(victim),
            begin_us: now,
            end_us: until,
        });
        Ok(true)
    }

    /// Ends the etcd, if it runs; it is back after a while.
    fn restart(&mut self, harm: Harm, back_ms: u64) -> Result<bool> {
        if !self.meeting.kill()? {
            return Ok(false);
        }
        let begin_us = now_us();
        let end_us = begin_us + back_ms * 1_000;
        self.meeting_due = Some(end_us);
        self.run.harms.push(Deed {
            harm,
            victim: None,
            begin_us,
            end_us,
        });
        Ok(true)
    }
}
