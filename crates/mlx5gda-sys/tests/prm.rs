//! Mailboxes: what is written at one name is found there, and only there.

use mlx5gda_sys::prm::{
    Ads, CapMode, CapType, CmdHcaCap, CmdOpcode, CommandIn, CreateCqIn, CreateQpIn, Field,
    FieldError, InHeader, LAYOUTS, Layout, Mailbox, OutHeader, Qp2RstIn, Qpc, QueryHcaCapOut,
    QueryQpOut, Rst2InitQpIn,
};
use zerocopy::IntoBytes;

#[test]
fn create_qp_bytes_are_as_the_device_reads_them() {
    let mut mailbox = Mailbox::new(CreateQpIn::new());
    mailbox.qpc.set_pd(0x12_3456).unwrap();
    mailbox.qpc.set_log_sq_size(0xa).unwrap();
    mailbox.qpc.set_cqn_snd(0x77).unwrap();
    mailbox.qpc.set_dbr_umem_valid(true);
    mailbox.qpc.set_dbr_umem_id(0x1122_3344);
    mailbox.qpc.primary_address_path.set_udp_sport(0xc123);
    mailbox.set_wq_umem_offset(0x10_0000_0040);
    mailbox.set_wq_umem_id(9);
    mailbox.set_wq_umem_valid(true);
    assert_eq!(mailbox.size(), 272);
    assert_eq!(mailbox.as_ptr().align_offset(8), 0);
    let bytes = mailbox.as_bytes();
    assert_eq!(bytes[..4], [0x05, 0x00, 0, 0]);
    // The context starts at byte 24.
    assert_eq!(bytes[24 + 4..24 + 8], [0, 0x12, 0x34, 0x56]);
    assert_eq!(bytes[24 + 8..24 + 12], [0, 0, 0x50, 0]);
    assert_eq!(bytes[24 + 124..24 + 128], [0, 0, 0, 0x77]);
    assert_eq!(bytes[24 + 0xd0], 0x10);
    assert_eq!(bytes[24 + 228..24 + 232], [0x11, 0x22, 0x33, 0x44]);
    // Its primary path at byte 24 of that; `udp_sport` at byte 34 of the path.
    assert_eq!(bytes[48 + 34..48 + 36], [0xc1, 0x23]);
    assert_eq!(bytes[256..264], [0, 0, 0, 0x10, 0, 0, 0, 0x40]);
    assert_eq!(bytes[264..272], [0, 0, 0, 9, 0x80, 0, 0, 0]);
    let written = bytes.iter().filter(|byte| **byte != 0).count();
    assert_eq!(written, 17);
}

#[test]
fn a_value_that_does_not_fit_changes_nothing() {
    let mut qpc = Qpc::zeroed();
    assert_eq!(
        qpc.set_log_sq_size(16),
        Err(FieldError {
            layout: "qpc",
            field: "log_sq_size",
            width: 4,
            value: 16
        })
    );
    assert_eq!(qpc, Qpc::zeroed());
    assert_eq!(
        qpc.set_pd(1 << 24).unwrap_err().to_string(),
        "qpc.pd: value 0x1000000 does not fit 24 bits"
    );
}

#[test]
fn views_check_the_length() {
    let mut bytes = [0; 300];
    assert!(CreateCqIn::from_slice(&bytes[..271]).is_none());
    assert!(InHeader::from_slice(&[]).is_none());
    // Any alignment will do.
    let view = CreateCqIn::from_slice_mut(&mut bytes[1..]).unwrap();
    view.cq_context.set_cc(true);
    view.cq_context.set_oi(true);
    view.cq_context.set_log_cq_size(3).unwrap();
    assert_eq!(bytes[1 + 16 + 1], 0x12);
    assert_eq!(bytes[1 + 16 + 12], 3);
}

#[test]
fn headers_are_found_before_the_command_is_known() {
    let mailbox = Qp2RstIn::new();
    let header = InHeader::from_slice(mailbox.as_bytes()).unwrap();
    assert_eq!(
        CmdOpcode::from_code(header.opcode()),
        Some(CmdOpcode::Qp2Rst)
    );
    let mut answer = [0; 16];
    OutHeader::from_slice_mut(&mut answer)
        .unwrap()
        .set_status(9);
    assert_eq!(answer[0], 9);
}

#[test]
fn addresses_are_bytes() {
    let mut path = Ads::zeroed();
    path.set_rgid_rip([7; 16]);
    path.set_rmac([1, 2, 3, 4, 5, 6]);
    assert_eq!(path.as_bytes()[16..32], [7; 16]);
    assert_eq!(path.as_bytes()[38..44], [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        (path.rgid_rip(), path.rmac()),
        ([7; 16], [1, 2, 3, 4, 5, 6])
    );
}

#[test]
fn capability_pages_have_their_modifier() {
    assert_eq!(CapType::General.op_mod(CapMode::Current), 1);
    assert_eq!(CapType::Roce.op_mod(CapMode::Max), 8);
    for op_mod in 0..64 {
        if let Some((page, mode)) = CapType::from_op_mod(op_mod) {
            assert_eq!(page.op_mod(mode), op_mod);
        } else {
            assert!(op_mod > 1);
        }
    }
    assert_eq!(size_of::<QueryHcaCapOut>(), 16 + 4096);
}

#[test]
fn every_command_carries_its_opcode() {
    assert_eq!(CreateQpIn::new().header.opcode(), 0x500);
    assert_eq!(Rst2InitQpIn::OPCODE, CmdOpcode::Rst2InitQp);
    let answer: Mailbox<<Rst2InitQpIn as CommandIn>::Out> = Mailbox::zeroed();
    assert_eq!(answer.size(), 16);
}

#[test]
fn layouts_are_listed_once_and_parts_are_listed_too() {
    for info in LAYOUTS {
        let same = LAYOUTS.iter().filter(|other| other.name == info.name);
        let pages = if info.name == "query_hca_cap_out" {
            3
        } else {
            1
        };
        assert_eq!(same.count(), pages, "{}", info.name);
        for part in info.parts {
            let listed = LAYOUTS.iter().find(|other| other.name == part.layout);
            assert_eq!(listed.map(|found| found.bytes), Some(part.bytes));
        }
    }
    assert_eq!(Qpc::FIELDS, Qpc::INFO.fields);
    assert_eq!(QueryQpOut::INFO.parts[1].bit_offset, 0xc0);
    assert_eq!(CmdHcaCap::BYTES, 256);
}

#[test]
fn bits_without_a_name_are_found() {
    let mut path = Ads::zeroed();
    let named = |bit: usize| {
        let of = |field: &Field| (field.bit_offset..field.bit_offset + field.width).contains(&bit);
        Ads::FIELDS.iter().any(of)
    };
    assert_eq!(path.reserved_bit(), None);
    for bit in 0..Ads::BYTES * 8 {
        path.as_mut_bytes()[bit / 8] ^= 0x80 >> (bit % 8);
        let found = (!named(bit)).then_some(bit);
        assert_eq!(path.reserved_bit(), found);
        path.as_mut_bytes()[bit / 8] = 0;
    }
    // What is in a part is the part's.
    let mut context = Qpc::zeroed();
    context.primary_address_path.as_mut_bytes().fill(0xff);
    assert_eq!(context.reserved_bit(), None);
    assert_eq!(context.primary_address_path.reserved_bit(), Some(2));
}
