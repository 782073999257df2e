//! Everything a device knows, behind one lock.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::Instant;

use mlx5gda_sys::eqe::{Eqe, EventType};
use mlx5gda_sys::prm::{CmdOpcode, Mtu, QpState};

use super::{
    ContextId, Cqs, Event, Events, FaultState, Health, Listener, Mr, Notice, ObjectId, Pd, Qp, Uar,
    Umem,
};
use crate::cmd::{CmdResult, Reason};
use crate::config::{Config, Faults};
use crate::net::Port;
use crate::stats::{Live, Stats};

/// Numbers of objects have 24 bits, and 0 is none.
const NUMBER_MASK: u32 = 0x00ff_ffff;

/// The objects of a device.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) port: Port,
    pub(crate) mtu: Mtu,
    /// Datagrams to loopback addresses are sent many at a time.
    pub(crate) batching: bool,
    pub(crate) pds: HashMap<u32, Pd>,
    pub(crate) transport_domains: HashMap<u32, ContextId>,
    /// By key, local and remote alike.
    pub(crate) mrs: HashMap<u32, Mr>,
    pub(crate) umems: HashMap<u32, Umem>,
    pub(crate) uars: HashMap<u32, Uar>,
    pub(crate) cqs: Cqs,
    pub(crate) qps: BTreeMap<u32, Qp>,
    /// Queue pairs with work to do.
    pub(crate) hot: Vec<u32>,
    pub(crate) faults: FaultState,
    pub(crate) listeners: HashMap<ContextId, Listener>,
    pub(crate) events: Events,
    pub(crate) stats: Stats,
    last_number: u32,
    random: RandomState,
}

impl State {
    pub(crate) fn new(name: String, port: Port, config: &Config) -> Self {
        let random = RandomState::new();
        // Numbers start anywhere, so that those of a process that ended are
        // not found again in the one that takes its place. Forked processes have
        // the same keys.
        let last_number = random.hash_one(process::id()) as u32 & NUMBER_MASK;
        Self {
            name,
            port,
            mtu: config.mtu,
            batching: config.batching,
            pds: HashMap::new(),
            transport_domains: HashMap::new(),
            mrs: HashMap::new(),
            umems: HashMap::new(),
            uars: HashMap::new(),
            cqs: Cqs::default(),
            qps: BTreeMap::new(),
            hot: Vec::new(),
            faults: FaultState::new(config.faults),
            listeners: HashMap::new(),
            events: Events::default(),
            stats: Stats::default(),
            last_number,
            random,
        }
    }

    /// A number that is `free`, none that was used lately.
    pub(crate) fn new_number(&mut self, free: impl Fn(&Self, u32) -> bool) -> CmdResult<u32> {
        for _ in 0..=NUMBER_MASK {
            self.last_number = self.last_number.wrapping_add(1) & NUMBER_MASK;
            // Numbers 0 and 1 are special queue pairs.
            if self.last_number > 1 && free(self, self.last_number) {
                return Ok(self.last_number);
            }
        }
        Err(Reason::Exhausted)
    }

    /// A memory key: a new index and an unpredictable low byte.
    pub(crate) fn new_key(&mut self) -> CmdResult<u32> {
        let index = self.new_number(|state, n| !state.mrs.keys().any(|key| key >> 8 == n))?;
        Ok(index << 8 | self.random.hash_one(index) as u32 & 0xff)
    }

    /// Counts a command that has no mailbox here, because the library call
    /// that stands for it is served directly.
    pub(crate) fn begin(&mut self, opcode: CmdOpcode) -> CmdResult {
        *self.stats.commands.entry(opcode).or_default() += 1;
        if self.faults.command_fails() {
            self.stats.refused += 1;
            return Err(Reason::Injected);
        }
        Ok(())
    }

    /// Puts a queue pair on the engine's list.
    pub(crate) fn make_hot(&mut self, qpn: u32) {
        if let Some(qp) = self.qps.get_mut(&qpn)
            && !qp.hot
        {
            qp.hot = true;
            self.hot.push(qpn);
        }
    }

