//! Masked atomics, of 4 and of 8 bytes.

use std::sync::atomic::Ordering;

use mlx5gda_sys::cqe::Syndrome;
use mlx5gda_sys::prm::{
    AtomicCaps, AtomicMode, CapMode, CapType, Init2RtrQpIn, Layout, Mtu, QueryAtomicCapOut,
    QueryHcaCapIn, opt_param,
};
use mlx5gda_sys::wqe::{AtomicOp, AtomicWidth, DataPtr, Remote, Wqe};

use crate::client::{Client, Pair};

/// Executes `op` at `offset` of the peer's memory; what it says it found.
fn execute(pair: &mut Pair, offset: u64, op: AtomicOp) -> Result<u64, Syndrome> {
    const RESULT: usize = 4096;
    pair.a.word(RESULT).store(0, Ordering::Release);
    let remote = Remote {
        addr: pair.b.address() + offset,
        rkey: pair.b.key(),
    };
    let local = DataPtr {
        addr: pair.a.address() + RESULT as u64,
        lkey: pair.a.key(),
        len: op.bytes(),
    };
    let index = pair.qp_a.posted;
    let wqe = Wqe::atomic(pair.a.signalled(&pair.qp_a), remote, local, op).unwrap();
    pair.a.post(&mut pair.qp_a, &wqe);
    pair.a
        .wait(&pair.cq_a, index)
        .map_err(|(_, syndrome)| syndrome)?;
    Ok(pair.a.word(RESULT).load(Ordering::Acquire))
}

#[test]
fn fields_are_added_without_carry_between_them() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let found = 0x00ff_ffff_7fff_00ff;
    pair.b.word(64).store(found, Ordering::Release);
    let op = AtomicOp::MaskedFetchAdd {
        width: AtomicWidth::Eight,
        add: 0x0001_0001_0001_0001,
        boundary: 0x8000_8000_8000_8000,
    };
    assert_eq!(execute(&mut pair, 64, op), Ok(found));
    let sum = pair.b.word(64).load(Ordering::Acquire);
    assert_eq!(sum, 0x0100_0000_8000_0100);
}

#[test]
fn four_bytes_are_changed_and_their_neighbours_are_not() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    pair.b
        .word(64)
        .store(0xffff_ffff_1122_3344, Ordering::Release);
    let width = AtomicWidth::Four;
    let add = AtomicOp::MaskedFetchAdd {
        width,
        add: 1,
        boundary: 0,
    };
    // The upper half, at an address that is no multiple of 8.
    assert_eq!(execute(&mut pair, 68, add), Ok(0xffff_ffff));
    let after = pair.b.word(64).load(Ordering::Acquire);
    assert_eq!(after, 0x1122_3344);
    let swap = |compare| AtomicOp::MaskedCompareSwap {
        width,
        compare,
        swap: 0xffff_ffff,
        compare_mask: 0xff,
        swap_mask: 0xff00,
    };
    assert_eq!(execute(&mut pair, 64, swap(0x45)), Ok(0x1122_3344));
    assert_eq!(pair.b.word(64).load(Ordering::Acquire), 0x1122_3344);
    assert_eq!(execute(&mut pair, 64, swap(0x9944)), Ok(0x1122_3344));
    assert_eq!(pair.b.word(64).load(Ordering::Acquire), 0x1122_ff44);
}

#[test]
fn eight_bytes_are_compared_and_swapped_under_masks() {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let found = 0x1111_2222_3333_4444;
    pair.b.word(0).store(found, Ordering::Release);
    let op = AtomicOp::MaskedCompareSwap {
        width: AtomicWidth::Eight,
        compare: 0x1111_0000_0000_0000,
        swap: 0xaaaa_bbbb_cccc_dddd,
        compare_mask: 0xffff_0000_0000_0000,
        swap_mask: 0x0000_0000_ffff_0000,
    };
    assert_eq!(execute(&mut pair, 0, op), Ok(found));
    let after = pair.b.word(0).load(Ordering::Acquire);
    assert_eq!(after, 0x1111_2222_cccc_4444);
}

fn with_mode(mode: AtomicMode) -> Pair {
    let mut pair = Pair::new(Mtu::Bytes1024, 4, true);
    let end = pair.a.end(&pair.qp_a, 100, Mtu::Bytes1024);
    pair.b.reset(&mut pair.qp_b);
    pair.b.rst2init(&pair.qp_b).unwrap();
    let mut input = Init2RtrQpIn::new();
    pair.b.fill_rtr(&mut input, &pair.qp_b, &end);
    input.set_opt_param_mask(opt_param::RAE);
    input.qpc.set_atomic_mode(mode.code()).unwrap();
    pair.b.modify(pair.qp_b.object, input).unwrap();
    pair
}

#[test]
fn the_responders_atomic_mode_decides() {
    let plain = AtomicOp::FetchAdd { add: 1 };
    let masked = AtomicOp::MaskedFetchAdd {
        width: AtomicWidth::Eight,
        add: 1,
        boundary: 0,
    };
    let cases = [
        (AtomicMode::None, false, false),
        (AtomicMode::IbSpec, true, false),
        (AtomicMode::Only8Bytes, true, false),
        (AtomicMode::UpTo8Bytes, true, true),
    ];
    for (mode, plain_works, masked_works) in cases {
        for (op, works) in [(plain, plain_works), (masked, masked_works)] {
            let expected = if works {
                Ok(0)
            } else {
                Err(Syndrome::RemoteInvalidRequest)
            };
            let mut pair = with_mode(mode);
            assert_eq!(execute(&mut pair, 0, op), expected, "{mode:?} {op:?}");
            let after = pair.b.word(0).load(Ordering::Acquire);
            assert_eq!(after, u64::from(works));
        }
    }
}

fn atomic_caps(client: &Client) -> AtomicCaps {
    let mut input = QueryHcaCapIn::new();
    input
        .header
        .set_op_mod(CapType::Atomic.op_mod(CapMode::Current));
    let mut out = vec![0; QueryAtomicCapOut::BYTES];
    assert_eq!(client.general(&input, &mut out), 0);
    QueryAtomicCapOut::from_slice(&out).unwrap().capability
}

#[test]
fn the_capability_page_says_so() {
    let pair = Pair::new(Mtu::Bytes1024, 4, true);
    let cap = atomic_caps(&pair.a);
    assert_eq!(cap.atomic_operations(), 0b1111);
    assert_eq!(cap.atomic_size_qp(), 4 | 8);
}
