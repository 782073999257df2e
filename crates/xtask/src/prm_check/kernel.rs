//! Command layouts against the kernel's `mlx5_ifc.h`.

use mlx5gda_sys::prm::{CmdOpcode, Field, InHeader, Info, Layout, OutHeader};

use super::Report;
use super::ifc::{Ifc, Struct};

/// Our fields that go by another name there, or by several in a row, and why.
const ALIASES: &[(&str, &str, &[&str], &str)] = &[
    (
        "ads",
        "rmac",
        &["rmac_47_32", "rmac_31_0"],
        "one address, which the header cuts at words",
    ),
    (
        "cqc",
        "c_eqn",
        &["c_eqn_or_apu_element"],
        "an event queue unless `apu_cq` is set",
    ),
    ("mkc", "length", &["len"], "spelled out"),
    (
        "atomic_caps",
        "atomic_req_8b_endianness_mode",
        &["atomic_req_8B_endianness_mode"],
        "names of functions are in lower case",
    ),
    (
        "modify_cq_in",
        "modify_field_select",
        &["modify_field_select_resize_field_select"],
        "the field of a union that is for modifying",
    ),
];

const UMEM: &str = "the kernel hands over page lists, never the umems of user space";
const UID: &str = "the kernel asks on its own behalf, which needs no user context";

const FIRMWARE: &str = "the kernel has no use for it; firmware prints it of its queues";

/// Our fields that the header leaves reserved, and why.
const RESERVED: &[(&str, &str, &str)] = &[
    ("qpc", "dbr_umem_id", UMEM),
    ("cqc", "dbr_umem_id", UMEM),
    ("cqc", "as_notify", FIRMWARE),
    ("cqc", "initiator_src_dct", FIRMWARE),
    ("cqc", "always_armed_cq", FIRMWARE),
    ("cqc", "apu_element_type", FIRMWARE),
    ("cqc", "mini_cqe_res_format_ext", FIRMWARE),
    ("cqc", "cq_timestamp_format", FIRMWARE),
    ("cqc", "local_partition_id", FIRMWARE),
    ("cqc", "process_id", FIRMWARE),
    ("create_cq_in", "cq_umem_offset", UMEM),
    ("create_cq_in", "cq_umem_id", UMEM),
    ("modify_cq_in", "cq_umem_offset", UMEM),
    ("modify_cq_in", "cq_umem_id", UMEM),
    ("create_qp_in", "wq_umem_offset", UMEM),
    ("create_qp_in", "wq_umem_id", UMEM),
    ("create_mkey_in", "mkey_umem_id", UMEM),
    ("create_mkey_in", "mkey_umem_offset", UMEM),
    ("query_hca_cap_in", "uid", UID),
    ("query_cq_in", "uid", UID),
    ("query_qp_in", "uid", UID),
    ("query_mkey_in", "uid", UID),
    ("nop_in", "uid", UID),
    ("query_adapter_in", "uid", UID),
    ("query_issi_in", "uid", UID),
    ("query_vport_state_in", "uid", UID),
    ("query_nic_vport_context_in", "uid", UID),
    ("query_roce_address_in", "uid", UID),
];

/// Compares layouts and opcodes.
pub(super) fn compare(ifc: &Ifc, layouts: &[Info]) -> Report {
    let mut report = Report::default();
    for ours in layouts {
        // The headers that mailboxes share have no struct there; they are held against each
        // mailbox that begins with one.
        if is_header(ours.name) {
            continue;
        }
        match ifc.layout(ours.name) {
            Some(theirs) => layout(&mut report, ifc, ours, theirs),
            None => report.differ(format!("{}: the header has no such struct", ours.name)),
        }
    }
    for opcode in CmdOpcode::ALL {
        let name = format!("MLX5_CMD_OP_{}", opcode.name());
        report.fact(&name, opcode.code().into(), ifc.number(&name));
    }
    report
}

fn is_header(name: &str) -> bool {
    [InHeader::INFO.name, OutHeader::INFO.name].contains(&name)
}

fn layout(report: &mut Report, ifc: &Ifc, ours: &Info, theirs: &Struct) {
    report.fact(
        &format!("bits of {}", ours.name),
        ours.bytes * 8,
        theirs.bits,
    );
    for one in ours.fields {
        field(report, ours.name, one, theirs);
    }
    for part in ours.parts {
        let header = [InHeader::INFO, OutHeader::INFO]
            .into_iter()
            .find(|header| header.name == part.layout);
        if let Some(header) = header {
            for one in header.fields {
                field(report, ours.name, one, theirs);
            }
            continue;
        }
        let what = format!("{}.{}", ours.name, part.name);
        let Some(member) = theirs.members.iter().find(|m| m.name == part.name) else {
            report.differ(format!("{what}: the header has no such member"));
            continue;
        };
        report.fact(&format!("offset of {what}"), part.bit_offset, member.at);
        // A union has our layout among its members.
        let name = Some(format!("mlx5_ifc_{}_bits", part.layout));
        let inside = ifc.of(member).map_or(&[][..], |of| &of.members);
        report.compared += 1;
        if member.of != name && inside.iter().all(|m| m.of != name) {
            report.differ(format!("{what}: no {} there", part.layout));
        }
    }
}

