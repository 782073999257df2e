//! From Reset to ready-to-send and back, and two clients that are connected.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mlx5gda_sys::prm::{
    AtomicMode, CmdStatus, Init2RtrQpIn, Mtu, PmState, Qp2ErrIn, Qp2RstIn, QpState, Qpc, QueryQpIn,
    Rst2InitQpIn, Rtr2RtsQpIn, opt_param,
};
use soft_hca::Config;

use super::{Client, End, Pair, Qp};

impl Client {
    pub(crate) fn rst2init(&self, qp: &Qp) -> Result<(), CmdStatus> {
        let mut input = Rst2InitQpIn::new();
        input.set_qpn(qp.number).unwrap();
        let qpc = &mut input.qpc;
        qpc.set_pm_state(PmState::Migrated.code()).unwrap();
        qpc.primary_address_path.set_vhca_port_num(1);
        self.modify(qp.object, input)
    }

    pub(crate) fn init2rtr(&self, qp: &Qp, peer: &End) -> Result<(), CmdStatus> {
        let mut input = Init2RtrQpIn::new();
        self.fill_rtr(&mut input, qp, peer);
        self.modify(qp.object, input)
    }

    /// An INIT2RTR command that allows the peer everything.
    pub(crate) fn fill_rtr(&self, input: &mut Init2RtrQpIn, qp: &Qp, peer: &End) {
        input.set_qpn(qp.number).unwrap();
        input.set_opt_param_mask(opt_param::RWE | opt_param::RRE | opt_param::RAE);
        let qpc = &mut input.qpc;
        qpc.set_rwe(true);
        qpc.set_rre(true);
        qpc.set_rae(true);
        qpc.set_atomic_mode(AtomicMode::UpTo8Bytes.code()).unwrap();
        qpc.set_mtu(peer.mtu.code()).unwrap();
        qpc.set_log_msg_max(30).unwrap();
        qpc.set_remote_qpn(peer.qpn).unwrap();
        qpc.set_log_rra_max(2).unwrap();
        qpc.set_next_rcv_psn(peer.psn).unwrap();
        let ads = &mut qpc.primary_address_path;
        if self.lid == 0 {
            ads.set_rgid_rip(peer.gid);
            ads.set_rmac([2, 0, 0, 0, 0, 1]);
            ads.set_src_addr_index(1);
            ads.set_udp_sport(0xc123);
            ads.set_hop_limit(64);
        } else {
            ads.set_rlid(peer.lid);
        }
        if self.routed {
            ads.set_grh(true);
            ads.set_rgid_rip(peer.gid);
            ads.set_hop_limit(3);
            ads.set_tclass(0x77);
            ads.set_flow_label(0x12345).unwrap();
        }
        ads.set_vhca_port_num(1);
    }

    pub(crate) fn rtr2rts(&self, qp: &Qp, psn: u32, retries: u32) -> Result<(), CmdStatus> {
        let mut input = Rtr2RtsQpIn::new();
        input.set_qpn(qp.number).unwrap();
        let qpc = &mut input.qpc;
        qpc.set_log_sra_max(2).unwrap();
        qpc.set_retry_count(retries).unwrap();
        qpc.set_rnr_retry(7).unwrap();
        qpc.set_next_send_psn(psn).unwrap();
        // 4.096 us * 2^14 = 67 ms.
        qpc.primary_address_path.set_ack_timeout(14).unwrap();
        self.modify(qp.object, input)
    }

    /// Brings a queue pair from Reset to ready-to-send.
    pub(crate) fn connect(&self, qp: &Qp, psn: u32, peer: &End) {
        self.rst2init(qp).unwrap();
        self.init2rtr(qp, peer).unwrap();
        self.rtr2rts(qp, psn, 7).unwrap();
    }

    pub(crate) fn reset(&self, qp: &mut Qp) {
        self.try_reset(qp).unwrap();
        self.start_over(qp);
    }

    /// 2RST_QP, without what the queues' owner does after it.
    pub(crate) fn try_reset(&self, qp: &Qp) -> Result<(), CmdStatus> {
        let mut input = Qp2RstIn::new();
        input.set_qpn(qp.number).unwrap();
        self.modify(qp.object, input)
    }

    /// The queues of a queue pair that was reset count from 0.
    pub(crate) fn start_over(&self, qp: &mut Qp) {
        qp.posted = 0;
        self.doorbell_record(qp).store(0, Ordering::Release);
        // SAFETY: in control memory, aligned.
        unsafe { AtomicU32::from_ptr(self.control(qp.doorbell).cast()) }
            .store(0, Ordering::Release);
    }

    pub(crate) fn error(&self, qp: &Qp) {
        self.try_error(qp).unwrap();
    }

    pub(crate) fn try_error(&self, qp: &Qp) -> Result<(), CmdStatus> {
        let mut input = Qp2ErrIn::new();
        input.set_qpn(qp.number).unwrap();
        self.modify(qp.object, input)
    }

    /// Waits until a queue pair is in this state.
    pub(crate) fn wait_state(&self, qp: &Qp, state: QpState) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.context_of(qp).state() != state.code() {
            assert!(Instant::now() < until, "never {state:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn context_of(&self, qp: &Qp) -> Qpc {
        self.try_context_of(qp).unwrap()
    }

    pub(crate) fn try_context_of(&self, qp: &Qp) -> Result<Qpc, CmdStatus> {
        let mut input = QueryQpIn::new();
        input.set_qpn(qp.number).unwrap();
        self.try_query(qp.object, input).map(|out| out.qpc)
    }

    pub(crate) fn end(&self, qp: &Qp, psn: u32, mtu: Mtu) -> End {
        End {
            qpn: qp.number,
            psn,
            gid: self.gid,
            lid: self.lid,
            mtu,
        }
    }
}

impl Pair {
    pub(crate) fn new(mtu: Mtu, log: u32, collapsed: bool) -> Self {
        let [a, b] = [(); 2].map(|()| Client::new(Config::default()));
        Self::between(a, b, mtu, log, collapsed)
    }

    pub(crate) fn between(
        mut a: Client,
        mut b: Client,
        mtu: Mtu,
        log: u32,
        collapsed: bool,
    ) -> Self {
        let cq_a = a.cq(log, collapsed);
        let cq_b = b.cq(log, collapsed);
        let qp_a = a.qp(&cq_a, log);
        let qp_b = b.qp(&cq_b, log);
        a.connect(&qp_a, 100, &b.end(&qp_b, 0x00ff_fff0, mtu));
        b.connect(&qp_b, 0x00ff_fff0, &a.end(&qp_a, 100, mtu));
        Self {
            a,
            b,
            cq_a,
            qp_a,
            qp_b,
        }
    }
}
