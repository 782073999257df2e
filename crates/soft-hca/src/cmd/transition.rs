//! The state transitions that carry a context.
//!
//! | command | from | to | required fields |
//! | --- | --- | --- | --- |
//! | RST2INIT | Reset | Init | port, path migration state, access rights |
//! | INIT2INIT | Init | Init | none |
//! | INIT2RTR | Init | RTR | MTU, remote QPN and GID, first PSN expected, ... |
//! | RTR2RTS | RTR | RTS | first PSN, retries, ... |
//! | RTS2RTS | RTS | RTS | none |

use std::time::Duration;

use mlx5gda_sys::prm::{
    CmdOpcode, InHeader, Init2InitQpIn, Init2InitQpOut, Init2RtrQpIn, Init2RtrQpOut, Mtu, PmState,
    QpState, Qpc, Rst2InitQpIn, Rst2InitQpOut, Rtr2RtsQpIn, Rtr2RtsQpOut, Rts2RtsQpIn,
    Rts2RtsQpOut, opt_param,
};

use super::cap::MIN_SRC_PORT;
use super::qp::unreserved_qpc;
use super::{CmdResult, Reason, input, output};
use crate::device::{Qp, State, limits};
use crate::psn::Psn;
use crate::rc::{Requester, RequesterConfig, Responder, ResponderConfig};

fn from(qp: &Qp, state: QpState) -> CmdResult {
    if qp.state == state {
        Ok(())
    } else {
        Err(Reason::State)
    }
}

/// What a transition is asked for beyond its context: the fields in front of
/// it and in it that have no meaning are 0, and so is every optional parameter that the
/// transition does not take.
fn frame(bytes: &[u8], qpc: &Qpc, mask: u32, taken: u32) -> CmdResult {
    let header: &InHeader = input(bytes)?;
    if header.op_mod() != 0 {
        return Err(Reason::OpMod);
    }
    // Bits 0x40 to 0x48 and 0x60 to 0x80.
    let reserved = bytes.get(8..9).into_iter().chain(bytes.get(12..16));
    if reserved.flatten().any(|byte| *byte != 0) {
        return Err(Reason::Reserved);
    }
    unreserved_qpc(qpc)?;
    if mask & !taken != 0 {
        return Err(Reason::OptParam);
    }
    Ok(())
}

/// Optional parameters by transition (`opt_mask` of the kernel's driver).
const RIGHTS: u32 = opt_param::RWE | opt_param::RRE | opt_param::RAE;
const INIT2INIT: u32 =
    RIGHTS | opt_param::PKEY_INDEX | opt_param::PRIMARY_PORT | opt_param::LAG_TX_AFFINITY;
const INIT2RTR: u32 = RIGHTS | opt_param::PKEY_INDEX | opt_param::LAG_TX_AFFINITY;
const RTR2RTS: u32 = RIGHTS | opt_param::PM_STATE | opt_param::RNR_TIMEOUT;
const RTS2RTS: u32 = RTR2RTS;

/// Checks the optional fields that `mask` names and of which this device knows
/// one value: there is one partition key, one port and no other path.
fn check_optional(qpc: &Qpc, mask: u32) -> CmdResult {
    if mask & opt_param::PM_STATE != 0 && qpc.pm_state() != PmState::Migrated.code() {
        return Err(Reason::PathMigration);
    }
    if mask & opt_param::PRIMARY_PORT != 0 && qpc.primary_address_path.vhca_port_num() != 1 {
        return Err(Reason::Port);
    }
    if mask & opt_param::PKEY_INDEX != 0 && qpc.primary_address_path.pkey_index() != 0 {
        return Err(Reason::PkeyIndex);
    }
    Ok(())
}

