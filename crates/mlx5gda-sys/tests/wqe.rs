//! Work queue entries: what the builder writes, the parser reads, and nothing else passes.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use mlx5gda_sys::wqe::{
    AtomicOp, AtomicWidth, DataPtr, MAX_GATHER, MAX_INLINE_WRITE_BYTES, MAX_WQE_BYTES, Opcode,
    Payload, Post, Remote, Wqe, WqeError, parse,
};
use proptest::prelude::*;

const POST: Post = Post {
    qpn: 0x12_3456,
    index: 0xabcd,
    signalled: true,
    solicited: false,
    fence: false,
};
const REMOTE: Remote = Remote {
    addr: 0x1122_3344_5566_7788,
    rkey: 0x99aa_bbcc,
};
const LOCAL: DataPtr = DataPtr {
    addr: 0x0102_0304_0506_0708,
    lkey: 0x0a0b_0c0d,
    len: 0x1000,
};

fn posts() -> impl Strategy<Value = Post> {
    (0u32..1 << 24, any::<u16>(), any::<[bool; 3]>()).prop_map(
        |(qpn, index, [signalled, solicited, fence])| Post {
            qpn,
            index,
            signalled,
            solicited,
            fence,
        },
    )
}

fn remotes() -> impl Strategy<Value = Remote> {
    any::<(u64, u32)>().prop_map(|(addr, rkey)| Remote { addr, rkey })
}

fn locals(max: usize) -> impl Strategy<Value = Vec<DataPtr>> {
    let one = (any::<u64>(), any::<u32>(), 1u32..1 << 26).prop_map(|(addr, lkey, len)| DataPtr {
        addr,
        lkey,
        len,
    });
    proptest::collection::vec(one, 0..=max)
}

fn atomics() -> impl Strategy<Value = AtomicOp> {
    let width = prop_oneof![Just(AtomicWidth::Four), Just(AtomicWidth::Eight)];
    (0..4, width, any::<[u64; 4]>()).prop_map(|(kind, width, [a, b, c, d])| {
        let fit = |v: u64| match width {
            AtomicWidth::Four => v & u64::from(u32::MAX),
            AtomicWidth::Eight => v,
        };
        match kind {
            0 => AtomicOp::FetchAdd { add: a },
            1 => AtomicOp::CompareSwap {
                compare: a,
                swap: b,
            },
            2 => AtomicOp::MaskedFetchAdd {
                width,
                add: fit(a),
                boundary: fit(b),
            },
            _ => AtomicOp::MaskedCompareSwap {
                width,
                compare: fit(a),
                swap: fit(b),
                compare_mask: fit(c),
                swap_mask: fit(d),
            },
        }
    })
}

/// What every parsed entry must agree on with what was asked for.
fn check_common(wqe: &Wqe, post: Post) -> mlx5gda_sys::wqe::ParsedWqe {
    let parsed = parse(wqe.bytes()).unwrap();
    assert_eq!((parsed.qpn, parsed.index), (post.qpn, post.index));
    assert_eq!(parsed.flags.signalled(), post.signalled);
    assert_eq!(parsed.flags.solicited(), post.solicited);
    assert_eq!(parsed.flags.fenced(), post.fence);
    assert_eq!(parsed.wqebbs(), wqe.wqebbs());
    assert_eq!(wqe.bytes().len(), usize::from(wqe.wqebbs()) * 64);
    let head: [u8; 8] = wqe.bytes()[..8].try_into().unwrap();
    assert_eq!(wqe.ctrl_doorbell(), u64::from_ne_bytes(head));
    parsed
}