fn field(report: &mut Report, layout: &str, ours: &Field, theirs: &Struct) {
    let what = format!("{layout}.{}", ours.name);
    let alias = ALIASES
        .iter()
        .find(|(of, name, ..)| *of == layout && *name == ours.name);
    let own = [ours.name];
    let names = alias.map_or(&own[..], |(_, _, names, _)| names);
    let found: Vec<_> = names
        .iter()
        .filter_map(|name| theirs.members.iter().find(|m| m.name == *name))
        .collect();
    if found.len() == names.len() {
        let width: Option<usize> = found.iter().map(|m| m.width).sum();
        report.fact(&format!("offset of {what}"), ours.bit_offset, found[0].at);
        report.fact(&format!("width of {what}"), ours.width, width);
    } else if let Some((.., reason)) = RESERVED
        .iter()
        .find(|(of, name, _)| *of == layout && *name == ours.name)
    {
        let free = format!("reserved bits under {what}");
        report.fact(&free, ours.width, Some(reserved(ours, theirs)));
        report
            .unnamed
            .push(format!("{what}: reserved there: {reason}"));
    } else {
        report.differ(format!("{what}: the header has no such field"));
    }
}

/// How many bits of a field lie where the header says reserved.
fn reserved(ours: &Field, theirs: &Struct) -> usize {
    let end = ours.bit_offset + ours.width;
    let gaps = theirs
        .members
        .iter()
        .filter(|m| m.name.starts_with("reserved"));
    gaps.filter_map(|gap| {
        let (at, width) = gap.at.zip(gap.width)?;
        (at + width).min(end).checked_sub(at.max(ours.bit_offset))
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;

    const THEIRS: &str = "
        enum { MLX5_CMD_OP_CREATE_CQ = 0x401 };
        struct mlx5_ifc_mkc_bits { u8 a[0x8]; u8 len[0x10]; u8 reserved_at_18[0x8]; };
        struct mlx5_ifc_box_bits { u8 opcode[0x10]; struct mlx5_ifc_mkc_bits inner; };
        struct mlx5_ifc_cqc_bits { u8 reserved_at_0[0x18]; u8 taken[0x28]; };";

    fn one(name: &'static str, bytes: usize, fields: &'static [Field]) -> Result<Vec<String>> {
        let ours = Info {
            name,
            bytes,
            fields,
            parts: &[],
        };
        let mut found = compare(&Ifc::parse(THEIRS)?, &[ours]).differences;
        found.retain(|line| !line.starts_with("MLX5_CMD_OP"));
        Ok(found)
    }

    const fn at(name: &'static str, bit_offset: usize, width: usize) -> Field {
        Field {
            name,
            bit_offset,
            width,
        }
    }

    #[test]
    fn what_agrees_is_no_difference() -> Result<()> {
        const FIELDS: &[Field] = &[at("a", 0, 8), at("length", 8, 16)];
        assert_eq!(one("mkc", 4, FIELDS)?, [""; 0]);
        Ok(())
    }

    #[test]
    fn every_kind_of_difference_is_found() -> Result<()> {
        const MOVED: &[Field] = &[at("a", 1, 8)];
        assert_eq!(one("mkc", 4, MOVED)?, ["offset of mkc.a: ours 1, theirs 0"]);
        const WIDER: &[Field] = &[at("length", 8, 17)];
        let wider = ["width of mkc.length: ours 17, theirs 16"];
        assert_eq!(one("mkc", 4, WIDER)?, wider);
        assert_eq!(one("mkc", 5, &[])?, ["bits of mkc: ours 40, theirs 32"]);
        const UNKNOWN: &[Field] = &[at("b", 0, 8)];
        assert_eq!(
            one("mkc", 4, UNKNOWN)?,
            ["mkc.b: the header has no such field"]
        );
        const TAKEN: &[Field] = &[at("dbr_umem_id", 8, 32)];
        let taken = ["reserved bits under cqc.dbr_umem_id: ours 32, theirs 16"];
        assert_eq!(one("cqc", 8, TAKEN)?, taken);
        assert_eq!(one("tis", 8, &[])?, ["tis: the header has no such struct"]);
        Ok(())
    }

    #[test]
    fn opcodes_are_compared() -> Result<()> {
        let found = compare(&Ifc::parse(THEIRS)?, &[]).differences;
        let wrong = "MLX5_CMD_OP_CREATE_CQ: ours 1024, theirs 1025";
        assert!(found.iter().any(|line| line == wrong), "{found:?}");
        Ok(())
    }
}
