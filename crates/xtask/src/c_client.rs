//! C and C++ programs that know rdma-core's headers and nothing of us run on the software NIC.

use crate::cargo::root;
use crate::soft_hca_libs::{self, IBVERBS, MLX5};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// How the header and compilers are found missing.
pub(crate) fn missing() -> Option<String> {
    let header = Path::new("/usr/include/infiniband/mlx5dv.h");
    if !header.exists() {
        return Some(format!("no {}", header.display()));
    }
    let missing = ["cc", "c++"].into_iter().find(|compiler| {
        let version = Command::new(compiler).arg("--version").output();
        !version.is_ok_and(|output| output.status.success())
    });
    missing.map(|compiler| format!("no {compiler}"))
}

/// Builds the client in both languages against the system's libraries, and runs it with ours in
/// their place, found by path and preloaded; returns the number of runs.
pub(crate) fn run() -> Result<u64> {
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let libraries = soft_hca_libs::make(&work.path().join("lib"))?;
    let source = root()?.join("crates/soft-hca/tests/client.c");
    let languages: [(&str, &[&str]); 2] = [("cc", &["-std=gnu11"]), ("c++", &["-x", "c++"])];
    let path = libraries.display().to_string();
    let preload = format!("{path}/{IBVERBS}:{path}/{MLX5}");
    let mut runs = 0;
    for (compiler, flags) in languages {
        let client = work.path().join(compiler);
        let built = Command::new(compiler)
            .args(flags)
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&client, &source])
            .args(["-libverbs", "-lmlx5"])
            .status()?;
        ensure!(built.success(), "{compiler} does not compile the client");
        for (variable, value) in [("LD_LIBRARY_PATH", &path), ("LD_PRELOAD", &preload)] {
            println!("client by {compiler}, {variable}");
            let output = Command::new(&client)
                .env("SOFT_HCA_DEVICES", "2")
                .env(variable, value)
                .output()?;
            let (said, complaint) = (text(&output.stdout), text(&output.stderr));
            print!("{said}");
            ensure!(output.status.success(), "{}: {complaint}", output.status);
            ensure!(
                complaint.is_empty(),
                "the client's loader says: {complaint}"
            );
            runs += 1;
        }
    }
    Ok(runs)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
