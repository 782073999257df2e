//! Two and three ends on software NICs, joined by hand.

mod failures;
mod nics;
mod old_lives;
mod paths;
mod wire;

use crate::config::{GroupConfig, Nic, NicConfig};
use crate::error::Error;
use crate::fabric::PeerFault;
use crate::ids::{Half, Incarnation, Rank};
use crate::links::{Link, Links};
use crate::member::agent::Connections;
use crate::member::records::{Card, NicAddress, Offers, QpOffer};
use crate::region::Region;
use mlx5gda_sys::wqe::Remote;
use soft_hca::{Config, Stats};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const REGION: u64 = 1 << 16;
const BLOCK: u64 = 6000;
const TARGET: u64 = 32768;

/// A rank without a group.
struct End {
    links: Links,
    region: Arc<Region>,
    rank: Rank,
}

/// A software NIC at an address of its own.
fn at(address: [u8; 4]) -> Config {
    Config {
        addresses: vec![Ipv4Addr::from(address).into()],
        ..Config::default()
    }
}

fn soft(config: Config) -> NicConfig {
    let config = Box::new(config);
    Nic::SoftWith { config }.into()
}

fn settings(rank: u32, nic: Config) -> GroupConfig {
    GroupConfig {
        nics: vec![soft(nic)],
        queue_depth: 16,
        ack_timeout: 14,
        ..GroupConfig::new(Rank(rank), 3)
    }
}

fn open(settings: &GroupConfig) -> Result<End, Error> {
    let region = Arc::new(Region::shared("test", REGION).unwrap());
    Ok(End {
        links: Links::open(settings, &region)?,
        region,
        rank: settings.rank,
    })
}

impl End {
    fn nic(&self) -> &str {
        self.nic_at(0)
    }

    fn nic_at(&self, index: usize) -> &str {
        self.links.rdma.as_ref().unwrap().device(index).name()
    }

    fn stats(&self) -> Stats {
        soft_hca::stats(self.nic()).unwrap()
    }

    fn card(&self) -> Card {
        Card {
            rank: self.rank,
            incarnation: Incarnation(1),
            host: String::new(),
            config: String::new(),
            nics: self.links.nics(),
            region_address: self.region.address(),
            window: None,
        }
    }

    fn offer(&self, peer: &End) -> Result<Vec<QpOffer>, Error> {
        let Offers(mut offers) = self.links.prepare(&[peer.rank])?;
        Ok(offers.pop().unwrap().1)
    }

    fn connect(&self, peer: &End, offers: Vec<QpOffer>) -> Result<(), Error> {
        self.links.connect(&[(peer.card(), offers)])
    }

    /// Posts a block and a signal.
    fn post(&self, peer: Rank, value: u64) -> Result<(), PeerFault> {
        self.region
            .write(0, &[value as u8; BLOCK as usize])
            .unwrap();
        self.links.write(peer, 1, 0, TARGET, BLOCK)?;
        self.links.signal(peer, 1, TARGET + BLOCK, value)?;
        self.links.ring(peer, Half::Even)
    }

    fn done(&self, peer: Rank) -> Result<bool, PeerFault> {
        self.links.reusable(peer, Half::Even)
    }

    /// Waits for what was posted to fail.
    fn fault(&self, peer: Rank) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.done(peer) {
                Ok(done) => assert!(!done && Instant::now() < deadline, "it did not fail"),
                Err(fault) => return fault.to_string(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What peers know of the first NIC.
    fn address(&self) -> NicAddress {
        self.links.nics().remove(0)
    }

    /// Changes where the peer's region is thought to be.
    fn with_remote(&self, peer: &End, change: impl Fn(&mut Remote)) {
        match self.links.lock(peer.rank).as_deref_mut() {
            Some(Link::Rdma(link)) => {
                let lanes = link.lanes.iter_mut();
                lanes.for_each(|lane| change(lane.target.as_mut().unwrap().remote()));
            }
            _ => panic!("no queue pairs to {}", peer.rank),
        }
    }

    fn signal(&self) -> u64 {
        self.region.load_acquire(TARGET + BLOCK).unwrap()
    }
}

fn join(a: &End, b: &End) -> Result<(), Error> {
    let (mine, theirs) = (a.offer(b)?, b.offer(a)?);
    a.connect(b, theirs)?;
    b.connect(a, mine)
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A block and a signal arrive and complete.
fn exchange(from: &End, to: &End, value: u64) {
    from.post(to.rank, value).unwrap();
    eventually("signal", || to.signal() == value);
    let mut block = [0; BLOCK as usize];
    to.region.read(TARGET, &mut block).unwrap();
    assert_eq!(block, [value as u8; BLOCK as usize]);
    eventually("completion", || from.done(to.rank).unwrap());
}