/// Takes the optional fields that `mask` names and of which there are several
/// values.
fn optional(qp: &mut Qp, qpc: &Qpc, mask: u32) {
    if mask & opt_param::RWE != 0 {
        qp.qpc.set_rwe(qpc.rwe());
    }
    if mask & opt_param::RRE != 0 {
        qp.qpc.set_rre(qpc.rre());
    }
    if mask & opt_param::RAE != 0 {
        qp.qpc.set_rae(qpc.rae());
        take(qp.qpc.set_atomic_mode(qpc.atomic_mode()));
    }
    if mask & opt_param::RNR_TIMEOUT != 0 {
        take(qp.qpc.set_min_rnr_nak(qpc.min_rnr_nak()));
        if let Some(responder) = &mut qp.responder {
            responder.set_min_rnr_nak(qpc.min_rnr_nak() as u8);
        }
    }
}

/// A field copied between equal layouts always fits.
fn take<E: std::fmt::Debug>(result: Result<(), E>) {
    debug_assert!(result.is_ok(), "{result:?}");
}

impl State {
    pub(super) fn transition(
        &mut self,
        opcode: CmdOpcode,
        bytes: &[u8],
        out: &mut [u8],
    ) -> CmdResult {
        match opcode {
            CmdOpcode::Rst2InitQp => {
                let command: &Rst2InitQpIn = input(bytes)?;
                output::<Rst2InitQpOut>(out)?;
                // The rights are taken with or without a mask.
                frame(bytes, &command.qpc, command.opt_param_mask(), INIT2INIT)?;
                self.rst2init(command.qpn(), &command.qpc)
            }
            CmdOpcode::Init2InitQp => {
                let command: &Init2InitQpIn = input(bytes)?;
                output::<Init2InitQpOut>(out)?;
                frame(bytes, &command.qpc, command.opt_param_mask(), INIT2INIT)?;
                let qp = self.qps.get_mut(&command.qpn()).ok_or(Reason::NoQp)?;
                from(qp, QpState::Init)?;
                check_optional(&command.qpc, command.opt_param_mask())?;
                optional(qp, &command.qpc, command.opt_param_mask());
                Ok(())
            }
            CmdOpcode::Init2RtrQp => {
                let command: &Init2RtrQpIn = input(bytes)?;
                output::<Init2RtrQpOut>(out)?;
                frame(bytes, &command.qpc, command.opt_param_mask(), INIT2RTR)?;
                self.init2rtr(command.qpn(), &command.qpc, command.opt_param_mask())
            }
            CmdOpcode::Rtr2RtsQp => {
                let command: &Rtr2RtsQpIn = input(bytes)?;
                output::<Rtr2RtsQpOut>(out)?;
                frame(bytes, &command.qpc, command.opt_param_mask(), RTR2RTS)?;
                self.rtr2rts(command.qpn(), &command.qpc, command.opt_param_mask())
            }
            CmdOpcode::Rts2RtsQp => {
                let command: &Rts2RtsQpIn = input(bytes)?;
                output::<Rts2RtsQpOut>(out)?;
                frame(bytes, &command.qpc, command.opt_param_mask(), RTS2RTS)?;
                let qp = self.qps.get_mut(&command.qpn()).ok_or(Reason::NoQp)?;
                from(qp, QpState::Rts)?;
                check_optional(&command.qpc, command.opt_param_mask())?;
                optional(qp, &command.qpc, command.opt_param_mask());
                Ok(())
            }
            _ => Err(Reason::UnknownCommand),
        }
    }

    fn rst2init(&mut self, qpn: u32, qpc: &Qpc) -> CmdResult {
        let qp = self.qps.get_mut(&qpn).ok_or(Reason::NoQp)?;
        from(qp, QpState::Rst)?;
        // These are not optional here.
        let required = opt_param::PM_STATE | opt_param::PRIMARY_PORT | opt_param::PKEY_INDEX;
        check_optional(qpc, required)?;
        take(qp.qpc.set_pm_state(qpc.pm_state()));
        qp.qpc.primary_address_path.set_vhca_port_num(1);
        optional(qp, qpc, opt_param::RWE | opt_param::RRE | opt_param::RAE);
        qp.state = QpState::Init;
        Ok(())
    }

