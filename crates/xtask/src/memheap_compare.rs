//! `memheap` beside other offset allocators.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use benches::memheap_loads::{ByAllocator, measure_all};

/// Measure offset allocators side by side and print how they compare.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the figures to this file as well
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Takes about half a minute; in a debug build the figures mean nothing.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        !cfg!(debug_assertions),
        "unoptimised: run `cargo run --release -p xtask -- memheap-compare`"
    );
    let report = measure_all(&mut |load| eprintln!("measuring {load}"));
    for (title, loads) in [
        ("Loads", &report.loads),
        ("Growing numbers of live blocks", &report.scaling),
        ("Two threads, one heap", &report.threads),
    ] {
        print(title, loads);
    }
    if let Some(path) = &args.json {
        let name = || path.display().to_string();
        let file = File::create(path).with_context(name)?;
        serde_json::to_writer_pretty(file, &report).with_context(name)?;
    }
    Ok(())
}

fn print(title: &str, loads: &BTreeMap<String, ByAllocator>) {
    println!("\n{title}");
    println!(
        "{:<20} {:<26} {:>9} {:>9} {:>10} {:>9}",
        "load", "allocator", "ns/op", "ratio", "footprint", "failures"
    );
    for (load, allocators) in loads {
        for (allocator, figures) in allocators {
            let footprint = figures.footprint.map(|f| format!("{f:.3}"));
            println!(
                "{load:<20} {allocator:<26} {:>9.1} {:>9.2} {:>10} {:>9}",
                figures.ns_per_op,
                figures.ratio_to_memheap,
                footprint.as_deref().unwrap_or("-"),
                figures.failures
            );
        }
    }
}
