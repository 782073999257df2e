//! What the queues hold against rdma-core's `mlx5dv.h`, as a C compiler sees it.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mlx5gda_sys::cqe::{CQE_OWNER_MASK, Cqe64, CqeOpcode, Syndrome};
use mlx5gda_sys::doorbell::{QpDoorbellRecord, UAR_CQ_DOORBELL};
use mlx5gda_sys::wqe::{
    AtomicSeg, CtrlFlags, CtrlSeg, DataSeg, INLINE_SEG, InlineHeader, Opcode, RaddrSeg, WQEBB_BYTES,
};

use super::Report;
use super::headers::stdout;

/// A C expression, and what it has to be.
type Fact = (String, usize);

/// Compares sizes, offsets and constants.
///
/// # Errors
/// The C compiler fails, or the program that it made.
pub(super) fn compare() -> Result<Report> {
    let facts: Vec<Fact> = layouts().into_iter().chain(constants()).collect();
    let theirs = ask(facts.iter().map(|(expression, _)| expression.as_str()))?;
    let mut report = Report::default();
    for ((expression, ours), theirs) in facts.iter().zip(theirs) {
        report.fact(expression, *ours, Some(theirs));
    }
    Ok(report)
}

/// What each expression is, by a program that prints them.
fn ask<'a>(expressions: impl Iterator<Item = &'a str>) -> Result<Vec<usize>> {
    let mut program = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <infiniband/mlx5dv.h>\nint main(void) {\n",
    );
    let mut count = 0;
    for expression in expressions {
        writeln!(program, "printf(\"%zu\\n\", (size_t)({expression}));")?;
        count += 1;
    }
    program += "return 0;\n}\n";
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let (source, binary) = (dir.path().join("facts.c"), dir.path().join("facts"));
    std::fs::write(&source, program).context("cannot write the program")?;
    stdout(Command::new("cc").arg(&source).arg("-o").arg(&binary))?;
    let printed = stdout(&mut Command::new(&binary))?;
    let numbers = printed
        .lines()
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(
        numbers.len() == count,
        "{} of {count} answers",
        numbers.len()
    );
    Ok(numbers)
}

/// Size of a struct, and offset and size of its members; `ours = theirs` where names differ.
macro_rules! structs {
    ($($ours:ty, $theirs:literal { $($field:ident = $their_field:literal)* })*) => {
        vec![$(
            (format!("sizeof(struct {})", $theirs), size_of::<$ours>()),
            $(
                (
                    format!("offsetof(struct {}, {})", $theirs, $their_field),
                    offset_of!($ours, $field),
                ),
                (
                    format!("sizeof(((struct {} *)0)->{})", $theirs, $their_field),
                    size_of_member(|object: &$ours| &object.$field),
                ),
            )*
        )*]
    };
}

fn size_of_member<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

fn layouts() -> Vec<Fact> {
    let mut facts = structs! {
        CtrlSeg, "mlx5_wqe_ctrl_seg" {
            opmod_idx_opcode = "opmod_idx_opcode"
            qpn_ds = "qpn_ds"
            signature = "signature"
            dci_stream_channel_id = "dci_stream_channel_id"
            fm_ce_se = "fm_ce_se"
            imm = "imm"
        }
        RaddrSeg, "mlx5_wqe_raddr_seg" {
            raddr = "raddr"
            rkey = "rkey"
            reserved = "reserved"
        }
        DataSeg, "mlx5_wqe_data_seg" {
            byte_count = "byte_count"
            lkey = "lkey"
            addr = "addr"
        }
        InlineHeader, "mlx5_wqe_inl_data_seg" {
            byte_count = "byte_count"
        }
        AtomicSeg, "mlx5_wqe_atomic_seg" {
            swap_add = "swap_add"
            compare = "compare"
        }
        Cqe64, "mlx5_cqe64" {
            rsvd0 = "rsvd0"
            wqe_id = "wqe_id"
            rsvd4 = "rsvd4"
            ml_path = "ml_path"
            rsvd18 = "rsvd20"
            slid = "slid"
            flags_rqpn = "flags_rqpn"
            hds_ip_ext = "hds_ip_ext"
            l4_hdr_type_etc = "l4_hdr_type_etc"
            vlan_info = "vlan_info"
            srqn_uidx = "srqn_uidx"
            imm_inval_pkey = "imm_inval_pkey"
            app = "app"
            app_op = "app_op"
            app_info = "app_info"
            byte_cnt = "byte_cnt"
            timestamp = "timestamp"
            sop_drop_qpn = "sop_drop_qpn"
            wqe_counter = "wqe_counter"
            signature = "signature"
            op_own = "op_own"
        }
        Cqe64, "mlx5_err_cqe" {
            srqn_uidx = "srqn"
            sop_drop_qpn = "s_wqe_opcode_qpn"
            wqe_counter = "wqe_counter"
            signature = "signature"
            op_own = "op_own"
        }
    };
    let words = [
        ("MLX5_RCV_DBR", offset_of!(QpDoorbellRecord, receive)),
        ("MLX5_SND_DBR", offset_of!(QpDoorbellRecord, send)),
    ];
    facts.extend(words.map(|(name, offset)| (format!("{name} * sizeof(__be32)"), offset)));
    facts
}

