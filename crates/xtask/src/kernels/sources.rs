//! What a binary was made from, as a list of hashes beside it.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The list, beside the binary.
pub(super) const LIST: &str = "ep.fatbin.sources";

/// Files that the compiler may have read.
const EXTENSIONS: [&str; 3] = ["cu", "cuh", "h"];

/// Names of the lines that are not about a source.
const FLAGS: &str = "flags";
const BINARY: &str = super::BINARY;
const COMPILER: &str = "compiler";

/// By file name, or [`FLAGS`], the hash of the contents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Reads all sources in `dir`.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub(super) fn read(dir: &Path, flags: &str) -> Result<Self> {
        let name = || dir.display().to_string();
        let mut hashes = BTreeMap::new();
        for entry in std::fs::read_dir(dir).with_context(name)? {
            let path = entry.with_context(name)?.path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if !EXTENSIONS.contains(&extension) {
                continue;
            }
            let contents = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            hashes.insert(file.into_owned(), hash(&contents));
        }
        hashes.insert(FLAGS.to_owned(), hash(flags.as_bytes()));
        Ok(Self(hashes))
    }

    /// The list for `binary`, which `compiler` made.
    pub(super) fn list(&self, compiler: &str, binary: &[u8]) -> String {
        let mut text = format!("{COMPILER} {compiler}\n");
        let binary = (BINARY.to_owned(), hash(binary));
        for (name, hash) in self.0.iter().chain([(&binary.0, &binary.1)]) {
            text.push_str(&format!("{name} {hash}\n"));
        }
        text
    }

    /// Names of what is not as `list` says.
    pub(super) fn differences(&self, list: &str, binary: &[u8]) -> Vec<String> {
        let mut listed: BTreeMap<&str, &str> = list
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| *name != COMPILER)
            .collect();
        let binary = (BINARY.to_owned(), hash(binary));
        let mut different = Vec::new();
        for (name, hash) in self.0.iter().chain([(&binary.0, &binary.1)]) {
            if listed.remove(name.as_str()) != Some(hash) {
                different.push(name.clone());
            }
        }
        different.extend(listed.into_keys().map(str::to_owned));
        different
    }
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_sha256() {
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