    fn init2rtr(&mut self, qpn: u32, qpc: &Qpc, mask: u32) -> CmdResult {
        let port_mtu = self.mtu;
        let path = self.port.path(&qpc.primary_address_path);
        let routed = !self.port.is_infiniband();
        let qp = self.qps.get_mut(&qpn).ok_or(Reason::NoQp)?;
        from(qp, QpState::Init)?;
        let mtu = Mtu::try_from(qpc.mtu())
            .ok()
            .filter(|mtu| *mtu <= port_mtu)
            .ok_or(Reason::PathMtu)?;
        let ads = &qpc.primary_address_path;
        let path = path?;
        if routed && ads.hop_limit() == 0 {
            return Err(Reason::HopLimit);
        }
        if routed && ads.udp_sport() < MIN_SRC_PORT {
            return Err(Reason::SourcePort);
        }
        if routed && ads.rmac() == [0; 6] {
            return Err(Reason::RemoteMac);
        }
        if ads.vhca_port_num() > 1 {
            return Err(Reason::Port);
        }
        if qpc.log_msg_max() > limits::LOG_MESSAGE {
            return Err(Reason::MessageSize);
        }
        if qpc.log_rra_max() > limits::LOG_READS {
            return Err(Reason::ReadDepth);
        }
        check_optional(qpc, mask)?;
        optional(qp, qpc, mask);
        take(qp.qpc.set_mtu(qpc.mtu()));
        take(qp.qpc.set_log_msg_max(qpc.log_msg_max()));
        take(qp.qpc.set_remote_qpn(qpc.remote_qpn()));
        take(qp.qpc.set_log_rra_max(qpc.log_rra_max()));
        take(qp.qpc.set_min_rnr_nak(qpc.min_rnr_nak()));
        take(qp.qpc.set_next_rcv_psn(qpc.next_rcv_psn()));
        qp.qpc.primary_address_path.clone_from(ads);
        qp.qpc.primary_address_path.set_vhca_port_num(1);
        qp.qpc.primary_address_path.set_pkey_index(0);
        qp.path = Some(path);
        qp.responder = Some(Responder::new(ResponderConfig {
            dest_qpn: qpc.remote_qpn(),
            mtu: mtu.bytes(),
            start_psn: Psn::new(qpc.next_rcv_psn()),
            min_rnr_nak: qpc.min_rnr_nak() as u8,
            max_reads: 1 << qpc.log_rra_max(),
        }));
        qp.state = QpState::Rtr;
        Ok(())
    }

    fn rtr2rts(&mut self, qpn: u32, qpc: &Qpc, mask: u32) -> CmdResult {
        let qp = self.qps.get_mut(&qpn).ok_or(Reason::NoQp)?;
        from(qp, QpState::Rtr)?;
        if qpc.log_sra_max() > limits::LOG_READS {
            return Err(Reason::ReadDepth);
        }
        check_optional(qpc, mask)?;
        let mtu = Mtu::try_from(qp.qpc.mtu()).map_err(|_| Reason::PathMtu)?;
        optional(qp, qpc, mask);
        let timeout = qpc.primary_address_path.ack_timeout();
        take(qp.qpc.set_log_ack_req_freq(qpc.log_ack_req_freq()));
        take(qp.qpc.set_log_sra_max(qpc.log_sra_max()));
        take(qp.qpc.set_next_send_psn(qpc.next_send_psn()));
        take(qp.qpc.set_retry_count(qpc.retry_count()));
        take(qp.qpc.set_rnr_retry(qpc.rnr_retry()));
        take(qp.qpc.primary_address_path.set_ack_timeout(timeout));
        let window = (limits::WINDOW_BYTES / mtu.bytes()).min(limits::WINDOW_PACKETS);
        qp.requester = Some(Requester::new(RequesterConfig {
            dest_qpn: qp.qpc.remote_qpn(),
            mtu: mtu.bytes(),
            start_psn: Psn::new(qpc.next_send_psn()),
            // 4.096 us * 2^n.
            ack_timeout: (timeout != 0).then(|| Duration::from_nanos(4096 << timeout)),
            retry_count: qpc.retry_count() as u8,
            rnr_retry: qpc.rnr_retry() as u8,
            max_reads: 1 << qpc.log_sra_max(),
            window,
        }));
        qp.state = QpState::Rts;
        // Doorbells may have been rung before.
        self.make_hot(qpn);
        Ok(())
    }
}
