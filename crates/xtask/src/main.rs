//! Developer commands: `cargo xtask <verb>`, one file per verb.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program speaks through its output"
)]

mod c_client;
mod cargo;
mod chaos;
mod codegen;
mod deadline;
mod demo;
mod features;
mod footprint;
mod fuzz;
mod gpu;
mod kernels;
mod memheap_compare;
mod msrv;
mod pcap_check;
mod prm_check;
mod rxe_check;
mod soft_hca_libs;
mod supervised;
mod test;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands", version)]
enum Verb {
    /// Measure dispatch and combine on GPUs, each configuration verified.
    BenchGpu(gpu::bench::Args),
    /// Kill, freeze and cut off processes at random while they run an MoE layer.
    Chaos(chaos::Args),
    /// Run an MoE layer on several processes, kill one, take a new one in.
    Demo(Box<demo::Args>),
    /// Format, lints, tests, docs, packaging: everything that must hold.
    Test(test::Args),
    /// Make the raw bindings of `mlx5gda-sys` from the installed headers.
    Bindgen {
        /// Only say whether the checked-in ones are up to date
        #[arg(long)]
        check: bool,
    },
    /// Say how much control memory a rank needs, by formula and measured.
    Footprint(footprint::Args),
    /// Run the fuzz targets for a while.
    Fuzz(fuzz::Args),
    /// Kill processes at random while they replay graphs on GPUs, and replace them.
    GpuChaos(gpu::chaos::Args),
    /// Make the C header of `mlx5gda-sys`.
    Header {
        /// Only say whether the checked-in one is up to date
        #[arg(long)]
        check: bool,
    },
    /// Make the header that the kernels of `ep-buffer` share with its host code.
    KernelHeader {
        /// Only say whether the checked-in one is up to date
        #[arg(long)]
        check: bool,
    },
    /// Compile the kernels of `ep-buffer`, with the installed CUDA compiler or one that is fetched.
    Kernels(kernels::Args),
    /// Measure `memheap` beside other offset allocators.
    MemheapCompare(memheap_compare::Args),
    /// Leave the software NIC in a directory, as `libibverbs.so.1` and `libmlx5.so.1`.
    SoftHcaLibs(soft_hca_libs::Args),
    /// Capture what the software NIC sends and compare how Wireshark's dissector reads it.
    PcapCheck(pcap_check::Args),
    /// Compare the layouts of `mlx5gda-sys` with the C headers of others.
    PrmCheck(prm_check::Args),
    /// Exchange every operation with the Linux kernel's Soft-RoCE, in a virtual machine.
    RxeCheck(rxe_check::Args),
    /// Run the tests that need GPUs.
    TestGpu(gpu::test::Args),
    /// Replace this process by another that dies with its parent.
    #[command(hide = true)]
    Supervised(supervised::Args),
}

fn main() -> ExitCode {
    let outcome = match Verb::parse() {
        Verb::BenchGpu(args) => gpu::bench::run(&args),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bindgen { check } => codegen::run(codegen::Output::Bindings, check),
        Verb::Footprint(args) => footprint::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args).map(|()| true),
        Verb::GpuChaos(args) => gpu::chaos::run(&args),
        Verb::Header { check } => codegen::run(codegen::Output::Header, check),
        Verb::KernelHeader { check } => codegen::run(codegen::Output::KernelHeader, check),
        Verb::Kernels(args) => kernels::run(&args),
        // What is measured has to be optimised, so the verb is run by another build of us.
        Verb::MemheapCompare(_) if cfg!(debug_assertions) => {
            cargo::run_again("--release", std::env::args_os().skip(1))
        }
        Verb::MemheapCompare(args) => memheap_compare::run(&args).map(|()| true),
        Verb::SoftHcaLibs(args) => soft_hca_libs::run(&args).map(|()| true),
        Verb::PcapCheck(args) => pcap_check::run(&args),
        Verb::PrmCheck(args) => prm_check::run(&args),
        Verb::RxeCheck(args) => rxe_check::run(&args),
        Verb::TestGpu(args) => gpu::test::run(&args),
        Verb::Supervised(args) => supervised::run(&args).map(|never| match never {}),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