proptest! {
    #[test]
    fn gathered_messages_round_trip(
        post in posts(), remote in remotes(), local in locals(14), imm in any::<Option<u32>>(),
        kind in 0..3,
    ) {
        let (wqe, opcode, imm) = match kind {
            0 => (
                Wqe::rdma_write(post, remote, &local, imm),
                if imm.is_some() { Opcode::RdmaWriteImm } else { Opcode::RdmaWrite },
                imm,
            ),
            1 => (
                Wqe::send(post, &local, imm),
                if imm.is_some() { Opcode::SendImm } else { Opcode::Send },
                imm,
            ),
            _ => (Wqe::rdma_read(post, remote, &local), Opcode::RdmaRead, None),
        };
        let parsed = check_common(&wqe.unwrap(), post);
        prop_assert_eq!(parsed.opcode, opcode);
        prop_assert_eq!(parsed.imm, imm);
        prop_assert_eq!(parsed.remote, (kind != 1).then_some(remote));
        let Payload::Gather(list) = parsed.payload else { panic!("not gathered") };
        prop_assert_eq!(list.as_slice(), &local[..]);
    }

    #[test]
    fn inline_messages_round_trip(
        post in posts(), remote in remotes(), imm in any::<Option<u32>>(),
        data in proptest::collection::vec(any::<u8>(), 1..=MAX_INLINE_WRITE_BYTES), send in any::<bool>(),
    ) {
        let wqe = if send {
            Wqe::send_inline(post, &data, imm)
        } else {
            Wqe::rdma_write_inline(post, remote, &data, imm)
        }.unwrap();
        let parsed = check_common(&wqe, post);
        prop_assert_eq!(parsed.remote, (!send).then_some(remote));
        prop_assert_eq!(parsed.imm, imm);
        prop_assert_eq!(&wqe.bytes()[parsed.payload.inline_range().unwrap()], &data[..]);
    }

    #[test]
    fn atomics_round_trip(post in posts(), remote in remotes(), op in atomics()) {
        let remote = Remote { addr: remote.addr & !7, ..remote };
        let local = DataPtr { len: op.bytes(), ..LOCAL };
        let parsed = check_common(&Wqe::atomic(post, remote, local, op).unwrap(), post);
        prop_assert_eq!(parsed.atomic, Some(op));
        prop_assert_eq!(parsed.opcode, op.opcode());
        prop_assert_eq!(parsed.remote, Some(remote));
    }

    /// A ring may hold anything; whatever is accepted stays inside the bytes given.
    #[test]
    fn parsing_garbage_never_reads_outside(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300), opcode in 0u8..0x18, ds in 0u8..20,
    ) {
        if let [_, _, _, op, _, _, _, size, ..] = &mut bytes[..] {
            (*op, *size) = (opcode, ds);
        }
        if let Ok(parsed) = parse(&bytes) {
            prop_assert!(usize::from(parsed.ds) * 16 <= bytes.len());
            if let Some(range) = parsed.payload.inline_range() {
                prop_assert!(range.end <= usize::from(parsed.ds) * 16);
            }
        }
    }
}

#[test]
fn write_bytes_are_as_the_device_reads_them() {
    let wqe = Wqe::rdma_write(POST, REMOTE, &[LOCAL], None).unwrap();
    #[rustfmt::skip]
    let want = [
        0x00, 0xab, 0xcd, 0x08,  0x12, 0x34, 0x56, 0x03,  0x00, 0x00, 0x00, 0x08,  0, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44,  0x55, 0x66, 0x77, 0x88,  0x99, 0xaa, 0xbb, 0xcc,  0, 0, 0, 0,
        0x00, 0x00, 0x10, 0x00,  0x0a, 0x0b, 0x0c, 0x0d,  1, 2, 3, 4,  5, 6, 7, 8,
        0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
    ];
    assert_eq!(wqe.bytes(), want);
    assert_eq!(wqe.wqebbs(), 1);
}

#[test]
fn inline_bytes_follow_their_header() {
    let wqe = Wqe::rdma_write_inline(POST, REMOTE, &[7; 8], Some(0x0102_0304)).unwrap();
    assert_eq!(wqe.bytes()[3], 0x09);
    assert_eq!(wqe.bytes()[7], 3);
    assert_eq!(wqe.bytes()[12..16], [1, 2, 3, 4]);
    assert_eq!(wqe.bytes()[32..36], [0x80, 0, 0, 8]);
    assert_eq!(wqe.bytes()[36..48], [7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0]);
}

#[test]
fn extended_atomics_carry_their_width() {
    let four = AtomicOp::MaskedFetchAdd {
        width: AtomicWidth::Four,
        add: 5,
        boundary: 0,
    };
    let local = DataPtr { len: 4, ..LOCAL };
    let wqe = Wqe::atomic(POST, REMOTE, local, four).unwrap();
    assert_eq!(
        (wqe.bytes()[0], wqe.bytes()[3], wqe.bytes()[7]),
        (8, 0x15, 4)
    );
    let eight = AtomicOp::MaskedCompareSwap {
        width: AtomicWidth::Eight,
        compare: 1,
        swap: 2,
        compare_mask: 3,
        swap_mask: 4,
    };
    let local = DataPtr { len: 8, ..LOCAL };
    let wqe = Wqe::atomic(POST, REMOTE, local, eight).unwrap();
    assert_eq!(
        (wqe.bytes()[0], wqe.bytes()[3], wqe.bytes()[7]),
        (9, 0x14, 5)
    );
    assert_eq!(wqe.wqebbs(), 2);
}

