//! A CUDA compiler: the installed one, or that of NVIDIA's packages for Python.

use anyhow::{Context, Result, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Together they are a working `nvcc`. Of 13.0, as a driver of 13.0 refuses the PTX of any
/// newer compiler.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// Where they are kept, in the user's cache.
const CACHE: &str = "cuda-compiler-13.0.88";
/// Where they put `nvcc`.
const IN_WHEELS: &str = "nvidia/cu13/bin/nvcc";

/// A compiler that runs.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) nvcc: PathBuf,
    /// What it calls its version.
    pub(super) version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.nvcc.display(), self.version)
    }
}

impl Toolchain {
    /// The first of: what `CUDA_HOME` names, what is on the path, `/usr/local/cuda`, the packages,
    /// which are fetched when they are not there.
    ///
    /// # Errors
    /// There is none and the packages cannot be had, or `CUDA_HOME` names one that does not run.
    pub(super) fn find() -> Result<Self> {
        if let Some(home) = std::env::var_os("CUDA_HOME").filter(|home| !home.is_empty()) {
            return Self::at(Path::new(&home).join("bin/nvcc")).context("CUDA_HOME");
        }
        let installed = [PathBuf::from("nvcc"), "/usr/local/cuda/bin/nvcc".into()];
        for nvcc in installed {
            if let Ok(found) = Self::at(nvcc) {
                return Ok(found);
            }
        }
        let cache = cache()?;
        if !cache.join(IN_WHEELS).exists() {
            fetch(&cache)?;
        }
        Self::at(cache.join(IN_WHEELS))
    }

    fn at(nvcc: PathBuf) -> Result<Self> {
        let name = nvcc.display().to_string();
        let output = Command::new(&nvcc)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {name}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = output.status.success().then(|| version(&text)).flatten();
        let version = version.with_context(|| format!("{name} says no version"))?;
        Ok(Self { nvcc, version })
    }
}

/// Reads `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(text: &str) -> Option<String> {
    let (_, version) = text.split_once("Cuda compilation tools, ")?;
    version.lines().next().map(str::to_owned)
}

/// Where the packages are, or would be.
fn cache() -> Result<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|path| !path.is_empty());
    let home = || named("HOME").map(|home| Path::new(&home).join(".cache"));
    let caches = named("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(caches
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a compiler")?
        .join(CACHE))
}

/// Fetches the packages into `cache`, all or nothing.
fn fetch(cache: &Path) -> Result<()> {
    let name = || cache.display().to_string();
    let caches = cache.parent().context("the cache has no parent")?;
    std::fs::create_dir_all(caches).with_context(name)?;
    println!(
        "no CUDA compiler is installed; fetching one into {}",
        name()
    );
    let dir = tempfile::Builder::new()
        .prefix(".cuda-compiler")
        .tempdir_in(caches)
        .with_context(name)?;
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .arg("--target")
        .arg(dir.path())
        .args(WHEELS)
        .status()
        .context("no CUDA compiler is installed, and none can be fetched without python3")?;
    ensure!(status.success(), "pip cannot install {}", WHEELS.join(" "));
    let fetched = dir.keep();
    // Somebody else may have been faster; theirs is as good.
    if std::fs::rename(&fetched, cache).is_err() {
        std::fs::remove_dir_all(&fetched).with_context(name)?;
        ensure!(cache.join(IN_WHEELS).exists(), "cannot make {}", name());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found() {
        let text = "nvcc: NVIDIA (R) Cuda compiler driver\n\
            Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0\n";
        assert_eq!(version(text).as_deref(), Some("release 13.0, V13.0.88"));
        assert_eq!(version("gcc (Debian) 12.2.0"), None);
    }

    #[test]
    fn what_is_no_compiler_is_named() {
        for program in ["/nonexistent/bin/nvcc", "/bin/true"] {
            let error =
                Toolchain::at(program.into()).map_or_else(|e| format!("{e:#}"), |t| t.version);
            assert!(error.contains(program), "{error}");
        }
    }
}
