//! What belongs to one process, and not to those that it forks.

use std::process;
use std::sync::OnceLock;

/// A value of each process: a child of `fork` gets a new one.
///
/// A child has its parent's memory and none of its threads: the parent's
/// devices have no engine there, share their sockets with the parent, and their
/// locks may be held for ever by threads that are gone. So a child starts over,
/// and leaves what it has inherited as it is.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    /// The oldest process first.
    first: OnceLock<Box<Generation<T>>>,
}

#[derive(Debug)]
struct Generation<T> {
    process: u32,
    value: T,
    /// Of a process that this one, or one after it, has forked.
    next: OnceLock<Box<Self>>,
}

impl<T: Default> Generation<T> {
    fn new(process: u32) -> Box<Self> {
        Box::new(Self {
            process,
            value: T::default(),
            next: OnceLock::new(),
        })
    }
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self {
            first: OnceLock::new(),
        }
    }

    /// The value of this process.
    pub(crate) fn get(&self) -> &T {
        self.of(process::id())
    }

    fn of(&self, process: u32) -> &T {
        let mut at = self.first.get_or_init(|| Generation::new(process));
        while at.process != process {
            at = at.next.get_or_init(|| Generation::new(process));
        }
        &at.value
    }

    /// The values of the processes that this one descends from.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = &T> {
        let own = process::id();
        let first = self.first.get();
        std::iter::successors(first, |at| at.next.get())
            .filter(move |at| at.process != own)
            .map(|at| &at.value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn each_process_has_a_value_of_its_own() {
        let values = PerProcess::<AtomicU32>::new();
        let own = process::id();
        for (index, process) in [own + 1, own, own + 2].into_iter().enumerate() {
            let value = values.of(process);
            assert_eq!(value.swap(7 + index as u32, Ordering::Relaxed), 0);
        }
        assert_eq!(values.get().load(Ordering::Relaxed), 8);
        let others: Vec<u32> = values
            .inherited()
            .map(|value| value.load(Ordering::Relaxed))
            .collect();
        assert_eq!(others, [7, 9]);
    }
}
