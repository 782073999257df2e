#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
//! The heap against a model, after every operation.

mod common;

use common::{Op, Pair};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        4 => 0..40u64,
        4 => (0..16u32, any::<u16>()).prop_map(|(b, r)| (1 << b) + u64::from(r) % (1 << b)),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    let align_bits = prop_oneof![3 => Just(0), 2 => 0..14u32, 1 => 14..64u32];
    let by = prop_oneof![9 => 0..20_000u64, 1 => any::<u64>()];
    prop_oneof![
        12 => (size, align_bits).prop_map(|(size, align_bits)| Op::Alloc { size, align_bits }),
        1 => Just(Op::AllocLargest),
        8 => any::<usize>().prop_map(|pick| Op::Free { pick }),
        2 => any::<usize>().prop_map(|pick| Op::FreeAt { pick }),
        1 => (0..1u64 << 20).prop_map(|offset| Op::FreeAtAnywhere { offset }),
        1 => any::<usize>().prop_map(|pick| Op::FreeStale { pick }),
        1 => Just(Op::FreeForeign),
        1 => by.prop_map(|by| Op::Grow { by }),
        1 => any::<bool>().prop_map(|back| Op::Shrink { back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn heap_agrees_with_an_interval_list(
        size in 0..200_000u64,
        granule_bits in 0..8u32,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut pair = Pair::new(size, 1 << granule_bits);
        pair.check();
        for op in ops {
            pair.apply(op);
            pair.check();
        }
        pair.finish();
    }

    /// What the fuzz target runs, for those who do not.
    #[test]
    fn heap_agrees_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut pair = Pair::new(1 << 24, 1);
        for op in bytes.as_chunks::<9>().0 {
            pair.apply(Op::decode(*op));
            pair.check();
        }
        pair.finish();
    }
}
