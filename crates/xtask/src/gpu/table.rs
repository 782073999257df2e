//! From what the ranks say to a line of the table: pure functions.

use super::shapes::Shape;
use super::timing::{Timing, median};
use crate::demo::plan::name_of;
use serde::Serialize;

/// One configuration, measured. Times are medians of the slowest rank, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) shape: Shape,
    /// Whether ranks shared GPUs: good for comparing kernels only.
    pub(super) shared: bool,
    pub(super) device: Option<String>,
    pub(super) dispatch_us: Option<f64>,
    pub(super) pair_us: Option<f64>,
    pub(super) wire_us: Option<f64>,
    pub(super) launch_us: Option<f64>,
    /// Of the rank that moves most.
    pub(super) bytes_moved: u64,
    pub(super) buffer_bytes: u64,
    /// Whether every rank said that everything was right.
    pub(super) verified: bool,
    /// Whether ranks that were started in the opposite order had the same sums, to the bit; of
    /// one configuration for each number of ranks.
    pub(super) same_bits: Option<bool>,
    /// Whether the pair is as fast as the bar wants; nothing where there is none.
    pub(super) met: Option<bool>,
    pub(super) problems: Vec<String>,
}

/// What `timings`, one for each rank that said something, come to.
pub(super) fn row(shape: Shape, timings: &[Timing], mut problems: Vec<String>) -> Row {
    let slowest = |times: fn(&Timing) -> &[f64]| {
        let medians = timings.iter().filter_map(|timing| median(times(timing)));
        medians.max_by(f64::total_cmp)
    };
    let said = timings.iter().filter_map(|timing| timing.problem.clone());
    problems.extend(said);
    if timings.len() != shape.ranks as usize {
        problems.push(format!(
            "{} of {} ranks have times",
            timings.len(),
            shape.ranks
        ));
    }
    let pair_us = slowest(|timing| &timing.pair_us);
    let verified = problems.is_empty() && timings.iter().all(|timing| timing.verified);
    Row {
        shared: false,
        device: timings.first().map(|timing| timing.device.clone()),
        dispatch_us: slowest(|timing| &timing.dispatch_us),
        pair_us,
        wire_us: slowest(|timing| &timing.wire_us),
        launch_us: slowest(|timing| &timing.launch_us),
        bytes_moved: timings.iter().map(|t| t.bytes_moved).max().unwrap_or(0),
        buffer_bytes: timings.iter().map(|t| t.buffer_bytes).max().unwrap_or(0),
        verified,
        same_bits: None,
        met: shape
            .bar_us
            .map(|bar| verified && pair_us.is_some_and(|pair| pair <= bar)),
        shape,
        problems,
    }
}

impl Row {
    /// Takes in what ranks said that were started in the opposite order, and the row that it made,
    /// beside what they `said` before.
    pub(super) fn compare(&mut self, said: &[Timing], (row, again): (Self, Vec<Timing>)) {
        let sums = |timings: &[Timing], rank| {
            let mut own = timings.iter().filter(|timing| timing.rank == rank);
            own.find_map(|timing| timing.sums.clone())
        };
        let again_problems = row.problems.into_iter();
        let mut problems: Vec<String> = again_problems
            .map(|problem| format!("started in the opposite order: {problem}"))
            .collect();
        for rank in 0..self.shape.ranks {
            match (sums(said, rank), sums(&again, rank)) {
                (Some(before), Some(after)) if before == after => {}
                (Some(_), Some(_)) => problems.push(format!(
                    "rank {rank} has other sums if ranks start in the opposite order"
                )),
                _ => problems.push(format!("rank {rank} did not say its sums")),
            }
        }
        let same = row.verified && problems.is_empty();
        self.same_bits = Some(same);
        self.verified &= same;
        self.met = self.met.map(|met| met && same);
        self.problems.append(&mut problems);
    }
}

/// Above the lines of [`line()`].
pub(super) const HEAD: &str = "ranks tokens experts type routing   | dispatch   pair  wire launch     KiB buffer MiB verified |   peer    bar";

