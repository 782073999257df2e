//! Our tables of the device's layouts, held against the C headers of others.

mod device;
mod headers;
mod ifc;
mod kernel;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use headers::Sources;

/// Compare every field that `mlx5gda-sys` defines with the kernel's and rdma-core's headers.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel's include/linux/mlx5/mlx5_ifc.h, in place of Debian's
    #[arg(long)]
    header: Option<PathBuf>,
}

/// What a comparison found.
#[derive(Debug, Default)]
struct Report {
    /// Facts held against each other.
    compared: usize,
    /// Fields that the header leaves reserved, and why.
    unnamed: Vec<String>,
    /// One line for each fact that differs.
    differences: Vec<String>,
}

impl Report {
    /// Counts one fact, and keeps it if the two sides differ.
    fn fact(&mut self, what: &str, ours: usize, theirs: Option<usize>) {
        self.compared += 1;
        if theirs != Some(ours) {
            let theirs = theirs.map_or("unknown".to_owned(), |theirs| theirs.to_string());
            self.differ(format!("{what}: ours {ours}, theirs {theirs}"));
        }
    }

    fn differ(&mut self, line: String) {
        self.differences.push(line);
    }

    fn print(&self, header: &str) {
        for line in self.unnamed.iter().chain(&self.differences) {
            println!("{line}");
        }
        println!(
            "{header}: {} facts compared, {} differences",
            self.compared,
            self.differences.len()
        );
    }
}

/// Finds the headers, compares; whether nothing differs.
///
/// # Errors
/// A header cannot be found, downloaded or read.
pub(crate) fn run(args: &Args) -> Result<bool> {
    check(&Sources::find(args.header.as_deref())?)
}

/// Compares, prints how much and every difference; whether there is none.
///
/// # Errors
/// A header cannot be read.
pub(crate) fn check(sources: &Sources) -> Result<bool> {
    let kernel = kernel::compare(&sources.ifc()?, mlx5gda_sys::prm::LAYOUTS);
    kernel.print("mlx5_ifc.h");
    let device = device::compare()?;
    device.print("mlx5dv.h");
    Ok(kernel.differences.is_empty() && device.differences.is_empty())
}
