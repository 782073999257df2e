//! The account for people.

use super::account::Account;
use super::deaths::{DeathAccount, Rejoin};
use super::plan::name_of;

/// Problems that are shown; the JSON has them all.
const SHOWN_PROBLEMS: usize = 12;

/// Prints one run in full.
pub(crate) fn print(account: &Account) {
    print!("{}", text(account));
}

/// Prints one run of several as a row of a table.
pub(crate) fn print_row(index: usize, account: &Account) {
    if index == 0 {
        println!(
            "{:>3}  {:>10}  {:<14}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
            "run", "seed", "killed", "verified", "detect", "connect", "step", "gap"
        );
    }
    let killed: Vec<String> = account
        .plan
        .kills
        .iter()
        .map(|kill| format!("{}@{}", kill.rank, kill.step))
        .collect();
    let killed = if killed.is_empty() {
        "none".to_owned()
    } else {
        killed.join(" ")
    };
    println!(
        "{:>3}  {:>10}  {:<14}  {:>8}  {:>9}  {:>9}  {:>9}  {:>9}",
        index + 1,
        account.plan.seed,
        killed,
        if account.verified { "yes" } else { "NO" },
        time(account.detect_ms),
        time(account.rejoin_connect_ms),
        time(account.median_step_ms),
        time(account.longest_survivor_gap_ms),
    );
    for problem in account.problems.iter().take(SHOWN_PROBLEMS) {
        println!("     ! {problem}");
    }
}

fn text(account: &Account) -> String {
    let plan = &account.plan;
    let mut lines = vec![format!(
        "{} ranks, {} experts, hidden {} in {}, {} tokens a rank, top-{}, {} routing, path {}, seed {}",
        plan.ranks,
        plan.experts,
        plan.hidden,
        name_of(plan.dispatch),
        plan.tokens,
        plan.top_k,
        name_of(plan.routing),
        name_of(plan.path),
        plan.seed
    )];
    lines.push(String::new());
    for death in &account.deaths {
        tell_death(&mut lines, death);
    }
    lines.push(format!(
        "{:<6}{:>6}{:>11}{:>13}{:>14}{:>10}{:>14}",
        "rank", "lives", "verified", "unverified", "without some", "step", "largest error"
    ));
    for rank in &account.rank_accounts {
        lines.push(format!(
            "{:<6}{:>6}{:>11}{:>13}{:>14}{:>10}{:>14.2e}",
            rank.rank,
            rank.lives,
            rank.verified_steps,
            rank.unverified_steps,
            rank.masked_steps,
            time(rank.median_step_ms),
            rank.max_rel_err
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "missing contributions: {} reported, {} by the reference",
        account.missing_contributions_reported, account.missing_contributions_expected
    ));
    lines.push(format!(
        "median step {}; from one step's end to the next one's on ranks that lived: \
         median {}, longest {}",
        time(account.median_step_ms),
        time(account.median_survivor_gap_ms),
        time(account.longest_survivor_gap_ms)
    ));
    for dropped in &account.dropped_attempts {
        lines.push(format!(
            "an attempt to take a rank in was dropped {dropped}"
        ));
    }
    conclude(
        &mut lines,
        &account.problems,
        account.verified,
        (account.verified_steps, account.unverified_steps),
    );
    lines.push(String::new());
    lines.join("\n")
}

fn tell_death(lines: &mut Vec<String>, death: &DeathAccount) {
    let rank = death.rank;
    let mut tell = |at: Option<f64>, what: String| {
        let at = at.map_or_else(|| "?".to_owned(), |at| format!("{at:+.1} ms"));
        lines.push(format!("{at:>12}  {what}"));
    };
    let after = death
        .last_step
        .map_or_else(String::new, |step| format!(", after its step {step}"));
    tell(
        Some(0.0),
        format!(
            "rank {rank} killed{after}, {:.1} ms into the run",
            death.at_ms
        ),
    );
    tell(
        death.detect_first_ms,
        format!("a survivor has noticed that rank {rank} is gone"),
    );
    tell(death.detect_ms, "all survivors have".to_owned());
    if let Some(rejoin) = &death.rejoin {
        let spawned = rejoin.spawned_after_ms;
        tell(
            Some(spawned),
            format!("a new process for rank {rank} starts"),
        );
        let ready = rejoin.start_ms.map(|start| spawned + start);
        tell(ready, "it is ready to be taken in".to_owned());
        tell(
            Some(spawned + rejoin.admitted_ms),
            format!(
                "all survivors count it from epoch {}",
                rejoin.admitted_epoch
            ),
        );
        let step = rejoin
            .first_complete_step
            .map_or_else(String::new, |step| format!(", step {step},"));
        tell(
            rejoin.complete_after_ms,
            format!("the first complete step{step} is done on every rank"),
        );
    }
    lines.push(format!(
        "              steps without rank {rank}: {}; longest gap at the death {}, at the rejoin {}",
        death.masked_steps,
        time(death.gap_at_death_ms),
        time(death.gap_at_rejoin_ms)
    ));
    if let Some(rejoin) = &death.rejoin {
        tell_updates(lines, rejoin);
    }
    lines.push(String::new());
}

fn tell_updates(lines: &mut Vec<String>, rejoin: &Rejoin) {
    for update in &rejoin.updates {
        lines.push(format!(
            "              rank {}: {} commands on {} queue pairs in {}; \
             healthy ones touched: {}, addresses changed: {}",
            update.survivor,
            update.commands,
            update.qps_touched,
            time(Some(update.connect_ms)),
            update.healthy_qps_touched,
            update.addresses_changed
        ));
    }
}

fn time(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))
}

/// The end of a report: what went wrong, and the verdict on the steps that were
/// verified and those that were not.
pub(super) fn conclude(
    lines: &mut Vec<String>,
    problems: &[String],
    verified: bool,
    (verified_steps, unverified_steps): (u64, u64),
) {
    for problem in problems.iter().take(SHOWN_PROBLEMS) {
        lines.push(format!("! {problem}"));
    }
    if problems.len() > SHOWN_PROBLEMS {
        let more = problems.len() - SHOWN_PROBLEMS;
        lines.push(format!("! and {more} more"));
    }
    lines.push(if verified {
        format!("VERIFIED: all {} steps", verified_steps)
    } else {
        format!(
            "NOT VERIFIED: {} steps verified, {} not",
            verified_steps, unverified_steps
        )
    });
}
