//! Kernels against the host's operations, on whatever GPUs there are. Skipped without any.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says so if it cannot begin"
)]

mod agree;
mod faults;
mod meeting;
mod rank;
mod shapes;

use faults::Size;
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

type Fault = fn(Size);

fn main() -> ExitCode {
    let skip = ep_buffer::cuda::testing::device_count() == 0;
    if skip {
        eprintln!("skipped: no GPU here");
    }
    let faults: [(&str, Fault); 7] = [
        ("a_silent_rank_is_left_out_on_time", faults::silent_rank),
        (
            "a_rank_that_stops_in_the_middle_is_in_no_sum",
            faults::silent_in_the_middle,
        ),
        (
            "a_death_that_is_known_is_not_waited_for",
            faults::known_death,
        ),
        ("a_lying_rank_is_not_believed", faults::lying_rank),
        ("a_greedy_rank_gets_no_rows_of_others", faults::greedy_rank),
        ("a_late_rank_is_waited_for", faults::late_rank),
        ("a_thousand_replays_give_the_same_bits", faults::same_bits),
    ];
    // By the kernels of small, middling and large batches; in one segment and in several.
    let faults = [(10, 512), (40, 512), (1000, 1024)]
        .into_iter()
        .flat_map(|(tokens, hidden)| {
            faults.map(|(name, test)| -> shapes::Named {
                let name = format!("{name}_{tokens}_tokens");
                (name, Box::new(move || test(Size { tokens, hidden })))
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
