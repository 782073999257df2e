//! A network of one's own, for addresses that loopback does not have.

use std::process::Command;

fn ip(arguments: &str) -> bool {
    Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs `test` on a thread in a network namespace where loopback has these IPv6
/// addresses. Without the right to make one, the test is skipped, and says so.
pub(crate) fn with_addresses(addresses: &[&str], test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = || {
            // SAFETY: takes no pointers; threads of this one inherit the
            // namespace, others are not concerned.
            let made = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            let ready = made
                && ip("link set lo up")
                && addresses
                    .iter()
                    .all(|address| ip(&format!("-6 addr add {address}/128 dev lo nodad")));
            if ready {
                test();
            } else {
                skip("needs a network namespace, which takes root and ip(8)");
            }
        };
        scope.spawn(run).join().unwrap();
    });
}

#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
