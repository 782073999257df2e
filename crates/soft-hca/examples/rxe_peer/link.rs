//! A queue pair here and one in the guest.

use std::net::Ipv4Addr;

use mlx5gda_sys::cqe::{Cqe64, CqeOpcode};
use mlx5gda_sys::prm::{Mtu, Rtr2RtsQpIn};
use mlx5gda_sys::wqe::{DataPtr, Remote, Wqe};
use soft_hca::{Config, Faults};

use crate::agent::Agent;
use crate::client::{Client, Cq, End, Qp};

/// Where messages come from and go to, and where atomics work, in either memory.
pub(crate) const FROM: usize = 0;
pub(crate) const TO: usize = 1 << 19;
pub(crate) const WORD: usize = (1 << 20) - 64;
/// First PSN of the guest.
const GUEST_PSN: u32 = 0x00ff_fff8;

/// Both ends, connected.
pub(crate) struct Link {
    pub(crate) soft: Client,
    pub(crate) agent: Agent,
    pub(crate) cq: Cq,
    pub(crate) qp: Qp,
    guests: Ipv4Addr,
    memory: u64,
    rkey: u32,
    received: u16,
    seed: u8,
}

impl Link {
    /// Both ends, not connected yet.
    pub(crate) fn new(ours: Ipv4Addr, guests: Ipv4Addr) -> Self {
        let mut soft = Client::new(Config {
            addresses: vec![ours.into()],
            ..Config::default()
        });
        let mut agent = Agent::new(guests);
        let numbers = agent.ask("memory");
        let [memory, rkey] = numbers[..] else {
            panic!("the agent's memory is {numbers:?}");
        };
        let cq = soft.cq(4, false);
        let qp = soft.qp_with_receives(&cq, 4);
        Self {
            soft,
            agent,
            cq,
            qp,
            guests,
            memory,
            rkey: u32::try_from(rkey).unwrap(),
            received: 0,
            seed: 0,
        }
    }

    /// Loses packets of both ends from now on.
    pub(crate) fn lose(&mut self, faults: Faults) {
        soft_hca::set_faults(&self.soft.name, faults).unwrap();
        self.agent
            .ask(&format!("loss {}", (faults.loss * 100.0).round()));
    }

    /// Connects the queue pair, used again here and new in the guest.
    pub(crate) fn reconnect(&mut self, mtu: Mtu, psn: u32) {
        self.soft.reset(&mut self.qp);
        self.received = 0;
        let guest = self.agent.ask("qp");
        let mut gid = [0; 16];
        gid[10..12].fill(0xff);
        gid[12..].copy_from_slice(&self.guests.octets());
        let peer = End {
            qpn: u32::try_from(guest[0]).unwrap(),
            psn: GUEST_PSN,
            gid,
            lid: 0,
            mtu,
        };
        self.soft.rst2init(&self.qp).unwrap();
        self.soft.init2rtr(&self.qp, &peer).unwrap();
        let mut input = Rtr2RtsQpIn::new();
        input.set_qpn(self.qp.number).unwrap();
        let qpc = &mut input.qpc;
        qpc.set_log_sra_max(2).unwrap();
        qpc.set_retry_count(7).unwrap();
        qpc.set_rnr_retry(7).unwrap();
        qpc.set_next_send_psn(psn).unwrap();
        // 4.096 us * 2^16 = 268 ms: the guest is emulated.
        qpc.primary_address_path.set_ack_timeout(16).unwrap();
        self.soft.modify(self.qp.object, input).unwrap();
        let [.., a, b, c, d] = self.soft.gid;
        let line = format!(
            "connect {} {} {psn} {GUEST_PSN} {}",
            self.qp.number,
            Ipv4Addr::new(a, b, c, d),
            mtu.bytes()
        );
        self.agent.ask(&line);
    }

    /// Ends the guest.
    pub(crate) fn end(&mut self) {
        self.agent.quit();
    }

    /// A pattern that no earlier message had at the same place.
    pub(crate) fn next_pattern(&mut self, len: u32) -> (u8, Vec<u8>) {
        self.seed = self.seed.wrapping_add(1);
        let seed = u64::from(self.seed);
        let data = (0..u64::from(len))
            .map(|i| (i * 31 + i / 251 + seed) as u8)
            .collect();
        (self.seed, data)
    }

    /// A list of `len` bytes of our memory; nothing, if there are none.
    pub(crate) fn list(&self, offset: usize, len: u32) -> Vec<DataPtr> {
        let part = DataPtr {
            addr: self.soft.address() + offset as u64,
            lkey: self.soft.key(),
            len,
        };
        (len > 0).then_some(part).into_iter().collect()
    }

    /// A place in the guest's memory.
    pub(crate) fn theirs(&self, offset: usize) -> Remote {
        Remote {
            addr: self.memory + offset as u64,
            rkey: self.rkey,
        }
    }

    /// Posts, and waits for success.
    pub(crate) fn run(&mut self, wqe: &Wqe) {
        self.soft.post(&mut self.qp, wqe);
        self.finish(CqeOpcode::Req);
    }

    /// The next completion here, which has to be of this kind.
    pub(crate) fn finish(&mut self, opcode: CqeOpcode) -> Cqe64 {
        let cqe = self.soft.next(&mut self.cq);
        assert_eq!(cqe.opcode(), Ok(opcode), "{:?}", cqe.syndrome());
        cqe
    }

    /// Posts a receive buffer of `len` bytes at [`TO`].
    pub(crate) fn receive(&mut self, len: u32) {
        let list = self.list(TO, len);
        self.soft.post_receive(&self.qp, self.received, &list);
        self.received = self.received.wrapping_add(1);
    }

    /// Has the guest post `operation` on its memory at `offset` and ours at `to`.
    pub(crate) fn guest_posts(
        &mut self,
        operation: &str,
        offset: usize,
        len: u32,
        to: usize,
        values: (u64, u64),
    ) {
        let (addr, rkey) = (self.soft.address() + to as u64, self.soft.key());
        let (x, y) = values;
        let line = format!("post {operation} {offset} {len} {addr} {rkey} {x} {y}");
        self.agent.ask(&line);
    }
}
