//! Bits of contexts that have no meaning are refused, those that have one are not.

use std::ops::Range;

use mlx5gda_sys::prm::{CmdStatus, CommandIn, CreateMkeyIn, Layout, Mkc, ModifyCqIn, OutHeader};
use soft_hca::{Config, Reason};
use zerocopy::IntoBytes;

use crate::client::{Client, Cq};
use crate::keys::Key;

/// `MLX5_CQ_MODIFY_OVERRUN`.
const OVERRUN: u32 = 1 << 2;
/// Operation modifier of MODIFY_CQ: another ring.
const RESIZE: u16 = 1;

/// `reserved_at_*` of `mlx5_ifc_cqc_bits`, without `dbr_umem_id`, which is at 0x20, and without what
/// only firmware names.
const CQC: [Range<usize>; 13] = [
    0xc..0xd,
    0x1c..0x1e,
    0x40..0x54,
    0x5a..0x5c,
    0x60..0x63,
    0x80..0x84,
    0xc0..0xc3,
    0xc8..0x100,
    0x100..0x108,
    0x120..0x128,
    0x140..0x148,
    0x160..0x168,
    0x1a0..0x1c0,
];

/// What a completion queue may have elsewhere: `as_notify`, `initiator_src_dct`, `apu_cq`,
/// `always_armed_cq`, the type of the element, the format of time stamps, and whom to notify.
const ELSEWHERE: [Range<usize>; 7] = [
    0x4..0x5,
    0x5..0x6,
    0x7..0x8,
    0x18..0x19,
    0x19..0x1c,
    0x5e..0x60,
    0x180..0x1a0,
];

/// `reserved_at_*` of `mlx5_ifc_mkc_bits`.
const MKC: [Range<usize>; 13] = [
    0x0..0x1,
    0x2..0x3,
    0x6..0xd,
    0xe..0xf,
    0x18..0x1a,
    0x1c..0x20,
    0x40..0x60,
    0x63..0x65,
    0x66..0x67,
    0x120..0x1a0,
    0x1c0..0x1d9,
    0x1da..0x1db,
    0x1e0..0x200,
];

fn flip(context: &mut impl Layout, bit: usize) {
    context.as_mut_bytes()[bit / 8] ^= 0x80 >> (bit % 8);
}

/// Status and syndrome of a command that creates.
fn create<I: CommandIn>(client: &Client, input: &I) -> (CmdStatus, u32) {
    let mut out = [0; 64];
    let (from, to) = (input.as_bytes().as_ptr(), out.as_mut_ptr());
    // SAFETY: the context is open, the mailboxes are as long as said.
    let object = unsafe {
        (client.table.mlx5dv_devx_obj_create)(
            client.context,
            from.cast(),
            size_of::<I>(),
            to.cast(),
            out.len(),
        )
    };
    let answer = answer(&out);
    assert_eq!(object.is_null(), answer.0 != CmdStatus::Ok);
    if !object.is_null() {
        assert_eq!(client.destroy(object), 0);
    }
    answer
}

/// Status and syndrome of a command on a completion queue.
fn modify(client: &Client, cq: &Cq, input: &ModifyCqIn) -> (CmdStatus, u32) {
    let mut out = [0; 64];
    let (from, to) = (input.as_bytes().as_ptr(), out.as_mut_ptr());
    // SAFETY: as in `create`; the object is alive.
    let result = unsafe {
        (client.table.mlx5dv_devx_obj_modify)(
            cq.object,
            from.cast(),
            size_of::<ModifyCqIn>(),
            to.cast(),
            out.len(),
        )
    };
    let answer = answer(&out);
    assert_eq!(result == 0, answer.0 == CmdStatus::Ok);
    answer
}

fn answer(out: &[u8]) -> (CmdStatus, u32) {
    let header = OutHeader::from_slice(out).unwrap();
    (CmdStatus::from_code(header.status()), header.syndrome())
}

const GOOD: (CmdStatus, u32) = (CmdStatus::Ok, 0);

fn refused() -> (CmdStatus, u32) {
    (Reason::Reserved.status(), Reason::Reserved.syndrome())
}

