//! Types and constants of libibverbs and libmlx5, under their C names.
//!
//! Made from the headers of rdma-core by `cargo xtask bindgen`. `fn_NAME` is the type of the C
//! function `NAME`; the functions themselves are in [`crate::table`].

#[expect(
    missing_docs,
    non_camel_case_types,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes,
    reason = "generated: names are C's, and its documentation is in the headers"
)]
mod bindings;

pub use bindings::*;