    /// Tells what has become of completion queues. The queue pairs of one that
    /// is in error go to error too, since nobody would hear of their work.
    pub(crate) fn tell(&mut self) {
        for notice in self.cqs.take_notices() {
            match notice {
                Notice::Completion(cqn) => {
                    let object = Some(ObjectId::Cq(cqn));
                    self.events.raise(object, &Eqe::completion(cqn));
                }
                Notice::Broken(cqn) => self.cq_broken(cqn),
            }
        }
    }

    fn cq_broken(&mut self, cqn: u32) {
        let health = self.cqs.queues.get(&cqn).map(|cq| cq.health);
        let Some(syndrome) = health.and_then(Health::syndrome) else {
            return;
        };
        tracing::debug!(device = %self.name, cqn, syndrome, "completion queue in error");
        let object = Some(ObjectId::Cq(cqn));
        self.events.raise(object, &Eqe::cq_error(cqn, syndrome));
        let users = self
            .qps
            .values()
            .filter(|qp| qp.cqs().any(|used| used == cqn));
        let users: Vec<u32> = users.map(|qp| qp.number).collect();
        for qpn in users {
            if let Some(qp) = self.qps.get_mut(&qpn)
                && qp.state != QpState::Rst
            {
                qp.enter_error();
                self.make_hot(qpn);
                self.events.queue_pair(qpn, EventType::WqCatastrophic);
            }
        }
    }

    /// Takes the link down or up and tells those who have the device open.
    pub(crate) fn set_link(&mut self, up: bool) {
        let was_down = self.faults.link_is_down();
        self.faults.set_link(up);
        self.announce_link(was_down);
    }

    /// Other faults from now on. What the old ones had taken down comes up.
    pub(crate) fn set_faults(&mut self, faults: Faults) {
        let was_down = self.faults.link_is_down();
        self.faults.replace(faults);
        self.announce_link(was_down);
    }

    /// Lets the faults take their course, and sends events that wait for their reader.
    pub(crate) fn tick(&mut self, now: Instant) {
        let was_down = self.faults.link_is_down();
        self.faults.tick(now);
        self.events.tick(now);
        self.announce_link(was_down);
    }

    fn announce_link(&mut self, was_down: bool) {
        let (event, state) = match (was_down, self.faults.link_is_down()) {
            (false, true) => (Event::PortError, Eqe::PORT_DOWN),
            (true, false) => (Event::PortActive, Eqe::PORT_ACTIVE),
            _ => return,
        };
        for listener in self.listeners.values_mut() {
            listener.announce(event);
        }
        self.events.raise(None, &Eqe::port(1, state));
    }

    /// Objects alive.
    pub(crate) fn live(&self) -> Live {
        Live {
            pds: self.pds.len(),
            transport_domains: self.transport_domains.len(),
            mrs: self.mrs.len(),
            umems: self.umems.len(),
            uars: self.uars.len(),
            cqs: self.cqs.queues.len(),
            qps: self.qps.len(),
        }
    }

    /// Frees all that a context has left.
    pub(crate) fn free_context(&mut self, context: ContextId) {
        self.listeners.remove(&context);
        self.events.close_context(context);
        let before = self.live();
        let gone: Vec<u32> = self
            .qps
            .iter()
            .filter(|(_, qp)| qp.owner == context)
            .map(|(&qpn, _)| qpn)
            .collect();
        for qpn in gone {
            let result = self.destroy_qp(qpn);
            debug_assert!(result.is_ok(), "{result:?}");
        }
        self.cqs.queues.retain(|_, cq| cq.owner != context);
        self.uars.retain(|_, uar| uar.owner != context);
        self.umems.retain(|_, umem| umem.owner != context);
        self.mrs.retain(|_, mr| mr.owner != context);
        self.pds.retain(|_, pd| pd.owner != context);
        self.transport_domains.retain(|_, owner| *owner != context);
        let total = |live: Live| live.total();
        let leaked = total(before) - total(self.live());
        if leaked > 0 {
            tracing::debug!(device = %self.name, leaked, "context closed with objects alive");
        }
        self.stats.leaked += leaked as u64;
    }
}
