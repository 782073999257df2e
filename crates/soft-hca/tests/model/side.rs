//! One of the two devices.

use mlx5gda_sys::cqe::Cqe64;
use mlx5gda_sys::wqe::{DataPtr, Remote};
use soft_hca::{Config, Live};

use crate::action::PAIRS;
use crate::client::{Client, Cq, Qp};
use crate::lane::{Model, SOURCE, source};

/// Entries of each completion queue, as a power of two: all that is under way fits.
const LOG_ENTRIES: u32 = 8;
/// Blocks of each send queue, as a power of two.
const LOG_DEPTH: u32 = 6;
/// Bytes of the source area.
const SOURCE_BYTES: usize = 16 << 10;
/// One device with its queues.
pub(crate) struct Side {
    pub(crate) client: Client,
    pub(crate) cq: Cq,
    pub(crate) qps: Vec<Qp>,
    pub(crate) models: Vec<Model>,
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
        Self {
            client,
            cq,
            qps,
            models: (0..PAIRS).map(Model::new).collect(),
            completions: 0,
            before,
        }
    }

    pub(crate) fn next(&mut self) -> Cqe64 {
        self.completions += 1;
        self.client.next(&mut self.cq)
    }

    /// Nothing was reported but what the model has accounted for.
    pub(crate) fn reported_nothing_else(&self) {
        let stats = soft_hca::stats(&self.client.name).unwrap();
        assert_eq!(stats.completions, self.completions);
        assert_eq!(stats.cq_overruns, 0);
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
