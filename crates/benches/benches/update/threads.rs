//! How long single threads of this process have run on a processor, which other threads
//! that wait for the same processor do not change.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A thread of this process, by its number.
#[derive(Debug)]
pub(crate) struct Thread(u32);

/// All that were there when this was asked last.
#[derive(Debug, Default)]
pub(crate) struct Threads(BTreeSet<u32>);

impl Threads {
    /// The thread of this name that was not there when this was asked last.
    pub(crate) fn newest(&mut self, name: &str) -> Thread {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut there = BTreeSet::new();
            for entry in std::fs::read_dir("/proc/self/task").unwrap() {
                let file = entry.unwrap().file_name();
                there.insert(file.to_str().unwrap().parse().unwrap());
            }
            let of_that_name = |number: &&u32| {
                // One that has ended meanwhile has no name.
                let comm = std::fs::read_to_string(format!("/proc/self/task/{number}/comm"));
                comm.is_ok_and(|comm| comm.trim_end() == name)
            };
            if let Some(number) = there.difference(&self.0).find(of_that_name) {
                let newest = Thread(*number);
                self.0 = there;
                return newest;
            }
            // A thread takes its name when it begins to run.
            assert!(Instant::now() < deadline, "no thread {name}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Thread {
    /// For how long it has run (proc_pid_schedstat(5): the first number is nanoseconds).
    pub(crate) fn ran(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.0);
        let text = std::fs::read_to_string(path).unwrap();
        let nanoseconds = text.split_whitespace().next().unwrap();
        Duration::from_nanos(nanoseconds.parse().unwrap())
    }
}