/// One line of the table.
pub(super) fn line(row: &Row) -> String {
    let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
    let shape = &row.shape;
    let tokens = match shape.least_tokens {
        least if least < shape.tokens => format!("{least}-{}", shape.tokens),
        _ => shape.tokens.to_string(),
    };
    let verdict = match row.met {
        Some(true) => "met",
        Some(false) => "not met",
        None => "",
    };
    format!(
        "{:>5} {:>6} {:>7} {:<4} {:<9} | {:>8} {:>6} {:>5} {:>6} {:>7} {:>10.1} {:<8} | {:>6} {:>6} {verdict}",
        shape.ranks,
        tokens,
        shape.experts,
        name_of(shape.dispatch),
        name_of(shape.routing),
        time(row.dispatch_us),
        time(row.pair_us),
        time(row.wire_us),
        time(row.launch_us),
        row.bytes_moved / 1024,
        row.buffer_bytes as f64 / f64::from(1 << 20),
        if row.verified { "yes" } else { "NO" },
        time(shape.peer_us),
        time(shape.bar_us),
    )
}

#[cfg(test)]
mod tests {
    use super::super::shapes::shapes;
    use super::*;

    fn timing(pair: f64) -> Timing {
        Timing {
            rank: 0,
            device: "H100".to_owned(),
            dispatch_us: vec![pair / 2.0; 3],
            pair_us: vec![pair, 2.0 * pair, 0.0],
            wire_us: vec![1.0],
            launch_us: vec![2.2],
            bytes_moved: 2048,
            buffer_bytes: 8 << 20,
            verified: true,
            sums: Some("1".to_owned()),
            problem: None,
        }
    }

    #[test]
    fn other_sums_after_another_start_are_a_problem() {
        let of = |rank, sums: &str| Timing {
            rank,
            sums: Some(sums.to_owned()),
            ..timing(20.0)
        };
        let timed = || vec![of(1, "1"), of(0, "1")];
        let made = |timings: &[Timing]| row(shapes(2)[0], timings, Vec::new());
        for (again, same, said) in [
            (timed(), true, ""),
            (vec![of(0, "1"), of(1, "2")], false, "rank 1 has other sums"),
            (vec![of(0, "1")], false, "1 of 2 ranks have times"),
        ] {
            let mut row = made(&timed());
            row.compare(&timed(), (made(&again), again));
            assert_eq!(row.same_bits, Some(same));
            assert_eq!((row.verified, row.met), (same, Some(same)));
            assert_eq!(row.problems.is_empty(), same);
            assert!(same || row.problems[0].contains(said), "{row:?}");
        }
    }

    #[test]
    fn the_slowest_rank_counts_by_its_median() {
        let shape = shapes(2)[0];
        let row = row(shape, &[timing(20.0), timing(23.5)], Vec::new());
        assert_eq!((row.pair_us, row.dispatch_us), (Some(23.5), Some(11.75)));
        assert!(row.verified);
        assert_eq!(row.met, Some(true));
        let line = line(&row);
        assert!(
            line.contains("23.5") && line.ends_with("24.0 met"),
            "{line}"
        );
        assert_eq!(line.find('|'), HEAD.find('|'));
        assert_eq!(line.rfind('|'), HEAD.rfind('|'));
    }

    #[test]
    fn what_is_not_verified_meets_nothing() {
        let shape = shapes(2)[0];
        let wrong = Timing {
            verified: false,
            problem: Some("recv_x".to_owned()),
            ..timing(1.0)
        };
        for (timings, problems) in [
            (vec![timing(1.0), wrong], Vec::new()),
            (vec![timing(1.0)], Vec::new()),
            (
                vec![timing(1.0), timing(1.0)],
                vec!["rank 1 hung".to_owned()],
            ),
        ] {
            let row = row(shape, &timings, problems);
            assert!(!row.verified);
            assert_eq!(row.met, Some(false));
            assert_eq!(row.problems.len(), 1);
        }
    }

    #[test]
    fn slower_than_the_bar_is_not_met() {
        let row = row(shapes(2)[0], &[timing(24.1), timing(20.0)], Vec::new());
        assert!(row.verified);
        assert_eq!(row.met, Some(false));
    }
}
