//! A reliable-connection queue pair with a send queue only, and its life cycle.

use super::device::DevxObject;
use super::object::{CompletionQueue, ProtectionDomain, Uar, Umem};
use super::ring::QueuePlaces;
use super::{Device, SendQueue, VerbsError};
use mlx5gda_sys::prm::{
    CreateQpIn, CreateQpOut, Init2RtrQpIn, Init2RtrQpOut, Mailbox, Mtu, PmState, Qp2RstIn,
    Qp2RstOut, QpState, Qpc, RqType, Rst2InitQpIn, Rst2InitQpOut, Rtr2RtsQpIn, Rtr2RtsQpOut,
    ServiceType,
};
use std::sync::Arc;

/// Largest message: 2^30 bytes.
const LOG_MESSAGE: u32 = 30;
/// Routers that a packet may pass.
pub(super) const HOPS: u8 = 64;
/// First UDP source port that RoCE v2 uses.
const UDP_PORTS: u16 = 0xc000;

/// What a connection's path is like, apart from its two ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSettings {
    pub(crate) ack_timeout: u8,
    pub(crate) retry_count: u8,
    pub(crate) rnr_retry: u8,
    pub(crate) traffic_class: u8,
    pub(crate) service_level: u8,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct RemoteEnd {
    pub(crate) qpn: u32,
    /// First PSN that it will send.
    pub(crate) psn: u32,
    pub(crate) gid: [u8; 16],
    /// On Ethernet, the MAC address of the peer or of the router on the way to it.
    pub(crate) mac: [u8; 6],
    pub(crate) lid: u16,
    /// InfiniBand: packets carry a global route header.
    pub(crate) global: bool,
    /// Path MTU in bytes: the smaller of both ports'.
    pub(crate) mtu: u32,
    /// Spreads the queue pairs of one peer over UDP source ports.
    pub(crate) flow: u16,
}

/// A queue pair.
#[derive(Debug)]
pub(crate) struct QueuePair {
    number: u32,
    state: QpState,
    commands: u64,
    // Before what it uses: fields are dropped in this order.
    object: DevxObject,
    _completions: CompletionQueue,
    _domain: Arc<ProtectionDomain>,
    uar: Arc<Uar>,
    umem: Arc<Umem>,
    device: Arc<Device>,
}

pub(crate) fn state_name(state: QpState) -> &'static str {
    match state {
        QpState::Rst => "RESET",
        QpState::Init => "INIT",
        QpState::Rtr => "RTR",
        QpState::Rts => "RTS",
        QpState::Sqer => "SQER",
        QpState::Sqd => "SQD",
        QpState::Err => "ERR",
        _ => "unknown",
    }
}

impl QueuePair {
    /// A queue pair in the Reset state whose ring lies at `places` of `umem`.
    pub(crate) fn create(
        device: &Arc<Device>,
        domain: &Arc<ProtectionDomain>,
        umem: &Arc<Umem>,
        uar: &Arc<Uar>,
        completions: CompletionQueue,
        places: &QueuePlaces,
    ) -> Result<Self, VerbsError> {
        let mut input = Mailbox::new(CreateQpIn::new());
        input.set_wq_umem_valid(true);
        input.set_wq_umem_id(umem.id());
        input.set_wq_umem_offset(places.ring);
        let context = &mut input.qpc;
        context.set_st(ServiceType::Rc.code() as u8);
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_pd(domain.number())?;
        context.set_rq_type(RqType::ZeroLength.code())?;
        context.set_log_sq_size(places.depth.ilog2())?;
        context.set_uar_page(uar.page_id())?;
        context.set_cqn_snd(completions.number())?;
        context.set_cqn_rcv(completions.number())?;
        context.set_dbr_umem_valid(true);
        context.set_dbr_umem_id(umem.id());
        context.set_dbr_addr(places.record);
        let mut output = Mailbox::<CreateQpOut>::zeroed();
        let object = device.create("CREATE_QP", &input, &mut output)?;
        Ok(Self {
            number: output.qpn(),
            state: QpState::Rst,
            commands: 1,
            object,
            _completions: completions,
            _domain: Arc::clone(domain),
            uar: Arc::clone(uar),
            umem: Arc::clone(umem),
            device: Arc::clone(device),
        })
    }