fn constants() -> impl Iterator<Item = Fact> {
    let sizes = [
        ("MLX5_SEND_WQE_BB", WQEBB_BYTES),
        ("MLX5_CQ_DOORBELL", UAR_CQ_DOORBELL),
        ("MLX5_CQE_OWNER_MASK", CQE_OWNER_MASK.into()),
        ("(uint32_t)MLX5_INLINE_SEG", INLINE_SEG as usize),
    ];
    let opcodes = [
        ("MLX5_OPCODE_NOP", Opcode::Nop),
        ("MLX5_OPCODE_RDMA_WRITE", Opcode::RdmaWrite),
        ("MLX5_OPCODE_RDMA_WRITE_IMM", Opcode::RdmaWriteImm),
        ("MLX5_OPCODE_SEND", Opcode::Send),
        ("MLX5_OPCODE_SEND_IMM", Opcode::SendImm),
        ("MLX5_OPCODE_RDMA_READ", Opcode::RdmaRead),
        ("MLX5_OPCODE_ATOMIC_CS", Opcode::AtomicCs),
        ("MLX5_OPCODE_ATOMIC_FA", Opcode::AtomicFa),
        ("MLX5_OPCODE_ATOMIC_MASKED_CS", Opcode::AtomicMaskedCs),
        ("MLX5_OPCODE_ATOMIC_MASKED_FA", Opcode::AtomicMaskedFa),
    ];
    let flags = [
        ("MLX5_WQE_CTRL_CQ_UPDATE", CtrlFlags::CQ_UPDATE),
        ("MLX5_WQE_CTRL_SOLICITED", CtrlFlags::SOLICITED),
        ("MLX5_WQE_CTRL_FENCE", CtrlFlags::FENCE),
        (
            "MLX5_WQE_CTRL_INITIATOR_SMALL_FENCE",
            CtrlFlags::SMALL_FENCE,
        ),
    ];
    let completions = [
        ("MLX5_CQE_REQ", CqeOpcode::Req),
        ("MLX5_CQE_RESP_WR_IMM", CqeOpcode::RespWriteImm),
        ("MLX5_CQE_RESP_SEND", CqeOpcode::RespSend),
        ("MLX5_CQE_RESP_SEND_IMM", CqeOpcode::RespSendImm),
        ("MLX5_CQE_RESP_SEND_INV", CqeOpcode::RespSendInval),
        ("MLX5_CQE_RESIZE_CQ", CqeOpcode::Resize),
        ("MLX5_CQE_REQ_ERR", CqeOpcode::ReqErr),
        ("MLX5_CQE_RESP_ERR", CqeOpcode::RespErr),
        ("MLX5_CQE_INVALID", CqeOpcode::Invalid),
    ];
    let syndromes = [
        ("LOCAL_LENGTH_ERR", Syndrome::LocalLength),
        ("LOCAL_QP_OP_ERR", Syndrome::LocalQpOperation),
        ("LOCAL_PROT_ERR", Syndrome::LocalProtection),
        ("WR_FLUSH_ERR", Syndrome::WrFlush),
        ("MW_BIND_ERR", Syndrome::MwBind),
        ("BAD_RESP_ERR", Syndrome::BadResponse),
        ("LOCAL_ACCESS_ERR", Syndrome::LocalAccess),
        ("REMOTE_INVAL_REQ_ERR", Syndrome::RemoteInvalidRequest),
        ("REMOTE_ACCESS_ERR", Syndrome::RemoteAccess),
        ("REMOTE_OP_ERR", Syndrome::RemoteOperation),
        ("TRANSPORT_RETRY_EXC_ERR", Syndrome::TransportRetryExceeded),
        ("RNR_RETRY_EXC_ERR", Syndrome::RnrRetryExceeded),
        ("REMOTE_ABORTED_ERR", Syndrome::RemoteAborted),
    ];
    let named = |(name, value): (&str, usize)| (name.to_owned(), value);
    (sizes.into_iter())
        .chain(opcodes.map(|(name, opcode)| (name, opcode as usize)))
        .chain(flags.map(|(name, flags)| (name, flags.bits().into())))
        .chain(completions.map(|(name, opcode)| (name, opcode as usize)))
        .map(named)
        .chain(
            syndromes.map(|(name, syndrome)| {
                (format!("MLX5_CQE_SYNDROME_{name}"), syndrome.code().into())
            }),
        )
}
