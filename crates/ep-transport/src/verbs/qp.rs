//! A reliable-connection queue pair with a send queue only, and its life cycle.

mod state;

use super::device::DevxObject;
use super::object::{CompletionQueue, ProtectionDomain, Uar, Umem};
use super::ring::QueuePlaces;
use super::{Device, SendQueue, VerbsError};
use mlx5gda_sys::prm::{
    CommandIn, CreateQpIn, CreateQpOut, Init2RtrQpIn, Mailbox, Mtu, PmState, Qp2RstIn, Qpc, RqType,
    Rst2InitQpIn, Rtr2RtsQpIn, ServiceType,
};
pub use state::{Init, ReadyToReceive, ReadyToSend, Reset};
use state::{Known, Onward, State};
use std::marker::PhantomData;
use std::sync::Arc;

/// Largest message: 2^30 bytes.
const LOG_MESSAGE: u32 = 30;
/// Routers that a packet may pass.
pub(super) const HOPS: u8 = 64;
/// First UDP source port that RoCE v2 uses.
const UDP_PORTS: u16 = 0xc000;

/// What a connection's path is like, apart from its two ends.
#[derive(Clone, Copy, Debug)]
pub struct PathSettings {
    pub(crate) ack_timeout: u8,
    pub(crate) retry_count: u8,
    pub(crate) rnr_retry: u8,
    pub(crate) traffic_class: u8,
    pub(crate) service_level: u8,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct RemoteEnd {
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

/// A queue pair as tables hold it: its state is known when the program runs.
#[derive(Debug)]
pub(crate) struct AnyQueuePair {
    number: u32,
    state: State,
    commands: u64,
    // Before what it uses: fields are dropped in this order.
    object: DevxObject,
    _completions: CompletionQueue,
    _domain: Arc<ProtectionDomain>,
    uar: Arc<Uar>,
    umem: Arc<Umem>,
    device: Arc<Device>,
}

/// A queue pair whose state is known when the program is compiled.
///
/// A command takes it and gives the one in the next state. It borrows from its table, so
/// that no outcome can lose the queue pair: where a command was refused, what is left is
/// the table's, in an unknown state, from which it can only be reset.
#[derive(Debug)]
pub struct QueuePair<'a, S> {
    pair: &'a mut AnyQueuePair,
    state: PhantomData<S>,
}

impl AnyQueuePair {
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
            state: State::Reset,
            commands: 1,
            object,
            _completions: completions,
            _domain: Arc::clone(domain),
            uar: Arc::clone(uar),
            umem: Arc::clone(umem),
            device: Arc::clone(device),
        })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Commands that this queue pair has seen.
    pub(crate) fn commands(&self) -> u64 {
        self.commands
    }

    /// The queue pair in state `S`, for the command that leads on from there.
    pub(crate) fn checked<S: Onward>(&mut self) -> Result<QueuePair<'_, S>, VerbsError> {
        if self.state == S::STATE {
            Ok(QueuePair::of(self))
        } else {
            Err(VerbsError::IllegalTransition {
                qpn: self.number,
                from: self.state.name(),
                to: S::Next::STATE.name(),
            })
        }
    }

    /// Any state to Reset, by a command unless it is there.
    pub(crate) fn reset(&mut self) -> Result<QueuePair<'_, Reset>, VerbsError> {
        if self.state == State::Reset {
            return Ok(QueuePair::of(self));
        }
        let mut input = Mailbox::new(Qp2RstIn::new());
        input.set_qpn(self.number)?;
        self.command(&input)
    }

    /// Sends the command that brings the queue pair to `S`.
    fn command<S: Known, I: CommandIn>(
        &mut self,
        input: &Mailbox<I>,
    ) -> Result<QueuePair<'_, S>, VerbsError> {
        let name = format!("queue pair {:#x}", self.number);
        let mut output = Mailbox::<I::Out>::zeroed();
        self.commands += 1;
        // Until the NIC has agreed.
        self.state = State::Unknown;
        self.object
            .modify(I::OPCODE.name(), &name, input, &mut output)?;
        self.state = S::STATE;
        Ok(QueuePair::of(self))
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
}

impl<'a, S> QueuePair<'a, S> {
    /// The caller knows that it is in `S`.
    fn of(pair: &'a mut AnyQueuePair) -> Self {
        Self {
            pair,
            state: PhantomData,
        }
    }
}

#[expect(private_bounds, reason = "there are no other states than ours")]
impl<'a, S: Onward> QueuePair<'a, S> {
    fn onward(self, input: &Mailbox<S::Command>) -> Result<QueuePair<'a, S::Next>, VerbsError> {
        self.pair.command(input)
    }
}

impl<'a> QueuePair<'a, Reset> {
    /// The poster's end of the send queue. The caller drops it before the queue pair.
    pub(crate) fn send_queue(&self, places: QueuePlaces) -> Result<SendQueue, VerbsError> {
        let memory = Arc::clone(self.pair.umem.memory());
        let register = self.pair.uar.register();
        Ok(SendQueue::new(memory, places, register, self.pair.number)?)
    }

    /// To Init: remote writes allowed.
    ///
    /// # Errors
    /// The NIC refuses.
    pub fn init(self) -> Result<QueuePair<'a, Init>, VerbsError> {
        let port = self.pair.device.port().number;
        let mut input = Mailbox::new(Rst2InitQpIn::new());
        input.set_qpn(self.pair.number)?;
        let context = &mut input.qpc;
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_rwe(true);
        context.primary_address_path.set_vhca_port_num(port);
        self.onward(&input)
    }
}

impl<'a> QueuePair<'a, Init> {
    /// To Ready-to-Receive: from now on it accepts what `remote` sends.
    ///
    /// # Errors
    /// The NIC refuses, or a value does not fit its command; then nothing was sent.
    pub fn ready_to_receive(
        self,
        remote: &RemoteEnd,
        path: &PathSettings,
    ) -> Result<QueuePair<'a, ReadyToReceive>, VerbsError> {
        let mut input = Mailbox::new(Init2RtrQpIn::new());
        input.set_qpn(self.pair.number)?;
        self.pair.describe(&mut input.qpc, remote, path)?;
        self.onward(&input)
    }
}

impl<'a> QueuePair<'a, ReadyToReceive> {
    /// To Ready-to-Send, numbering packets from `psn`.
    ///
    /// # Errors
    /// The NIC refuses, or a value does not fit its command; then nothing was sent.
    pub fn ready_to_send(
        self,
        psn: u32,
        path: &PathSettings,
    ) -> Result<QueuePair<'a, ReadyToSend>, VerbsError> {
        let mut input = Mailbox::new(Rtr2RtsQpIn::new());
        input.set_qpn(self.pair.number)?;
        let context = &mut input.qpc;
        context.set_pm_state(PmState::Migrated.code())?;
        context.set_next_send_psn(psn)?;
        context.set_retry_count(path.retry_count.into())?;
        context.set_rnr_retry(path.rnr_retry.into())?;
        context
            .primary_address_path
            .set_ack_timeout(path.ack_timeout.into())?;
        self.onward(&input)
    }
}

#[cfg(test)]
#[cfg(feature = "soft")]
mod tests;