#[test]
fn builder_refuses_what_cannot_be_said() {
    let wide = Post {
        qpn: 1 << 24,
        ..POST
    };
    assert_eq!(Wqe::nop(wide), Err(WqeError::QpnTooWide { qpn: 1 << 24 }));
    assert_eq!(
        Wqe::rdma_write(POST, REMOTE, &[LOCAL; 15], None),
        Err(WqeError::TooManySegments {
            count: 15,
            limit: 14
        })
    );
    let empty = DataPtr { len: 0, ..LOCAL };
    assert_eq!(
        Wqe::send(POST, &[LOCAL, empty], None),
        Err(WqeError::SegmentLength { index: 1, len: 0 })
    );
    let huge = DataPtr {
        len: u32::MAX >> 1,
        ..LOCAL
    };
    assert!(matches!(
        Wqe::rdma_read(POST, REMOTE, &[huge, huge]),
        Err(WqeError::MessageTooLong { .. })
    ));
    assert_eq!(
        Wqe::rdma_write_inline(POST, REMOTE, &[0; 221], None),
        Err(WqeError::InlineTooLong {
            len: 221,
            limit: 220
        })
    );
    let odd = Remote {
        addr: 0x1004,
        ..REMOTE
    };
    let eight = DataPtr { len: 8, ..LOCAL };
    assert_eq!(
        Wqe::fetch_add(POST, odd, eight, 1),
        Err(WqeError::AtomicAlignment {
            addr: 0x1004,
            width: 8
        })
    );
    assert_eq!(
        Wqe::compare_swap(POST, REMOTE, LOCAL, 1, 2),
        Err(WqeError::AtomicLength {
            width: 8,
            len: 0x1000
        })
    );
    let wide_operand = AtomicOp::MaskedFetchAdd {
        width: AtomicWidth::Four,
        add: 1 << 32,
        boundary: 0,
    };
    let four = DataPtr { len: 4, ..LOCAL };
    assert_eq!(
        Wqe::atomic(POST, REMOTE, four, wide_operand),
        Err(WqeError::AtomicOperand {
            value: 1 << 32,
            width: 4
        })
    );
}

/// A well-formed write with one byte changed.
fn spoiled(at: usize, value: u8) -> Result<mlx5gda_sys::wqe::ParsedWqe, WqeError> {
    let wqe = Wqe::rdma_write(POST, REMOTE, &[LOCAL], None).unwrap();
    let mut bytes = [0; MAX_WQE_BYTES];
    bytes[..wqe.bytes().len()].copy_from_slice(wqe.bytes());
    bytes[at] = value;
    parse(&bytes)
}

#[test]
fn parser_refuses_malformed_entries() {
    assert!(spoiled(11, 0).is_ok());
    assert_eq!(spoiled(3, 0x25), Err(WqeError::Opcode { opcode: 0x25 }));
    assert_eq!(
        spoiled(0, 9),
        Err(WqeError::OpcodeModifier {
            opmod: 9,
            opcode: 8
        })
    );
    assert_eq!(
        spoiled(7, 0),
        Err(WqeError::Truncated { need: 16, have: 0 })
    );
    assert_eq!(
        spoiled(7, 1),
        Err(WqeError::Truncated { need: 32, have: 16 })
    );
    assert_eq!(
        spoiled(7, 63),
        Err(WqeError::Truncated {
            need: 1008,
            have: 256
        })
    );
    assert_eq!(
        // A length of 0 is 2^31.
        spoiled(7, 4),
        Err(WqeError::MessageTooLong {
            len: 0x8000_1000,
            limit: 1 << 31
        })
    );
    assert_eq!(
        spoiled(32, 0x80),
        Err(WqeError::Truncated {
            need: 36 + 0x1000,
            have: 48
        })
    );
    assert_eq!(spoiled(3, 0x00), Err(WqeError::Trailing { extra: 32 }));
    assert_eq!(parse(&[]), Err(WqeError::Truncated { need: 16, have: 0 }));
}

#[test]
fn parser_limits_the_number_of_segments() {
    let wqe = Wqe::rdma_write(POST, REMOTE, &[LOCAL], None).unwrap();
    let mut bytes = [0; 1024];
    bytes[..32].copy_from_slice(&wqe.bytes()[..32]);
    for seg in bytes[32..].chunks_exact_mut(16) {
        seg.copy_from_slice(&wqe.bytes()[32..48]);
    }
    bytes[7] = u8::try_from(2 + MAX_GATHER).unwrap();
    assert!(parse(&bytes).is_ok());
    bytes[7] += 1;
    assert!(matches!(
        parse(&bytes),
        Err(WqeError::TooManySegments { limit: 30, .. })
    ));
}