fn not_served() -> (CmdStatus, u32) {
    (Reason::CqFeature.status(), Reason::CqFeature.syndrome())
}

#[test]
fn completion_queues_have_what_the_device_has() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, false);
    let before = client.cq_context(&cq);
    let (good, _) = client.cq_command(4, false);
    let mut change = ModifyCqIn::new();
    change.set_cqn(cq.number).unwrap();
    change.set_modify_field_select(OVERRUN);
    for bit in ELSEWHERE.into_iter().flatten() {
        let (mut bad, mut worse) = (good, change);
        flip(&mut bad.cq_context, bit);
        assert_eq!(create(&client, &bad), not_served(), "{bit:#x}");
        flip(&mut worse.cq_context, bit);
        assert_eq!(modify(&client, &cq, &worse), not_served(), "{bit:#x}");
    }
    assert_eq!(client.cq_context(&cq), before);
    // How compressed completions look does not matter where there are none.
    let mut other = good;
    other.cq_context.set_cqe_comp_en(true);
    other.cq_context.set_cqe_compression_layout(1).unwrap();
    other.cq_context.set_mini_cqe_res_format(3).unwrap();
    other.cq_context.set_mini_cqe_res_format_ext(1).unwrap();
    assert_eq!(create(&client, &other), GOOD);
}

#[test]
fn new_completion_queues_have_no_reserved_bits() {
    let mut client = Client::new(Config::default());
    let (good, _) = client.cq_command(4, false);
    for bit in CQC.into_iter().flatten() {
        let mut bad = good;
        flip(&mut bad.cq_context, bit);
        assert_eq!(create(&client, &bad), refused(), "{bit:#x}");
    }
    assert_eq!(create(&client, &good), GOOD);
}

#[test]
fn changes_of_completion_queues_have_no_reserved_bits() {
    let mut client = Client::new(Config::default());
    let cq = client.cq(4, false);
    let (larger, ring) = client.cq_command(5, false);
    let before = client.cq_context(&cq);
    let mut change = ModifyCqIn::new();
    change.set_cqn(cq.number).unwrap();
    change.set_modify_field_select(OVERRUN);
    change.cq_context.set_oi(!before.oi());
    let mut resize = ModifyCqIn::new();
    resize.set_cqn(cq.number).unwrap();
    resize.header.set_op_mod(RESIZE);
    resize.set_modify_field_select(1);
    resize.set_cq_umem_valid(true);
    resize.set_cq_umem_id(larger.cq_umem_id());
    resize.set_cq_umem_offset(ring);
    resize.cq_context.set_log_cq_size(5).unwrap();
    for good in [change, resize] {
        for bit in CQC.into_iter().flatten() {
            let mut bad = good;
            flip(&mut bad.cq_context, bit);
            assert_eq!(modify(&client, &cq, &bad), refused(), "{bit:#x}");
        }
    }
    assert_eq!(client.cq_context(&cq), before);
    for good in [change, resize] {
        assert_eq!(modify(&client, &cq, &good), GOOD);
    }
}

#[test]
fn new_keys_have_no_reserved_bits() {
    let client = Client::new(Config::default());
    let good: CreateMkeyIn = Key::new(&client).command;
    for bit in MKC.into_iter().flatten() {
        let mut bad = good;
        flip(&mut bad.memory_key_mkey_entry, bit);
        assert_eq!(create(&client, &bad), refused(), "{bit:#x}");
    }
    // Fields that the device takes and does not look at.
    let spoils: [fn(&mut Mkc); 6] = [
        |mkc| mkc.set_relaxed_ordering_write(true),
        |mkc| mkc.set_relaxed_ordering_read(true),
        |mkc| mkc.set_small_fence_on_rdma_read_response(true),
        |mkc| mkc.set_ma_translation_mode(1).unwrap(),
        |mkc| mkc.set_sync_umr(true),
        |mkc| mkc.set_expected_sigerr_count(true),
    ];
    for set in spoils {
        let mut other = good;
        set(&mut other.memory_key_mkey_entry);
        assert_eq!(create(&client, &other), GOOD);
    }
}
