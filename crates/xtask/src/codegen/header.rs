//! `cargo xtask header`: what the queues hold, for C, C++ and CUDA.

use std::fs;

use anyhow::{Context, Result};
use cbindgen::{Builder, Config, EnumConfig, ExportConfig, Language, RenameRule, Style};

use crate::cargo::root;

/// Files of `mlx5gda-sys` whose constants, structs and enumerations the header holds.
const SOURCES: [&str; 6] = [
    "wqe.rs",
    "wqe/opcode.rs",
    "wqe/seg.rs",
    "cqe.rs",
    "cqe/syndrome.rs",
    "doorbell.rs",
];

/// What the big-endian integers are to C, which cannot tell them from others.
const WORDS: &str = "\
/// A 16-bit big-endian integer.
pub type Be16 = u16;
/// A 32-bit big-endian integer.
pub type Be32 = u32;
/// A 64-bit big-endian integer.
pub type Be64 = u64;
";

/// Names in the header.
const TYPES: &[(&str, &str)] = &[
    ("Be16", "mlx5gda_be16"),
    ("Be32", "mlx5gda_be32"),
    ("Be64", "mlx5gda_be64"),
    ("CtrlSeg", "mlx5gda_ctrl_seg"),
    ("RaddrSeg", "mlx5gda_raddr_seg"),
    ("DataSeg", "mlx5gda_data_seg"),
    ("InlineHeader", "mlx5gda_inline_header"),
    ("AtomicSeg", "mlx5gda_atomic_seg"),
    ("MaskedFetchAdd8Seg", "mlx5gda_masked_fetch_add_8_seg"),
    ("MaskedFetchAdd4Seg", "mlx5gda_masked_fetch_add_4_seg"),
    ("MaskedCompareSwap4Seg", "mlx5gda_masked_compare_swap_4_seg"),
    ("Cqe64", "mlx5gda_cqe64"),
    ("QpDoorbellRecord", "mlx5gda_qp_doorbell_record"),
    ("CqDoorbellRecord", "mlx5gda_cq_doorbell_record"),
    ("Opcode", "mlx5gda_opcode"),
    ("CqeOpcode", "mlx5gda_cqe_opcode"),
];

const CONSTANTS: &[&str] = &[
    "WQEBB_BYTES",
    "DS_BYTES",
    "INLINE_SEG",
    "CQE_BYTES",
    "CQE_OWNER_MASK",
    "UAR_PAGE_BYTES",
    "UAR_BLUEFLAME",
    "UAR_BLUEFLAME_BYTES",
    "UAR_CQ_DOORBELL",
    "CTRL_CQ_UPDATE",
    "CTRL_SOLICITED",
    "CTRL_FENCE",
    "CTRL_SMALL_FENCE",
    "SYNDROME_LOCAL_LENGTH",
    "SYNDROME_LOCAL_QP_OPERATION",
    "SYNDROME_LOCAL_PROTECTION",
    "SYNDROME_WR_FLUSH",
    "SYNDROME_MW_BIND",
    "SYNDROME_BAD_RESPONSE",
    "SYNDROME_LOCAL_ACCESS",
    "SYNDROME_REMOTE_INVALID_REQUEST",
    "SYNDROME_REMOTE_ACCESS",
    "SYNDROME_REMOTE_OPERATION",
    "SYNDROME_TRANSPORT_RETRY_EXCEEDED",
    "SYNDROME_RNR_RETRY_EXCEEDED",
    "SYNDROME_REMOTE_ABORTED",
];

/// What means nothing outside of Rust.
const LEFT_OUT: [&str; 3] = ["CtrlFlags", "MAX_MESSAGE_BYTES", "MAX_WQE_BYTES"];

/// The text of the header.
///
/// # Errors
/// A source cannot be read or parsed.
pub(super) fn generate() -> Result<String> {
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let words = dir.path().join("words.rs");
    fs::write(&words, WORDS).with_context(|| words.display().to_string())?;
    let mut builder = Builder::new().with_config(config()).with_src(&words);
    for source in SOURCES {
        let path = root()?.join("crates/mlx5gda-sys/src").join(source);
        builder = builder.with_src(path);
    }
    let bindings = builder.generate().context("generate the header")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).context("the header is not UTF-8")?;
    Ok(super::without_gaps(text))
}

fn config() -> Config {
    let own = |name: &&str| ((*name).to_owned(), format!("MLX5GDA_{name}"));
    let types = TYPES
        .iter()
        .map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned()));
    Config {
        language: Language::C,
        style: Style::Tag,
        header: Some(
            "/* Made by `cargo xtask header` from mlx5gda-sys; do not edit.\n \
             * SPDX-License-Identifier: MIT OR Apache-2.0 */"
                .to_owned(),
        ),
        include_guard: Some("MLX5GDA_H".to_owned()),
        no_includes: true,
        sys_includes: vec!["stdint.h".to_owned()],
        cpp_compat: true,
        documentation: true,
        export: ExportConfig {
            include: types.clone().map(|(ours, _)| ours).collect(),
            rename: types.chain(CONSTANTS.iter().map(own)).collect(),
            exclude: LEFT_OUT.map(str::to_owned).to_vec(),
            ..ExportConfig::default()
        },
        enumeration: EnumConfig {
            rename_variants: RenameRule::QualifiedScreamingSnakeCase,
            ..EnumConfig::default()
        },
        ..Config::default()
    }
}
