//! Kernels against the host's operations, on whatever GPUs there are. Skipped without any.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says so if it cannot begin"
)]

mod faults;
mod rank;
mod shapes;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

/// What happens to ranks that bring so many tokens each.
type Fault = fn(usize);

fn main() -> ExitCode {
    let skip = ep_buffer::cuda::testing::device_count() == 0;
    if skip {
        eprintln!("skipped: no GPU here");
    }
    let faults: [(&str, Fault); 5] = [
        ("a_silent_rank_is_left_out_on_time", faults::silent_rank),
        (
            "a_rank_that_stops_in_the_middle_is_in_no_sum",
            faults::silent_in_the_middle,
        ),
        (
            "a_death_that_is_known_is_not_waited_for",
            faults::known_death,
        ),
        ("a_late_rank_is_waited_for", faults::late_rank),
        ("a_thousand_replays_give_the_same_bits", faults::same_bits),
    ];
    // By the kernels of middling and of large batches.
    let faults = [40, 300].into_iter().flat_map(|tokens| {
        faults.map(|(name, test)| -> (String, Box<dyn FnOnce() + Send>) {
            let name = format!("{name}_{tokens}_tokens");
            (name, Box::new(move || test(tokens)))
        })
    });
    let trials = faults.chain(shapes::trials()).map(|(name, test)| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(skip)
    });
    let mut arguments = Arguments::from_args();
    // Kernels of one test wait for one another; those of another must not be in between.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
