//! Commands for machines with GPUs. Their programs are examples and tests of `ep-buffer` with the
//! feature `cuda`; where there is no Rust, they are built elsewhere and named by `--program`.

pub(crate) mod bench;
pub(crate) mod chaos;
mod shapes;
mod table;
pub(crate) mod test;
pub(crate) mod timing;

use crate::cargo::build_example;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// GPUs of this machine, or why there are none.
pub(crate) fn count() -> std::result::Result<u32, String> {
    let list = Command::new("nvidia-smi")
        .arg("-L")
        .stdin(Stdio::null())
        .output();
    match list {
        Ok(output) if output.status.success() => {
            match gpus(&String::from_utf8_lossy(&output.stdout)) {
                0 => Err("nvidia-smi sees no GPU".to_owned()),
                number => Ok(number),
            }
        }
        Ok(output) => Err(format!("nvidia-smi: {}", output.status)),
        // Containers may have the devices without the tools.
        Err(_) if Path::new("/dev/nvidia0").exists() => {
            let device = |n: &u32| Path::new(&format!("/dev/nvidia{n}")).exists();
            Ok((0..).take_while(device).count() as u32)
        }
        Err(_) => Err("no NVIDIA driver".to_owned()),
    }
}

/// Counts lines like `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)`.
fn gpus(list: &str) -> u32 {
    list.lines().filter(|line| line.starts_with("GPU ")).count() as u32
}

/// The program that is a rank, built if none is given.
fn rank_program(given: Option<&PathBuf>) -> Result<PathBuf> {
    match given {
        Some(program) => Ok(program.clone()),
        None => build_example("ep-buffer", "gpu_rank", &["cuda"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_by_their_lines() {
        let list = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n  MIG 1g (UUID: MIG-2)\n\
            GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-3)\n";
        assert_eq!(gpus(list), 2);
        assert_eq!(gpus("No devices found."), 0);
    }
}
