//! The commands for GPUs, on a machine that has none and on one that seems to have two.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Says that there are two GPUs.
const NVIDIA_SMI: &str = "#!/bin/sh\necho 'GPU 0: H100'\necho 'GPU 1: H100'\n";

/// A rank with times of its own. What it is told decides what it says: with 4096 tokens nothing is
/// right, and with Zipf's law it says nothing.
const RANK: &str = r#"#!/bin/sh
right=true
rank=0
case "$*" in
*--tokens=4096*) right=false ;;
*--routing=zipf*) echo "no luck" >&2; exit 1 ;;
*--rank=1*) slow=5; rank=1 ;;
esac
times="[1$slow.0, 1$slow.5, 1$slow.25]"
say() {
    echo "{\"event\":\"timing\",\"rank\":$1,\"device\":\"H100\",\"dispatch_us\":$times,\"pair_us\":$times,\"wire_us\":[9],\"launch_us\":[2],\"bytes_moved\":2048,\"buffer_bytes\":1048576,\"verified\":$right,\"sums\":\"7\"}"
}
case "$*" in
*--share*) for rank in 0 1 2 3; do say $rank; done ;;
*) say $rank ;;
esac
"#;

/// A directory with programs in it.
fn programs(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

fn xtask(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
        .output()
        .unwrap()
}

#[test]
fn without_a_driver_everything_is_skipped() {
    let broken = programs(&[("nvidia-smi", "#!/bin/sh\nexit 9\n")]);
    for verb in ["bench-gpu", "gpu-chaos"] {
        let output = xtask(&[verb], broken.path());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(
            said.starts_with("skipped: nvidia-smi: exit status: 9"),
            "{said}"
        );
    }
    let tests = "#!/bin/sh\necho 'test result: ok. 0 passed; 0 failed; 7 ignored; 0 measured'\n";
    let tests = programs(&[("cuda", tests)]);
    let program = format!("--program={}", tests.path().join("cuda").display());
    let output = xtask(&["test-gpu", &program], broken.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains("0 ran, 0 of them failed, 7 skipped: nvidia-smi"),
        "{said}"
    );
}

#[test]
fn every_configuration_is_in_the_table_with_the_slowest_rank() {
    let dir = programs(&[("nvidia-smi", NVIDIA_SMI), ("rank", RANK)]);
    let json: PathBuf = dir.path().join("out.json");
    let program = format!("--program={}", dir.path().join("rank").display());
    let to = format!("--json={}", json.display());
    let output = xtask(&["bench-gpu", &program, &to, "--seed=1"], dir.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Some of it was wrong.
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("skipped: 4 ranks, as there are 2 GPUs"),
        "{said}"
    );
    assert!(said.contains("2 of 2 bars met"), "{said}");
    let same = said.matches("joined in the opposite order: the same sums to the bit");
    assert_eq!(same.count(), 1, "{said}");
    assert!(said.contains("no luck"), "{said}");
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rows = rows.as_array().unwrap();
    let mut wrong = 0;
    for row in rows {
        let silent = row["routing"] == "zipf";
        let right = !silent && row["tokens"] != 4096;
        assert_eq!(row["verified"], right, "{row}");
        wrong += u32::from(!right);
        if right {
            assert_eq!(row["pair_us"], 15.25, "{row}");
        }
    }
    assert_eq!(wrong, 3);
    assert!(
        said.contains(&format!("{} configurations, 3 not verified", rows.len())),
        "{said}"
    );
}

#[test]
fn sums_that_depend_on_who_starts_first_are_a_problem() {
    // Ranks write down who they are; what they say has to do with who was there before.
    let rank = RANK.replace("\\\"7\\\"", "\\\"$(cat order | tr -d '\\n')\\\"");
    assert_ne!(rank, RANK);
    let rank = rank.replace(
        "say() {",
        "cd \"${0%/*}\"; echo $rank >>order; sleep 0.2\nsay() {",
    );
    let dir = programs(&[("nvidia-smi", NVIDIA_SMI), ("rank", &rank)]);
    let program = format!("--program={}", dir.path().join("rank").display());
    let output = xtask(&["bench-gpu", &program, "--tokens=8"], dir.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let problem = "! rank 0 has other sums if ranks start in the opposite order";
    assert!(said.contains(problem), "{said}");
    assert!(said.contains("1 configurations, 1 not verified"), "{said}");
    let order = std::fs::read_to_string(dir.path().join("order")).unwrap();
    assert!(order.ends_with("1\n0\n"), "{order}");
}

#[test]
fn ranks_that_share_gpus_are_measured_by_one_process_and_held_against_no_bar() {
    let dir = programs(&[("nvidia-smi", NVIDIA_SMI), ("rank", RANK)]);
    let program = format!("--program={}", dir.path().join("rank").display());
    let arguments = ["bench-gpu", &program, "--share", "--ranks=4", "--tokens=8"];
    let output = xtask(&arguments, dir.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("^ ranks share GPUs"), "{said}");
    let end = "1 configurations, 0 not verified; 0 of 0 bars met";
    assert!(said.contains(end), "{said}");
}
