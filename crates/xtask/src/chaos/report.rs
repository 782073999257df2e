//! What is printed.

use super::account::Account;

/// How much longer the survivors' steps may take while somebody comes in.
const WANTED_RATIO: f64 = 1.5;

/// The account for people.
pub(super) fn text(account: &Account) -> String {
    let mut lines = vec![
        format!(
            "{} ranks, seed {}: {} kills, {} freezes ({} of them replaced meanwhile), {} times lost packets, \
             {} times no link, {} failing commands, {} restarts of etcd",
            account.ranks,
            account.seed,
            account.kills,
            account.freezes,
            account.ousted,
            account.losses,
            account.links_down,
            account.failing_commands,
            account.etcd_restarts
        ),
        format!(
            "{} steps: {} verified, {} not; {} hangs, {} objects leaked, {} times stale data accepted",
            account.steps,
            account.verified_steps,
            account.unverified_steps,
            account.hangs,
            account.leaked_objects,
            account.stale_accepted
        ),
        format!(
            "{} updates committed, {} dropped; connecting to a changed peer: {}",
            account.updates_committed, account.updates_dropped, account.reconnect_ms
        ),
        "from the end of a step to the end of the next:".to_owned(),
        format!(
            "  {:>7} times undisturbed: {}",
            account.undisturbed_gaps, account.step_ms
        ),
        format!(
            "  {:>7} times in {} attempts to take somebody in: {}",
            account.survivor_gaps, account.survivor_attempts, account.survivor_gap_ms
        ),
        format!(
            "  {:>7} times with a death not yet noticed: {}",
            account.detection_gaps, account.detection_gap_ms
        ),
    ];
    if let Some(ratio) = account.gap_ratio_p99 {
        lines.push(format!(
            "99th percentile while somebody comes in to undisturbed: {ratio:.2} \
             (wanted where each rank has a core: at most {WANTED_RATIO})"
        ));
    }
    let problems = account.problems.iter().take(20);
    lines.extend(problems.map(|problem| format!("! {problem}")));
    let verdict = if account.good { "GOOD" } else { "NOT GOOD" };
    lines.push(verdict.to_owned());
    lines.push(String::new());
    lines.join("\n")
}
