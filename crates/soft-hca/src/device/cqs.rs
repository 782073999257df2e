//! The completion queues of a device.

use std::collections::HashMap;

use mlx5gda_sys::cqe::Cqe64;

use super::Span;
use super::cq::{Arming, COUNTER, Cq, Pushed};
use crate::stats::Stats;

/// What has to be told about a completion queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It was armed and has a completion.
    Completion(u32),
    /// It is in error.
    Broken(u32),
}

/// The completion queues of a device, and what has to be told of them.
#[derive(Debug, Default)]
pub(crate) struct Cqs {
    pub(crate) queues: HashMap<u32, Cq>,
    notices: Vec<Notice>,
}

impl Cqs {
    /// Writes a completion to a queue, made for the owner bit given.
    pub(crate) fn complete(
        &mut self,
        cqn: u32,
        solicited: bool,
        stats: &mut Stats,
        make: impl FnOnce(bool) -> Cqe64,
    ) {
        let cq = self.queues.get_mut(&cqn);
        let pushed = cq.map_or(Pushed::Lost, |cq| cq.push(solicited, make));
        match pushed {
            Pushed::Quietly => {}
            Pushed::Event => self.notices.push(Notice::Completion(cqn)),
            Pushed::Broken => self.notices.push(Notice::Broken(cqn)),
            Pushed::Lost => {}
        }
        if matches!(pushed, Pushed::Quietly | Pushed::Event) {
            stats.completions += 1;
        } else {
            stats.cq_overruns += 1;
        }
    }

    /// Has the completions of a queue go to another ring of `2^log` entries;
    /// whether they do. A queue whose old ring is gone is in error.
    pub(crate) fn resize(&mut self, cqn: u32, log: u32, ring: Span) -> bool {
        let cq = self.queues.get_mut(&cqn);
        let resized = cq.map_or(Err(Pushed::Lost), |cq| cq.resize(log, ring));
        if resized == Err(Pushed::Broken) {
            self.notices.push(Notice::Broken(cqn));
        }
        resized.is_ok()
    }

    /// Acts on a value written to the CQ doorbell register of a page: the
    /// arming word, then the queue's number.
    ///
    /// Several queues may share the register and overwrite each other's value;
    /// the changed arming words tell ([`Cqs::look_at_arming`]). The first word
    /// of a new queue may be the zero that was there before, so queues of the
    /// page that were never armed and have it are armed along.
    pub(crate) fn rung(&mut self, page: u32, value: u64) {
        let (word, number) = ((value >> 32) as u32, value as u32 & COUNTER);
        for (&cqn, cq) in &mut self.queues {
            let named = cqn == number && cq.cqc.uar_page() == page;
            let fresh = cq.arming == Arming::Never && cq.cqc.uar_page() == page;
            let found = if named { Some(word) } else { cq.arm_word() };
            if let Some(word) = found
                && (named || fresh && word == 0)
                && cq.arm(word)
            {
                self.notices.push(Notice::Completion(cqn));
            }
        }
    }

    /// Acts on arming words that have changed, those of a page's queues.
    pub(crate) fn look_at_arming(&mut self, page: u32) {
        let of_page = |(_, cq): &(&u32, &mut Cq)| cq.cqc.uar_page() == page;
        for (&cqn, cq) in self.queues.iter_mut().filter(of_page) {
            if let Some(word) = cq.arm_word()
                && word != cq.arm_seen
                && cq.arm(word)
            {
                self.notices.push(Notice::Completion(cqn));
            }
        }
    }

    /// What has to be told, oldest first.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}
