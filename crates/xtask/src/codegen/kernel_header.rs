//! `cargo xtask kernel-header`: what kernels and host share, for CUDA.

use std::fs;

use anyhow::{Context, Result};
use cbindgen::{Builder, Config, DocumentationStyle, ExportConfig, ItemType, Language};

use crate::cargo::root;

/// Files whose constants and structs the header holds, all of them.
const SOURCES: [&str; 2] = [
    "crates/ep-transport/src/cuda/table.rs",
    "crates/ep-buffer/src/cuda/args.rs",
];

/// The text of the header.
///
/// # Errors
/// A source cannot be read or parsed.
pub(super) fn generate() -> Result<String> {
    let mut builder = Builder::new();
    let mut names = Names::default();
    for source in SOURCES {
        let path = root()?.join(source);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        names.collect(&text);
        builder = builder.with_src(path);
    }
    let bindings = builder
        .with_config(config(names))
        .generate()
        .context("generate the kernels' header")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).context("the header is not UTF-8")?;
    Ok(super::without_gaps(text))
}

/// Names in the sources.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    structs: Vec<String>,
    constants: Vec<String>,
}

impl Names {
    /// Adds the public constants and the structs with a layout that C knows.
    fn collect(&mut self, text: &str) {
        let mut has_layout = false;
        for line in text.lines() {
            let line = line.trim_start();
            if line.starts_with("#[repr(C") {
                has_layout = true;
            }
            let name = |rest: &str| {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                rest[..end.unwrap_or(rest.len())].to_owned()
            };
            if let Some(rest) = line.strip_prefix("pub const ") {
                self.constants.push(name(rest));
            } else if let Some((visibility, rest)) = line.split_once("struct ")
                && (visibility.is_empty() || visibility.starts_with("pub"))
                && std::mem::take(&mut has_layout)
            {
                self.structs.push(name(rest));
            }
        }
    }
}

fn config(names: Names) -> Config {
    let structs = names
        .structs
        .iter()
        .map(|name| (name.clone(), format!("Ep{name}")));
    let constants = names
        .constants
        .iter()
        .map(|name| (name.clone(), format!("EP_{name}")));
    let rename = structs.chain(constants).collect();
    Config {
        language: Language::Cxx,
        header: Some(
            "// Made by `cargo xtask kernel-header` from ep-transport's cuda/table.rs and ep-buffer's\n\
             // cuda/args.rs; do not edit.\n\
             // SPDX-License-Identifier: MIT OR Apache-2.0"
                .to_owned(),
        ),
        pragma_once: true,
        no_includes: true,
        sys_includes: vec!["cstdint".to_owned()],
        documentation: true,
        documentation_style: DocumentationStyle::Cxx,
        export: ExportConfig {
            include: names.structs,
            rename,
            item_types: vec![ItemType::Structs, ItemType::Constants, ItemType::Typedefs],
            ..ExportConfig::default()
        },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_c_can_know_is_collected() {
        let mut names = Names::default();
        names.collect(
            "pub const LIMIT: u32 = 4;\nconst OWN: u32 = 1;\n#[derive(Clone)]\n#[repr(C, align(128))]\n\
             pub struct Head {\n    pub word: u64,\n}\n/// A struct of Rust.\npub struct Shell;\n\
             #[repr(C)]\npub(crate) struct Row(u32);\nimpl Head {\n    pub const AT: u32 = 3;\n}\n",
        );
        assert_eq!(names.structs, ["Head", "Row"]);
        assert_eq!(names.constants, ["LIMIT", "AT"]);
    }
}
