//! The demo as a process: what it refuses, and that it leaves nothing behind.
#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A program that stands for the ranks' process.
fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("rank.sh");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn demo(flags: &[&str], program: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("demo")
        .args(flags)
        .arg("--program")
        .arg(program);
    command
}

fn run(flags: &[&str], program: &Path) -> Output {
    demo(flags, program).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes that run `program`, by their command lines.
fn running(program: &Path) -> usize {
    let needle = program.to_str().unwrap().as_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        // The demo itself names the program too, behind a flag.
        .filter(|line| {
            line.starts_with(b"/bin/sh\0") && line.windows(needle.len()).any(|w| w == needle)
        })
        .count()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn bad_input_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let program = script(dir.path(), &format!("touch {}", started.display()));
    for (flags, named) in [
        (["--top-k", "17"], "--top-k 17"),
        (["--hidden", "12"], "--hidden 12"),
        (["--kill", "9"], "--kill 9"),
        (["--ranks", "0"], "--ranks 0"),
        (["--routing", "none"], "none"),
    ] {
        let output = run(&flags, &program);
        assert!(!output.status.success(), "{flags:?} accepted");
        assert!(
            text(&output.stderr).contains(named),
            "{}",
            text(&output.stderr)
        );
    }
    assert!(!started.exists());
}

#[test]
fn a_bad_plan_starts_nothing_and_is_named_with_phase_and_rank() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let program = script(dir.path(), &format!("touch {}", started.display()));
    let plan = dir.path().join("plan.json");
    for (text, more, named) in [
        ("[[0,1],[2,1,-2]]", None, "phase 2: rank 2 is named twice"),
        (
            "[[0,-1]]",
            Some("--steps=1"),
            "phase 1 has no step before and after the death of rank 1",
        ),
        ("[[0,1]]", Some("--kill=1"), "--kill"),
    ] {
        fs::write(&plan, text).unwrap();
        let mut flags = vec!["--plan", plan.to_str().unwrap()];
        flags.extend(more);
        let output = run(&flags, &program);
        assert!(!output.status.success(), "{text} accepted");
        assert!(
            self::text(&output.stderr).contains(named),
            "{}",
            self::text(&output.stderr)
        );
    }
    assert!(!started.exists());
}

#[test]
fn a_rank_that_fails_is_quoted_and_the_others_are_ended() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        r#"case "$*" in
        *--rank=1*) echo '{"event":"error","message":"protocol version 9, ours is 1"}'; exit 3;;
        *--rank=2*) echo 'no such device soft_mlx5_7' >&2; exit 4;;
        esac
        exec sleep 600"#,
    );
    let json = dir.path().join("account.json");
    let output = run(&["--json", json.to_str().unwrap()], &program);
    assert!(!output.status.success());
    let report = text(&output.stdout);
    assert!(report.contains("protocol version 9, ours is 1"), "{report}");
    assert!(report.contains("no such device soft_mlx5_7"), "{report}");
    assert!(report.contains("NOT VERIFIED"), "{report}");
    assert_eq!(running(&program), 0);
    let account: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(account["verified"], false);
    assert_eq!(account["unverified_steps"], 4 * 200);
}

#[test]
fn a_run_that_hangs_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(
        dir.path(),
        r#"echo '{"event":"ready"}'; while :; do sleep 0.1; done"#,
    );
    let begun = Instant::now();
    let output = run(&["--deadline-s", "1", "--kill", "none"], &program);
    assert!(!output.status.success());
    let report = text(&output.stdout);
    assert!(
        report.contains("not finished after 1 s: rank 0 was ready"),
        "{report}"
    );
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(running(&program), 0);
}

#[test]
fn ranks_do_not_outlive_a_demo_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(dir.path(), "while :; do sleep 0.1; done");
    let mut child = demo(&["--ranks", "3"], &program)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("three ranks", || running(&program) == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("no rank is left", || running(&program) == 0);
}
