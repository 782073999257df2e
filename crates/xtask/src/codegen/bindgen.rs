//! `cargo xtask bindgen`: makes `mlx5gda-sys`'s bindings from the headers of rdma-core.
//!
//! Needs `libibverbs-dev` and `libclang`; an ordinary build needs neither, since the result is
//! checked in.

use ::bindgen::{Builder, EnumVariation, Formatter, RustEdition, RustTarget};
use anyhow::{Context, Result};

use crate::cargo::root;

/// Functions whose types are bound, in the order of the function table. Those of the first list
/// are in libibverbs, those of the second in libmlx5.
const FUNCTIONS: [&[&str]; 2] = [
    &[
        "ibv_get_device_list",
        "ibv_free_device_list",
        "ibv_get_device_name",
        "ibv_open_device",
        "ibv_close_device",
        "ibv_query_device",
        "ibv_query_port",
        "ibv_query_gid",
        "_ibv_query_gid_ex",
        "ibv_alloc_pd",
        "ibv_dealloc_pd",
        "ibv_reg_mr",
        "ibv_reg_mr_iova2",
        "ibv_reg_dmabuf_mr",
        "ibv_dereg_mr",
        "ibv_create_ah",
        "ibv_destroy_ah",
        "ibv_get_async_event",
        "ibv_ack_async_event",
    ],
    &[
        "mlx5dv_is_supported",
        "mlx5dv_open_device",
        "mlx5dv_init_obj",
        "mlx5dv_devx_general_cmd",
        "mlx5dv_devx_obj_create",
        "mlx5dv_devx_obj_query",
        "mlx5dv_devx_obj_modify",
        "mlx5dv_devx_obj_destroy",
        "mlx5dv_devx_umem_reg",
        "mlx5dv_devx_umem_dereg",
        "mlx5dv_devx_alloc_uar",
        "mlx5dv_devx_free_uar",
        "mlx5dv_devx_query_eqn",
        "mlx5dv_devx_create_event_channel",
        "mlx5dv_devx_destroy_event_channel",
        "mlx5dv_devx_subscribe_devx_event",
        "mlx5dv_devx_subscribe_devx_event_fd",
        "mlx5dv_devx_get_event",
    ],
];

/// Types that no function names but callers need. The `mlx5_*` ones are there so that tests can
/// hold the hand-written layouts against them.
const TYPES: &[&str] = &[
    "ib_uverbs_query_port_flags",
    "ibv_access_flags",
    "ibv_gid_type",
    "ibv_port_attr",
    "mlx5dv_ah",
    "mlx5dv_context_attr_flags",
    "mlx5dv_obj_type",
    "mlx5dv_pd",
    "mlx5_ib_uapi_devx_create_event_channel_flags",
    "mlx5_ib_uapi_uar_alloc_type",
    "mlx5_cqe64",
    "mlx5_err_cqe",
    "mlx5_wqe_atomic_seg",
    "mlx5_wqe_data_seg",
    "mlx5_wqe_inl_data_seg",
    "mlx5_wqe_raddr_seg",
];

/// Constants.
const VARS: &[&str] = &["IBV_LINK_LAYER_.*"];

/// Structs that are passed through and never looked into: bound as bytes of the right size, which
/// keeps what they refer to out.
const OPAQUE: &[&str] = &[
    "ibv_(context_ops|cq|qp|srq|wq)",
    "_ibv_device_ops",
    "_compat_ibv_port_attr",
    "mlx5dv_(qp|cq|srq|rwq|dm)",
    "mlx5_ib_uapi_devx_async_event_hdr",
];

/// The first comes out of bindgen with 20 bytes in place of 16 (packed, and aligned to 4); the
/// second are parts of what is opaque.
const BLOCKED: &[&str] = &["mlx5_wqe_ctrl_seg", "mlx5dv_qp__bindgen_ty_.*"];

/// The text of the bindings.
///
/// # Errors
/// Headers, libclang or rustfmt are missing.
pub(super) fn generate() -> Result<String> {
    let mut builder = Builder::default()
        .header_contents("wrapper.h", &wrapper())
        .raw_line("// Made by `cargo xtask bindgen` from the headers of rdma-core; do not edit.")
        .rust_target(RustTarget::stable(88, 0).map_err(|error| anyhow::anyhow!("{error}"))?)
        .rust_edition(RustEdition::Edition2024)
        .use_core()
        .ctypes_prefix("core::ffi")
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true)
        .derive_default(true)
        .blocklist_function(".*")
        .formatter(Formatter::Rustfmt)
        .rustfmt_configuration_file(Some(root()?.join("rustfmt.toml")));
    for function in FUNCTIONS.concat() {
        builder = builder.allowlist_type(format!("fn_{function}"));
    }
    for pattern in TYPES {
        builder = builder.allowlist_type(pattern);
    }
    for pattern in VARS {
        builder = builder.allowlist_var(pattern);
    }
    for pattern in OPAQUE {
        builder = builder.opaque_type(pattern);
    }
    for pattern in BLOCKED {
        builder = builder.blocklist_item(pattern);
    }
    let bindings = builder
        .generate()
        .context("generate bindings (are libibverbs-dev and libclang installed?)")?;
    Ok(bindings.to_string())
}

/// A header that gives the type of each function a name: the functions themselves must not be
/// declared to the linker, they are looked up at run time.
fn wrapper() -> String {
    let mut text = String::from(
        "#include <infiniband/verbs.h>\n\
         #include <infiniband/mlx5dv.h>\n\
         #include <infiniband/mlx5_user_ioctl_verbs.h>\n",
    );
    for function in FUNCTIONS.concat() {
        text += &format!("typedef __typeof__({function}) *fn_{function};\n");
    }
    text
}
