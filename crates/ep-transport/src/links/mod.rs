//! The connections to all peers: made once, remade one peer at a time.

mod rdma;
mod window;

use crate::config::{GroupConfig, Path};
use crate::error::Error;
use crate::fabric::PeerFault;
use crate::ids::{Half, Rank};
use crate::member::agent::Connections;
use crate::member::records::{Card, NicAddress, Offers, QpOffer};
use crate::region::Region;
use rdma::{RdmaLink, RdmaResources};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use window::WindowLink;

/// One queue pair, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePairReport {
    /// The rank that it is for.
    pub peer: Rank,
    /// Its index among the queue pairs to that rank.
    pub lane: u32,
    /// Which of this rank's NICs it is of: an index of [`GroupConfig::nics`].
    pub nic: u32,
    /// Its number with that NIC, the same for the life of the group.
    pub qpn: u32,
    /// Where commands have brought it (`RESET`, `INIT`, `RTR`, `RTS`), or `unknown` after
    /// one was refused, until it is reset.
    pub state: &'static str,
    /// Commands that this queue pair has seen since it was created.
    pub commands: u64,
}

#[derive(Debug)]
enum Link {
    /// To this rank itself: there is none.
    Own,
    Rdma(RdmaLink),
    Window(WindowLink),
}

/// All links of one rank. The data path and the agent lock one link at a time.
#[derive(Debug)]
pub(crate) struct Links {
    // Before the resources that they use: fields are dropped in this order.
    links: Vec<Mutex<Link>>,
    rdma: Option<RdmaResources>,
    region: Arc<Region>,
    me: Rank,
    lanes: u32,
}

impl Links {
    pub(crate) fn open(config: &GroupConfig, region: &Arc<Region>) -> Result<Self, Error> {
        let rdma = match config.path {
            Path::Rdma => Some(RdmaResources::open(config, region)?),
            Path::Window => None,
        };
        let mut links = Vec::new();
        for peer in (0..config.capacity).map(Rank) {
            links.push(Mutex::new(match &rdma {
                _ if peer == config.rank => Link::Own,
                Some(rdma) => Link::Rdma(rdma.link(config, peer)?),
                None => Link::Window(WindowLink::reserve(peer, region)?),
            }));
        }
        Ok(Self {
            links,
            rdma,
            region: Arc::clone(region),
            me: config.rank,
            lanes: config.lanes,
        })
    }

    /// What peers have to know of each NIC; none without queue pairs.
    pub(crate) fn nics(&self) -> Vec<NicAddress> {
        self.rdma
            .as_ref()
            .map_or_else(Vec::new, RdmaResources::addresses)
    }

    /// Commands sent to the NICs so far.
    pub(crate) fn commands(&self) -> u64 {
        self.rdma.as_ref().map_or(0, RdmaResources::commands)
    }

    /// Bytes of control memory (rings, completion queues, doorbell records).
    pub(crate) fn control_bytes(&self) -> u64 {
        self.rdma.as_ref().map_or(0, RdmaResources::control_bytes)
    }

    pub(crate) fn queue_pairs(&self) -> Vec<QueuePairReport> {
        (0..self.links.len() as u32)
            .map(Rank)
            .filter_map(|peer| match &*self.lock(peer)? {
                Link::Rdma(link) => Some(link.report()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Addresses that a captured graph could hold, by name.
    pub(crate) fn addresses(&self) -> Vec<(String, u64)> {
        let mut addresses = vec![("buffer".to_owned(), self.region.address())];
        for peer in (0..self.links.len() as u32).map(Rank) {
            match self.lock(peer).as_deref() {
                Some(Link::Rdma(link)) => addresses.extend(link.addresses()),
                Some(Link::Window(link)) => addresses.push(link.address()),
                _ => {}
            }
        }
        addresses
    }

    fn lock(&self, peer: Rank) -> Option<MutexGuard<'_, Link>> {
        let link = self.links.get(peer.index())?;
        Some(link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(
        &self,
        peer: Rank,
        lane: u32,
        act: impl FnOnce(&mut Link) -> Result<T, PeerFault>,
    ) -> Result<T, PeerFault> {
        match self.lock(peer) {
            Some(mut link) if lane < self.lanes => act(&mut link),
            _ => Err(PeerFault::NoSuchLane {
                peer,
                lane,
                capacity: self.links.len() as u32,
                lanes: self.lanes,
            }),
        }
    }

    pub(crate) fn write(
        &self,
        peer: Rank,
        lane: u32,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault> {
        self.with(peer, lane, |link| match link {
            Link::Own => Err(PeerFault::NotConnected { peer }),
            Link::Rdma(link) => link.write(lane, &self.region, from, to, len),
            Link::Window(link) => link.write(&self.region, from, to, len),
        })
    }

    pub(crate) fn signal(
        &self,
        peer: Rank,
        lane: u32,
        to: u64,
        value: u64,
    ) -> Result<(), PeerFault> {
        self.with(peer, lane, |link| match link {
            Link::Own => Err(PeerFault::NotConnected { peer }),
            Link::Rdma(link) => link.signal(lane, &self.region, to, value),
            Link::Window(link) => link.signal(to, value),
        })
    }

    pub(crate) fn ring(&self, peer: Rank, half: Half) -> Result<(), PeerFault> {
        self.with(peer, 0, |link| match link {
            Link::Rdma(link) => link.ring(half),
            // Stores are under way as soon as they are made.
            Link::Own | Link::Window(_) => Ok(()),
        })
    }

    /// Hands all that was posted for a peer to the NIC; whether all of it has completed.
    pub(crate) fn flush(&self, peer: Rank) -> Result<bool, PeerFault> {
        self.with(peer, 0, |link| match link {
            Link::Rdma(link) => link.flush(),
            // Stores are there as soon as they are made.
            Link::Own | Link::Window(_) => Ok(true),
        })
    }

    pub(crate) fn reusable(&self, peer: Rank, half: Half) -> Result<bool, PeerFault> {
        self.with(peer, 0, |link| match link {
            Link::Rdma(link) => link.reusable(half),
            Link::Own | Link::Window(_) => Ok(true),
        })
    }
}

impl Connections for Links {
    fn prepare(&self, ranks: &[Rank]) -> Result<Offers, Error> {
        let mut offers = Vec::new();
        for &rank in ranks {
            let mine: Vec<QpOffer> = match self.lock(rank).as_deref_mut() {
                Some(Link::Rdma(link)) => link.prepare()?,
                Some(Link::Window(link)) => {
                    link.forget();
                    Vec::new()
                }
                Some(Link::Own) | None => Vec::new(),
            };
            offers.push((rank, mine));
        }
        Ok(Offers(offers))
    }

    fn connect(&self, peers: &[(Card, Vec<QpOffer>)]) -> Result<(), Error> {
        for (card, offers) in peers {
            match (self.lock(card.rank).as_deref_mut(), &self.rdma) {
                (Some(Link::Rdma(link)), Some(rdma)) => {
                    link.connect(rdma, card, offers, self.me)?;
                }
                (Some(Link::Window(link)), _) => link.connect(card)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn forget(&self, ranks: &[Rank]) {
        for &rank in ranks {
            match self.lock(rank).as_deref_mut() {
                Some(Link::Rdma(link)) => link.forget(),
                Some(Link::Window(link)) => link.forget(),
                Some(Link::Own) | None => {}
            }
        }
    }
}
