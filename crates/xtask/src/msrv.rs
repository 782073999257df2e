//! The oldest Rust that the workspace promises, held against its dependencies.

use crate::cargo::cargo;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is used of `cargo metadata`.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    rust_version: Option<String>,
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

impl Metadata {
    /// The features of the workspace's own packages, as `package/feature`.
    pub(crate) fn own_features(&self) -> Vec<String> {
        let ours = |p: &&Package| self.workspace_members.contains(&p.id);
        let packages = self.packages.iter().filter(ours);
        packages
            .flat_map(|p| p.features.keys().map(|name| format!("{}/{name}", p.name)))
            .collect()
    }
}

/// Asks cargo about the workspace and everything in its lock file.
pub(crate) fn metadata() -> Result<Metadata> {
    let output = cargo()?
        .args(["metadata", "--format-version=1", "--all-features"])
        .output()
        .context("cannot run cargo metadata")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata: {complaint}");
    serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata prints")
}

/// The dependencies that ask for a newer Rust than the workspace does. One that
/// states no version is taken at its word.
pub(crate) fn too_new(metadata: &Metadata) -> Result<Vec<String>> {
    let (ours, theirs): (Vec<&Package>, Vec<&Package>) = metadata
        .packages
        .iter()
        .partition(|p| metadata.workspace_members.contains(&p.id));
    let stated = ours.iter().map(|p| {
        let version = p.rust_version.as_deref();
        let version = version.with_context(|| format!("{} states no rust-version", p.name))?;
        number(version)
    });
    let stated = stated.collect::<Result<Vec<_>>>()?;
    let oldest = stated.into_iter().min().context("an empty workspace")?;
    let mut found = Vec::new();
    for package in theirs {
        let Some(version) = &package.rust_version else {
            continue;
        };
        if number(version)? > oldest {
            found.push(format!(
                "{} {} asks for Rust {version}",
                package.name, package.version
            ));
        }
    }
    Ok(found)
}

/// A version as numbers that compare: major, minor, patch.
fn number(version: &str) -> Result<(u64, u64, u64)> {
    let mut parts = version.split('.').map(|part| {
        let digits = part.split(['-', '+']).next().unwrap_or(part);
        digits.parse::<u64>()
    });
    let mut next = || {
        let part = parts.next().unwrap_or(Ok(0));
        part.with_context(|| format!("'{version}' is no Rust version"))
    };
    Ok((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rust_version: Option<&str>) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            rust_version: rust_version.map(str::to_owned),
            features: BTreeMap::new(),
        }
    }

    #[test]
    fn only_newer_demands_are_found() -> Result<()> {
        let metadata = Metadata {
            packages: vec![
                package("ours", Some("1.88")),
                package("older", Some("1.9.5")),
                package("same", Some("1.88.0")),
                package("newer", Some("1.88.1")),
                package("silent", None),
            ],
            workspace_members: vec!["ours".to_owned()],
            target_directory: PathBuf::new(),
        };
        assert_eq!(too_new(&metadata)?, ["newer 1.0.0 asks for Rust 1.88.1"]);
        assert!(number("latest").is_err());
        Ok(())
    }

    #[test]
    fn features_are_those_of_our_own_packages() -> Result<()> {
        let json = r#"{"packages": [
            {"id": "1", "name": "ours", "version": "1.0.0", "features": {"a": [], "b": ["a"]}},
            {"id": "2", "name": "theirs", "version": "1.0.0", "features": {"c": []}}],
            "workspace_members": ["1"], "target_directory": "/"}"#;
        let metadata: Metadata = serde_json::from_str(json)?;
        assert_eq!(metadata.own_features(), ["ours/a", "ours/b"]);
        Ok(())
    }
}
