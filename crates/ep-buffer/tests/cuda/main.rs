//! Kernels against the host's operations, on whatever GPUs there are. Skipped without any.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says so if it cannot begin"
)]

mod agree;
mod faults;
mod lies;
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
    let faults: [(&str, Fault); 9] = [
        ("a_silent_rank_is_left_out_on_time", faults::silent_rank),
        (
            "a_rank_that_stops_in_the_middle_is_in_no_sum",
            faults::silent_in_the_middle,
        ),
        (
            "a_death_that_is_known_is_not_waited_for",
            faults::known_death,
        ),
        ("a_lying_rank_is_not_believed", lies::lying_rank),
        ("a_greedy_rank_gets_no_rows_of_others", lies::greedy_rank),
        ("a_late_rank_is_waited_for", faults::late_rank),
        (
            "a_rank_that_loses_its_own_rows_says_so",
            lies::own_rows_lost,
        ),
        ("a_rank_alone_leaves_nothing_for_later", faults::warmed_up),
        ("a_thousand_replays_give_the_same_bits", faults::same_bits),
    ];
    // By the kernels of small, middling and large batches; in one segment and in several.
    let size = |(tokens, hidden)| Size {
        tokens,
        max_tokens: tokens,
        hidden,
    };
    let sizes = [(10, 512), (40, 512), (1000, 1024)].map(size);
    let faults = sizes.into_iter().flat_map(|size| {
        faults.map(|(name, test)| -> shapes::Named {
            let name = format!("{name}_{}_tokens", size.tokens);
            (name, Box::new(move || test(size)))
        })
    });
    // With more to wait for than there are threads.
    let many = Size {
        max_tokens: 10_000,
        ..size((10, 128))
    };
    let name = "a_silent_rank_is_waited_for_once_10_of_10000_tokens".to_owned();
    let once: shapes::Named = (name, Box::new(move || faults::silent_rank(many)));
    let faults = faults.chain([once]);
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
