//! Our layouts against those of the C headers.

use core::mem::offset_of;

use mlx5gda_sys::cqe::Cqe64;
use mlx5gda_sys::ffi;
use mlx5gda_sys::wqe::{AtomicSeg, DataSeg, InlineHeader, RaddrSeg};

/// Size, and the offsets of the fields named on both sides.
macro_rules! same {
    ($ours:ty, $theirs:ty { $($field:ident = $their_field:ident),* }) => {
        assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), stringify!($ours));
        $(assert_eq!(
            offset_of!($ours, $field),
            offset_of!($theirs, $their_field),
            stringify!($ours.$field)
        );)*
    };
}

#[test]
fn segments() {
    same!(DataSeg, ffi::mlx5_wqe_data_seg { byte_count = byte_count, lkey = lkey, addr = addr });
    same!(RaddrSeg, ffi::mlx5_wqe_raddr_seg { raddr = raddr, rkey = rkey });
    same!(AtomicSeg, ffi::mlx5_wqe_atomic_seg { swap_add = swap_add, compare = compare });
    same!(InlineHeader, ffi::mlx5_wqe_inl_data_seg { byte_count = byte_count });
}

#[test]
fn completions() {
    same!(Cqe64, ffi::mlx5_cqe64 {
        srqn_uidx = srqn_uidx,
        imm_inval_pkey = imm_inval_pkey,
        app = app,
        app_op = app_op,
        app_info = app_info,
        byte_cnt = byte_cnt,
        timestamp = timestamp,
        sop_drop_qpn = sop_drop_qpn,
        wqe_counter = wqe_counter,
        signature = signature,
        op_own = op_own
    });
    same!(Cqe64, ffi::mlx5_err_cqe {
        srqn_uidx = srqn,
        sop_drop_qpn = s_wqe_opcode_qpn,
        wqe_counter = wqe_counter,
        op_own = op_own
    });
    assert_eq!(offset_of!(ffi::mlx5_err_cqe, vendor_err_synd), 54);
    assert_eq!(offset_of!(ffi::mlx5_err_cqe, syndrome), 55);
}
