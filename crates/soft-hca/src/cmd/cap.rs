//! QUERY_HCA_CAP.

use mlx5gda_sys::prm::{
    CapType, PortType, QueryAtomicCapOut, QueryHcaCapIn, QueryHcaCapOut, QueryRoceCapOut,
};

use super::{CmdResult, Reason, output};
use crate::device::{State, limits};
use crate::net::Port;
use crate::wire::UDP_PORT;

/// Lowest UDP source port that a path may ask for.
pub(super) const MIN_SRC_PORT: u16 = 0xc000;

impl State {
    pub(super) fn query_hca_cap(
        &self,
        op_mod: u16,
        _: &QueryHcaCapIn,
        out: &mut [u8],
    ) -> CmdResult {
        let (page, _) = CapType::from_op_mod(op_mod).ok_or(Reason::OpMod)?;
        match page {
            CapType::General => general(output(out)?, &self.port),
            CapType::Roce => {
                roce(output(out)?, &self.port);
                Ok(())
            }
            CapType::Atomic => {
                atomic(output(out)?);
                Ok(())
            }
            _ => Err(Reason::OpMod),
        }
    }
}

fn general(out: &mut QueryHcaCapOut, port: &Port) -> CmdResult {
    let cap = &mut out.capability;
    cap.set_log_max_qp_sz(limits::LOG_QUEUE as u8);
    cap.set_log_max_cq_sz(limits::LOG_CQ as u8);
    // 8 * 2^0 GIDs and 128 * 2^0 partition keys: no table is smaller.
    cap.set_gid_table_size(0);
    cap.set_pkey_table_size(0);
    cap.set_num_ports(1);
    cap.set_native_port_num(1);
    cap.set_num_vhca_ports(1);
    cap.set_max_sgl_for_optimized_performance(1);
    cap.set_roce(!port.is_infiniband());
    cap.set_atomic(true);
    cap.set_cq_oi(true);
    cap.set_rc(true);
    cap.set_uar_4k(true);
    cap.set_bf(true);
    cap.set_log_pg_sz(12);
    cap.set_max_wqe_sz_sq(limits::WQE_BYTES as u16);
    cap.set_max_wqe_sz_rq(limits::WQE_BYTES as u16);
    cap.set_device_frequency_khz(1_000_000);
    let port_type = if port.is_infiniband() {
        PortType::InfiniBand
    } else {
        PortType::Ethernet
    };
    let wide = [
        cap.set_log_max_qp(limits::LOG_OBJECTS),
        cap.set_log_max_cq(limits::LOG_OBJECTS),
        cap.set_log_max_pd(limits::LOG_OBJECTS),
        cap.set_log_max_umem(limits::LOG_OBJECTS),
        cap.set_log_max_mkey(limits::LOG_OBJECTS),
        cap.set_log_max_mrw_sz(47),
        cap.set_log_max_ra_req_qp(limits::LOG_READS),
        cap.set_log_max_ra_res_qp(limits::LOG_READS),
        cap.set_local_ca_ack_delay(16),
        cap.set_port_type(port_type.code()),
        cap.set_log_max_msg(limits::LOG_MESSAGE),
        cap.set_cqe_version(1),
        cap.set_log_bf_reg_size(9),
    ];
    // Every constant fits its field, as the test below sees.
    if wide.iter().any(Result::is_err) {
        return Err(Reason::Exhausted);
    }
    Ok(())
}

fn roce(out: &mut QueryRoceCapOut, port: &Port) {
    if port.is_infiniband() {
        return;
    }
    let cap = &mut out.capability;
    cap.set_roce_version(1 << 2);
    cap.set_sw_r_roce_src_udp_port(true);
    cap.set_r_roce_dest_udp_port(UDP_PORT);
    cap.set_r_roce_min_src_udp_port(MIN_SRC_PORT);
    cap.set_r_roce_max_src_udp_port(0xffff);
    cap.set_roce_address_table_size(port.gid_count() as u16);
}

fn atomic(out: &mut QueryAtomicCapOut) {
    let cap = &mut out.capability;
    // Results arrive in host order.
    let fits = cap.set_atomic_req_8b_endianness_mode(1);
    debug_assert!(fits.is_ok());
    // Compare and swap, fetch and add, and the masked ones; bit n of the sizes
    // stands for 2^n bytes.
    cap.set_atomic_operations(0b1111);
    cap.set_atomic_size_qp(1 << 2 | 1 << 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_fits_its_field() {
        let mut out = QueryHcaCapOut::zeroed();
        let port = Port {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            link: crate::net::Link::Ethernet,
        };
        general(&mut out, &port).unwrap();
        assert_eq!(out.capability.log_max_msg(), limits::LOG_MESSAGE);
        assert_eq!(out.capability.num_ports(), 1);
        let gids = 8u32 << out.capability.gid_table_size();
        assert_eq!(
            gids,
            8,
            "the smallest table that holds {}",
            port.gid_count()
        );
    }
}
