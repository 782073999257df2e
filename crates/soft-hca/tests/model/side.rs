//! One of the two devices.

use mlx5gda_sys::cqe::Cqe64;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::QpState;
use mlx5gda_sys::wqe::{DataPtr, Remote};
use soft_hca::{Config, Faults, Live, Stats};

use crate::action::PAIRS;
use crate::client::{Client, Cq, Qp};
use crate::lane::{Model, SOURCE, source};

/// Entries of each completion queue, as a power of two: all that is under way fits.
const LOG_ENTRIES: u32 = 8;
/// Blocks of each send queue, as a power of two.
const LOG_DEPTH: u32 = 6;
/// Bytes of the source area.
const SOURCE_BYTES: usize = 16 << 10;

/// What commands have made of a queue pair.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: QpState,
    pub(crate) min_rnr_nak: u32,
}

/// One device with its queues.
pub(crate) struct Side {
    pub(crate) client: Client,
    pub(crate) cq: Cq,
    pub(crate) qps: Vec<Qp>,
    pub(crate) models: Vec<Model>,
    /// What each queue pair must say of itself.
    pub(crate) statuses: [Status; PAIRS],
    /// Period and count of the completion queue's events.
    pub(crate) moderation: (u32, u16),
    faults: Faults,
    /// Commands until the one that fails.
    pub(crate) doomed: Option<u64>,
    /// Completions that the model has accounted for.
    completions: u64,
    /// What was alive before.
    pub(crate) before: Live,
}

impl Side {
    pub(crate) fn new() -> Self {
        let mut client = Client::new(Config::default());
        let before = soft_hca::stats(&client.name).unwrap().live;
        let cq = client.cq(LOG_ENTRIES, false);
        let qps = (0..PAIRS).map(|_| client.qp_with_receives(&cq, LOG_DEPTH));
        let qps = qps.collect();
        let data: Vec<u8> = (0..SOURCE_BYTES).map(source).collect();
        client.store(SOURCE, &data);
        let status = Status {
            state: QpState::Rst,
            min_rnr_nak: 0,
        };
        Self {
            client,
            cq,
            qps,
            models: (0..PAIRS).map(Model::new).collect(),
            statuses: [status; PAIRS],
            moderation: (0, 0),
            faults: Faults::default(),
            doomed: None,
            completions: 0,
            before,
        }
    }

    pub(crate) fn next(&mut self) -> Cqe64 {
        self.completions += 1;
        self.client.next(&mut self.cq)
    }

    pub(crate) fn stats(&self) -> Stats {
        soft_hca::stats(&self.client.name).unwrap()
    }

    /// Nothing was reported but what the model has accounted for.
    pub(crate) fn reported_nothing_else(&self) {
        let stats = self.stats();
        assert_eq!(stats.completions, self.completions);
        assert_eq!(stats.cq_overruns, 0);
    }

    /// Other faults.
    pub(crate) fn weather(&mut self, faults: Faults) {
        soft_hca::set_faults(&self.client.name, faults).unwrap();
        self.faults = faults;
        self.doomed = faults.fail_command;
    }

    /// As before, but of the commands from now on the one with this number fails.
    pub(crate) fn doom(&mut self, fail_command: Option<u64>) {
        self.weather(Faults {
            fail_command,
            ..self.faults
        });
    }

    /// Takes the link up or down by hand.
    pub(crate) fn plug(&self, up: bool) {
        soft_hca::set_link(&self.client.name, up).unwrap();
    }

    /// In good weather the link is up, and whoever has the device open has heard of every change.
    pub(crate) fn link_is_up(&mut self) {
        self.weather(Faults::default());
        let heard = self.client.port_events();
        let (changes, rest) = heard.as_chunks();
        let expected = [ffi::IBV_EVENT_PORT_ERR, ffi::IBV_EVENT_PORT_ACTIVE];
        assert!(changes.iter().all(|change| *change == expected));
        assert!(rest.is_empty(), "nobody was told that the link is up");
    }

    pub(crate) fn list(&self, at: usize, len: usize) -> Vec<DataPtr> {
        let part = DataPtr {
            addr: self.client.address() + at as u64,
            lkey: self.client.key(),
            len: len as u32,
        };
        (len > 0).then_some(part).into_iter().collect()
    }

    pub(crate) fn remote(&self, at: usize) -> Remote {
        Remote {
            addr: self.client.address() + at as u64,
            rkey: self.client.key(),
        }
    }
}
