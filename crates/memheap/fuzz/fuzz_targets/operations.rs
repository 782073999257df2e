//! Any stream of operations, against the model:
//! `cargo xtask fuzz`, or `cargo fuzz run operations` with a nightly compiler.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{Op, Pair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(([granule_bits, size_bits], operations)) = bytes.split_first_chunk() else {
        return;
    };
    let granule = 1 << (granule_bits % 16);
    // The finest granule that a heap of this size can have, or a coarser one.
    let size_bits = size_bits % 40;
    let finest = 1 << size_bits.saturating_sub(31);
    let mut pair = Pair::new((1 << size_bits) | 1, granule.max(finest));
    for operation in operations.as_chunks::<9>().0 {
        pair.apply(Op::decode(*operation));
        pair.check();
    }
    if pair.live() > 0 {
        pair.finish();
    }
});
