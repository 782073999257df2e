//! The plan's file, parsed and checked.

use crate::demo::plan::MAX_RANKS;
use anyhow::{Context, Result, bail, ensure};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeSet;

/// One phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Who takes part.
    pub(crate) ranks: BTreeSet<u32>,
    /// Which of them are killed.
    pub(crate) killed: BTreeSet<u32>,
}

impl Phase {
    pub(crate) fn survivors(&self) -> BTreeSet<u32> {
        self.ranks.difference(&self.killed).copied().collect()
    }
}

/// As in the file, but for rank 0, which JSON's integers have no negative of.
impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.ranks.len()))?;
        for rank in &self.ranks {
            match self.killed.contains(rank) {
                true if *rank == 0 => list.serialize_element(&-0.0)?,
                true => list.serialize_element(&-i64::from(*rank))?,
                false => list.serialize_element(rank)?,
            }
        }
        list.end()
    }
}

/// Reads a plan.
///
/// # Errors
/// What is wrong, with the phase (counted from 1) and the rank.
pub(crate) fn parse(text: &str) -> Result<Vec<Phase>> {
    let value: Value = serde_json::from_str(text).context("it is not JSON")?;
    let Value::Array(phases) = value else {
        bail!("it is no array of phases, such as [[0,1],[0,1,2],[0,-1,2]]");
    };
    ensure!(!phases.is_empty(), "it has no phase");
    (1..).zip(&phases).map(|(n, p)| phase(n, p)).collect()
}

fn phase(number: usize, value: &Value) -> Result<Phase> {
    let Value::Array(entries) = value else {
        bail!("phase {number} is {value} and no array of ranks");
    };
    ensure!(!entries.is_empty(), "phase {number} has no rank in it");
    let mut phase = Phase::default();
    for entry in entries {
        let (rank, killed) = match (entry.as_i64(), entry.as_f64()) {
            (Some(number), _) => (number.unsigned_abs(), number < 0),
            // What JSON has for -0 is no integer.
            (None, Some(zero)) if zero == 0.0 && zero.is_sign_negative() => (0, true),
            _ => bail!("phase {number}: {entry} is no rank"),
        };
        let rank = u32::try_from(rank).ok().filter(|rank| *rank < MAX_RANKS);
        let Some(rank) = rank else {
            let last = MAX_RANKS - 1;
            bail!("phase {number}: rank {entry} is out of range, the last one is {last}");
        };
        ensure!(
            phase.ranks.insert(rank),
            "phase {number}: rank {rank} is named twice"
        );
        if killed {
            phase.killed.insert(rank);
        }
    }
    ensure!(
        phase.killed.len() < phase.ranks.len(),
        "phase {number}: nobody is left when rank {} is killed",
        phase.killed.last().copied().unwrap_or(0)
    );
    Ok(phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_who_takes_part_and_who_dies() -> Result<()> {
        let text = "[[0,1],[0,-2,9],[-0,3]]";
        let phases = parse(text)?;
        assert_eq!(phases[1].ranks, BTreeSet::from([0, 2, 9]));
        assert_eq!(phases[1].killed, BTreeSet::from([2]));
        assert_eq!(phases[2].killed, BTreeSet::from([0]));
        assert_eq!(phases[2].survivors(), BTreeSet::from([3]));
        let again = serde_json::to_string(&phases)?;
        assert_eq!(parse(&again)?, phases);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_said_with_phase_and_rank() {
        for (text, what) in [
            ("[[0,1]", "it is not JSON"),
            ("{}", "it is no array of phases"),
            ("[]", "it has no phase"),
            ("[[0],3]", "phase 2 is 3 and no array"),
            ("[[0],[]]", "phase 2 has no rank in it"),
            ("[[0,1.5]]", "phase 1: 1.5 is no rank"),
            ("[[0,\"1\"]]", "phase 1: \"1\" is no rank"),
            ("[[0,1],[1,2,-1]]", "phase 2: rank 1 is named twice"),
            (
                "[[0,64]]",
                "phase 1: rank 64 is out of range, the last one is 63",
            ),
            (
                "[[0,1],[-0,-1]]",
                "phase 2: nobody is left when rank 1 is killed",
            ),
        ] {
            let error = match parse(text) {
                Ok(phases) => panic!("accepted {text}: {phases:?}"),
                Err(error) => format!("{error:#}"),
            };
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
