//! What is generated and checked in.
//!
//! The generators are large, so they are behind the feature `codegen`: a build without it hands
//! the work to a build with it, and the other verbs do not wait for them to compile.

#[cfg(feature = "codegen")]
mod bindgen;
#[cfg(feature = "codegen")]
mod header;
#[cfg(feature = "codegen")]
mod kernel_header;

use std::path::{Path, PathBuf};

use anyhow::Result;
#[cfg(feature = "codegen")]
use anyhow::{Context, bail};

/// A generated file.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    /// The raw bindings of `mlx5gda-sys`.
    Bindings,
    /// The same structs for C, C++ and CUDA.
    Header,
    /// What the kernels of `ep-buffer` and its host code share.
    KernelHeader,
}

impl Output {
    /// The verb that makes it.
    fn verb(self) -> &'static str {
        match self {
            Self::Bindings => "bindgen",
            Self::Header => "header",
            Self::KernelHeader => "kernel-header",
        }
    }

    #[cfg(feature = "codegen")]
    fn path(self) -> &'static str {
        match self {
            Self::Bindings => "crates/mlx5gda-sys/src/ffi/bindings.rs",
            Self::Header => "crates/mlx5gda-sys/include/mlx5gda.h",
            Self::KernelHeader => "crates/ep-buffer/kernels/ep_abi.h",
        }
    }

    /// Why it cannot be made here, if so.
    pub(crate) fn hindrance(self) -> Option<String> {
        match self {
            Self::Bindings => {
                let header = Path::new("/usr/include/infiniband/mlx5dv.h");
                if !header.exists() {
                    return Some(format!("no {}", header.display()));
                }
                (!has_libclang()).then(|| "no libclang".to_owned())
            }
            Self::Header | Self::KernelHeader => None,
        }
    }
}

/// Writes the file, or with `check` only says whether it is up to date.
///
/// # Errors
/// What the generator needs is missing, the file cannot be read or written, or with `check` it is
/// out of date.
#[cfg(feature = "codegen")]
pub(crate) fn run(output: Output, check: bool) -> Result<bool> {
    let fresh = match output {
        Output::Bindings => bindgen::generate()?,
        Output::Header => header::generate()?,
        Output::KernelHeader => kernel_header::generate()?,
    };
    let path = crate::cargo::root()?.join(output.path());
    let name = || path.display().to_string();
    if !check {
        std::fs::write(&path, fresh).with_context(name)?;
    } else if std::fs::read_to_string(&path).with_context(name)? != fresh {
        bail!(
            "{} is out of date: run `cargo xtask {}`",
            name(),
            output.verb()
        );
    }
    Ok(true)
}

/// cbindgen leaves a line for each item that it does not write.
#[cfg(feature = "codegen")]
fn without_gaps(mut text: String) -> String {
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text
}

/// As above, by a build that has the generators; false when that one fails.
#[cfg(not(feature = "codegen"))]
pub(crate) fn run(output: Output, check: bool) -> Result<bool> {
    let mut arguments = vec![output.verb().into()];
    if check {
        arguments.push("--check".into());
    }
    crate::cargo::run_again("--features=codegen", arguments)
}

/// Whether bindgen will find a libclang to load; it panics if it does not.
fn has_libclang() -> bool {
    let llvm = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let llvm = llvm.map(|entry| entry.path().join("lib"));
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    llvm.chain(named).any(|dir| {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files
            .map(|file| file.file_name())
            .any(|name| name.to_string_lossy().starts_with("libclang"))
    })
}
