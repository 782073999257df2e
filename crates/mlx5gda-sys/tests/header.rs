//! The C header has the sizes and offsets that Rust has, for C and for C++.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use core::mem::offset_of;
use std::io::Write;
use std::process::{Command, Stdio};

use mlx5gda_sys::cqe::{Cqe64, CqeOpcode, Syndrome};
use mlx5gda_sys::doorbell::{CqDoorbellRecord, QpDoorbellRecord, UAR_BLUEFLAME};
use mlx5gda_sys::wqe::{
    AtomicSeg, CtrlFlags, CtrlSeg, DataSeg, INLINE_SEG, InlineHeader, MaskedCompareSwap4Seg,
    MaskedFetchAdd4Seg, MaskedFetchAdd8Seg, Opcode, RaddrSeg, WQEBB_BYTES,
};

/// C expressions that must equal what Rust says, for structs and some of their fields.
macro_rules! facts {
    ($($ours:ty = $theirs:ident { $($field:ident),* })*) => {
        vec![$(
            (format!("sizeof(struct {})", stringify!($theirs)), size_of::<$ours>()),
            $((
                format!("offsetof(struct {}, {})", stringify!($theirs), stringify!($field)),
                offset_of!($ours, $field),
            ),)*
        )*]
    };
}

fn facts() -> Vec<(String, usize)> {
    let mut facts = facts! {
        CtrlSeg = mlx5gda_ctrl_seg {
            opmod_idx_opcode, qpn_ds, signature, dci_stream_channel_id, fm_ce_se, imm
        }
        RaddrSeg = mlx5gda_raddr_seg { raddr, rkey, reserved }
        DataSeg = mlx5gda_data_seg { byte_count, lkey, addr }
        InlineHeader = mlx5gda_inline_header { byte_count }
        AtomicSeg = mlx5gda_atomic_seg { swap_add, compare }
        MaskedFetchAdd8Seg = mlx5gda_masked_fetch_add_8_seg { add, boundary }
        MaskedFetchAdd4Seg = mlx5gda_masked_fetch_add_4_seg { add, boundary, reserved }
        MaskedCompareSwap4Seg = mlx5gda_masked_compare_swap_4_seg {
            swap, compare, swap_mask, compare_mask
        }
        Cqe64 = mlx5gda_cqe64 {
            wqe_id, ml_path, slid, flags_rqpn, vlan_info, srqn_uidx, imm_inval_pkey, app_info,
            byte_cnt, timestamp, sop_drop_qpn, wqe_counter, signature, op_own
        }
        QpDoorbellRecord = mlx5gda_qp_doorbell_record { receive, send }
        CqDoorbellRecord = mlx5gda_cq_doorbell_record { consumer, arm }
    };
    for (name, value) in [
        ("CTRL_CQ_UPDATE", CtrlFlags::CQ_UPDATE.bits()),
        ("CTRL_SOLICITED", CtrlFlags::SOLICITED.bits()),
        ("CTRL_FENCE", CtrlFlags::FENCE.bits()),
        ("CTRL_SMALL_FENCE", CtrlFlags::SMALL_FENCE.bits()),
        ("SYNDROME_WR_FLUSH", Syndrome::WrFlush.code()),
        ("SYNDROME_REMOTE_ACCESS", Syndrome::RemoteAccess.code()),
        ("SYNDROME_REMOTE_ABORTED", Syndrome::RemoteAborted.code()),
    ] {
        facts.push((format!("MLX5GDA_{name}"), usize::from(value)));
    }
    facts.extend([
        ("MLX5GDA_WQEBB_BYTES".to_owned(), WQEBB_BYTES),
        ("MLX5GDA_INLINE_SEG".to_owned(), INLINE_SEG as usize),
        ("MLX5GDA_UAR_BLUEFLAME".to_owned(), UAR_BLUEFLAME),
        (
            "MLX5GDA_OPCODE_ATOMIC_MASKED_FA".to_owned(),
            Opcode::AtomicMaskedFa as usize,
        ),
        (
            "MLX5GDA_CQE_OPCODE_RESP_ERR".to_owned(),
            CqeOpcode::RespErr as usize,
        ),
    ]);
    facts
}

/// What the compiler complains about; `None` when there is no such compiler.
fn compile(compiler: &str, arguments: &[&str], program: &str) -> Option<String> {
    let mut child = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/include")])
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(program.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), complaint.is_empty());
    Some(complaint)
}

#[test]
fn c_and_cpp_see_what_rust_does() {
    let mut program = String::from("#include <mlx5gda.h>\n#include <stddef.h>\n");
    for (expression, value) in facts() {
        program += &format!("static_assert({expression} == {value}, \"{expression}\");\n");
    }
    let c = format!("#include <assert.h>\n{program}");
    for (compiler, arguments, program) in [
        ("cc", ["-std=c11", "-xc"], &c),
        ("c++", ["-std=c++17", "-xc++"], &program),
    ] {
        match compile(compiler, &arguments, program) {
            Some(complaint) => assert_eq!(complaint, "", "{compiler}"),
            None => println!("no {compiler}: not tried"),
        }
    }
}

#[test]
fn a_wrong_size_would_be_seen() {
    let program = "#include <mlx5gda.h>\n_Static_assert(sizeof(struct mlx5gda_cqe64) == 65, \"\");";
    if let Some(complaint) = compile("cc", &["-std=c11", "-xc"], program) {
        assert!(complaint.contains("assertion failed"), "{complaint}");
    }
}