    /// The poster's end of the send queue. The caller drops it before the queue pair.
    pub(crate) fn send_queue(&self, places: QueuePlaces) -> Result<SendQueue, VerbsError> {
        let memory = Arc::clone(self.umem.memory());
        let register = self.uar.register();
        Ok(SendQueue::new(memory, places, register, self.number)?)
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn state(&self) -> QpState {
        self.state
    }

    /// Commands that this queue pair has seen.
    pub(crate) fn commands(&self) -> u64 {
        self.commands
    }

    fn name(&self) -> String {
        format!("queue pair {:#x}", self.number)
    }

    fn go(&self, from: &[QpState], to: QpState) -> Result<(), VerbsError> {
        if from.contains(&self.state) {
            Ok(())
        } else {
            Err(VerbsError::IllegalTransition {
                qpn: self.number,
                from: state_name(self.state),
                to: state_name(to),
            })
        }
    }

    /// Any state to Reset.
    pub(crate) fn reset(&mut self) -> Result<(), VerbsError> {
        let mut input = Mailbox::new(Qp2RstIn::new());
        input.set_qpn(self.number)?;
        self.commands += 1;
        self.object.modify(
            "2RST_QP",
            &self.name(),
            &input,
            &mut Mailbox::<Qp2RstOut>::zeroed(),
        )?;
        self.state = QpState::Rst;
        Ok(())
    }

    /// Reset to Init: remote writes allowed.
    pub(crate) fn init(&mut self) -> Result<(), VerbsError> {
        self.go(&[QpState::Rst], QpState::Init)?;
        let port = self.device.port().number;
        let mut input = Mailbox::new(Rst2InitQpIn::new());
        input.set_qpn(self.number)?;
        let context = &mut input.qpc;
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_rwe(true);
        context.primary_address_path.set_vhca_port_num(port);
        self.commands += 1;
        self.object.modify(
            "RST2INIT_QP",
            &self.name(),
            &input,
            &mut Mailbox::<Rst2InitQpOut>::zeroed(),
        )?;
        self.state = QpState::Init;
        Ok(())
    }

    /// Init to Ready-to-Receive: from now on it accepts what `remote` sends.
    pub(crate) fn ready_to_receive(
        &mut self,
        remote: &RemoteEnd,
        path: &PathSettings,
    ) -> Result<(), VerbsError> {
        self.go(&[QpState::Init], QpState::Rtr)?;
        let mut input = Mailbox::new(Init2RtrQpIn::new());
        input.set_qpn(self.number)?;
        self.describe(&mut input.qpc, remote, path)?;
        self.commands += 1;
        self.object.modify(
            "INIT2RTR_QP",
            &self.name(),
            &input,
            &mut Mailbox::<Init2RtrQpOut>::zeroed(),
        )?;
        self.state = QpState::Rtr;
        Ok(())
    }

    fn describe(
        &self,
        context: &mut Qpc,
        remote: &RemoteEnd,
        path: &PathSettings,
    ) -> Result<(), VerbsError> {
        let port = self.device.port();
        let mtu = Mtu::fitting(remote.mtu).unwrap_or(Mtu::Bytes256);
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_mtu(mtu.code())?;
        context.set_log_msg_max(LOG_MESSAGE)?;
        context.set_remote_qpn(remote.qpn)?;
        context.set_next_rcv_psn(remote.psn)?;
        context.set_rwe(true);
        context.set_min_rnr_nak(12)?;
        let address = &mut context.primary_address_path;
        address.set_vhca_port_num(port.number);
        address.set_tclass(path.traffic_class);
        address.set_ack_timeout(path.ack_timeout.into())?;
        if port.ethernet {
            address.set_src_addr_index(port.gid_index);
            address.set_rgid_rip(remote.gid);
            address.set_rmac(remote.mac);
            address.set_hop_limit(HOPS);
            address.set_udp_sport(UDP_PORTS | remote.flow & 0x3fff);
            address.set_dscp(u32::from(path.traffic_class >> 2))?;
            address.set_eth_prio(u32::from(path.service_level & 7))?;
        } else {
            address.set_rlid(remote.lid);
            address.set_sl(path.service_level.into())?;
            if remote.global {
                address.set_grh(true);
                address.set_src_addr_index(port.gid_index);
                address.set_rgid_rip(remote.gid);
                address.set_hop_limit(HOPS);
            }
        }
        Ok(())
    }

    /// Ready-to-Receive to Ready-to-Send, numbering packets from `psn`.
    pub(crate) fn ready_to_send(
        &mut self,
        psn: u32,
        path: &PathSettings,
    ) -> Result<(), VerbsError> {
        self.go(&[QpState::Rtr], QpState::Rts)?;
        let mut input = Mailbox::new(Rtr2RtsQpIn::new());
        input.set_qpn(self.number)?;
        let context = &mut input.qpc;
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_next_send_psn(psn)?;
        context.set_retry_count(path.retry_count.into())?;
        context.set_rnr_retry(path.rnr_retry.into())?;
        context
            .primary_address_path
            .set_ack_timeout(path.ack_timeout.into())?;
        self.commands += 1;
        self.object.modify(
            "RTR2RTS_QP",
            &self.name(),
            &input,
            &mut Mailbox::<Rtr2RtsQpOut>::zeroed(),
        )?;
        self.state = QpState::Rts;
        Ok(())
    }
}
