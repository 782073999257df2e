//! Calling cargo, and finding the workspace.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root directory.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest
        .ancestors()
        .nth(2)
        .context("the xtask crate lies two levels below the workspace root")?;
    Ok(root.to_path_buf())
}

/// The cargo that runs us, or the one on the path, in the workspace root.
pub(crate) fn cargo() -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()?);
    Ok(command)
}

/// Runs another build of this program, with `option` for cargo; whether it succeeded.
pub(crate) fn run_again(
    option: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<bool> {
    let status = cargo()?
        .args(["run", "--quiet", option, "--package", "xtask", "--"])
        .args(arguments)
        // Paths among the arguments are relative to where we were called.
        .current_dir(std::env::current_dir()?)
        .status()
        .context("cannot run cargo")?;
    Ok(status.success())
}

/// Builds an example of `package` with the release profile; returns its path.
pub(crate) fn build_example(package: &str, example: &str, features: &[&str]) -> Result<PathBuf> {
    let output = cargo()?
        .args(["build", "--release", "--package", package])
        .args(["--example", example])
        .args(features.iter().map(|name| format!("--features={name}")))
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("building the example {example} of {package} failed");
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout
        .lines()
        .filter_map(|line| executable_of(line, example))
        .next_back()
        .with_context(|| format!("cargo named no executable for the example {example}"))
}

fn executable_of(line: &str, example: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let target = message.get("target")?;
    let is_it = target.get("name")?.as_str()? == example
        && target
            .get("kind")?
            .as_array()?
            .iter()
            .any(|k| k == "example");
    let executable = message.get("executable")?.as_str()?;
    is_it.then(|| PathBuf::from(executable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_examples_own() {
        let artifact = |name: &str, kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"executable":"/t/{name}"}}"#
            )
        };
        let found = executable_of(&artifact("moe_layer", "example"), "moe_layer");
        assert_eq!(found, Some(PathBuf::from("/t/moe_layer")));
        assert_eq!(
            executable_of(&artifact("moe_layer", "bin"), "moe_layer"),
            None
        );
        assert_eq!(
            executable_of(&artifact("other", "example"), "moe_layer"),
            None
        );
        assert_eq!(
            executable_of(r#"{"reason":"build-finished"}"#, "moe_layer"),
            None
        );
        assert_eq!(executable_of("warning: text", "moe_layer"), None);
    }

    #[test]
    fn the_root_holds_the_workspace_manifest() -> Result<()> {
        let manifest = std::fs::read_to_string(root()?.join("Cargo.toml"))?;
        assert!(manifest.contains("[workspace]"));
        Ok(())
    }

    /// The README's example is part of a program that is built and run.
    #[test]
    fn the_readmes_example_is_that_of_the_downstream_crate() -> Result<()> {
        let readme = std::fs::read_to_string(root()?.join("README.md"))?;
        let program = std::fs::read_to_string(root()?.join("tests/downstream/src/main.rs"))?;
        let (_, rest) = readme.split_once("```rust\n").context("no example")?;
        let (example, _) = rest.split_once("```").context("it does not end")?;
        assert!(example.lines().count() > 3);
        for line in example.lines() {
            assert!(program.lines().any(|l| l.trim() == line), "{line}");
        }
        Ok(())
    }
}
