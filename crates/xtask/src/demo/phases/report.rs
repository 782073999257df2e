//! The account for people.

use super::account::{Account, PhaseAccount};
use crate::demo::plan::name_of;
use crate::demo::report::conclude;
use std::collections::BTreeSet;

/// Prints one run.
pub(crate) fn print(account: &Account) {
    print!("{}", text(account));
}

fn text(account: &Account) -> String {
    let layer = &account.script.layer;
    let mut lines = vec![
        format!(
            "capacity {}, {} experts, hidden {} in {}, {} tokens a rank, top-{}, {} routing, path {}, seed {}",
            layer.ranks,
            layer.experts,
            layer.hidden,
            name_of(layer.dispatch),
            layer.tokens,
            layer.top_k,
            name_of(layer.routing),
            name_of(layer.path),
            layer.seed
        ),
        String::new(),
        format!(
            "{:<7}{:<18}{:<14}{:<14}{:<12}{:>11}{:>12}{:>10}{:>12}{:>14}",
            "phase",
            "ranks",
            "joined",
            "left before",
            "killed",
            "first step",
            "change",
            "verified",
            "unverified",
            "without some"
        ),
    ];
    for (number, phase) in (1..).zip(&account.phases) {
        lines.push(row(number, phase));
    }
    lines.push(String::new());
    lines.push(format!(
        "median step {}, largest error {:.2e}; commands for one changed peer {}, healthy queue pairs \
         touched {}, addresses changed {}, objects left behind {}",
        time(account.median_step_ms),
        account.max_rel_err,
        account.devx_commands_update,
        account.healthy_qps_touched,
        account.addresses_changed,
        account.leaked_objects
    ));
    conclude(
        &mut lines,
        &account.problems,
        account.verified,
        (account.verified_steps, account.unverified_steps),
    );
    lines.push(String::new());
    lines.join("\n")
}

fn row(number: usize, phase: &PhaseAccount) -> String {
    format!(
        "{number:<7}{:<18}{:<14}{:<14}{:<12}{:>11}{:>12}{:>10}{:>12}{:>14}",
        list(&phase.ranks),
        list(&phase.joined),
        list(&phase.left),
        list(&phase.killed),
        phase
            .begin
            .map_or_else(|| "-".to_owned(), |s| s.to_string()),
        time(phase.change_ms),
        phase.verified_steps,
        phase.unverified_steps,
        phase.masked_steps
    )
}

fn list(ranks: &BTreeSet<u32>) -> String {
    if ranks.is_empty() {
        return "-".to_owned();
    }
    let ranks: Vec<String> = ranks.iter().map(u32::to_string).collect();
    ranks.join(" ")
}

fn time(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}
