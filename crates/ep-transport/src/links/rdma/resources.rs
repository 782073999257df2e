//! What the links of a rank share: its NICs, and the memory of the queues.

use super::{Lane, RdmaLink};
use crate::config::GroupConfig;
use crate::error::Error;
use crate::ids::Rank;
use crate::member::records::{Card, NicAddress};
use crate::region::Region;
use crate::verbs::{
    AnyQueuePair, CompletionQueue, Device, MemoryRegion, PathSettings, ProtectionDomain,
    QueuePlaces, Reset, Uar, Umem,
};
use memheap::Heap;
use mlx5gda_sys::wqe::WQEBB_BYTES;
use std::sync::{Arc, Mutex, PoisonError};

const CACHE_LINE: u64 = 64;
const PAGE: u64 = 4096;

/// One of a rank's NICs, with the region and the control memory registered.
#[derive(Debug)]
struct OwnNic {
    mr: MemoryRegion,
    umem: Arc<Umem>,
    uar: Arc<Uar>,
    domain: Arc<ProtectionDomain>,
    device: Arc<Device>,
}

impl OwnNic {
    fn new(
        device: Arc<Device>,
        region: &Arc<Region>,
        control: &Arc<Region>,
    ) -> Result<Self, Error> {
        let domain = ProtectionDomain::allocate(&device)?;
        let mr = MemoryRegion::register(&domain, region)?;
        Ok(Self {
            umem: Umem::register(&device, control)?,
            uar: Uar::allocate(&device)?,
            mr,
            domain,
            device,
        })
    }

    /// The way from here to a peer's NIC, as far as its card does not say it.
    fn way<'a>(
        &self,
        rank: Rank,
        theirs: &'a NicAddress,
        global_route: bool,
    ) -> Result<Way<'a>, Error> {
        let (own, port) = (self.device.port(), &theirs.port);
        if own.ethernet != port.ethernet {
            return Err(Error::NotOffered {
                rank,
                what: if own.ethernet {
                    "Ethernet port"
                } else {
                    "InfiniBand port"
                },
            });
        }
        let (mac, global) = if own.ethernet {
            (self.domain.resolve_mac(port.gid)?, false)
        } else {
            // By LID within a subnet, by GID between subnets.
            let other_subnet = own.gid.first_chunk::<8>() != port.gid.first_chunk::<8>();
            ([0; 6], global_route || own.global || other_subnet)
        };
        Ok(Way {
            theirs,
            mac,
            global,
            mtu: own.mtu.min(port.mtu),
        })
    }
}

/// The way to a peer's NIC.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) theirs: &'a NicAddress,
    pub(super) mac: [u8; 6],
    pub(super) global: bool,
    pub(super) mtu: u32,
}

/// Which of `nics` NICs a queue pair is of. Both ends count each with its own number, so
/// that each knows both from the peer's card.
pub(super) fn nic_of(lane: usize, nics: usize) -> usize {
    lane % nics.max(1)
}

/// What all links share: NICs and control memory.
#[derive(Debug)]
pub(in crate::links) struct RdmaResources {
    /// At least one.
    nics: Vec<OwnNic>,
    heap: Mutex<Heap>,
    control_bytes: u64,
    region_bytes: u64,
    global_route: bool,
    settings: PathSettings,
}

impl RdmaResources {
    pub(in crate::links) fn open(
        config: &GroupConfig,
        region: &Arc<Region>,
    ) -> Result<Self, Error> {
        let devices = open_all(config)?;
        // Each lane: the ring, two doorbell records and the one entry of its
        // collapsed completion queue, each on a cache line of its own.
        let lane = u64::from(config.queue_depth) * WQEBB_BYTES as u64 + 3 * CACHE_LINE;
        let lanes = u64::from(config.capacity.max(2) - 1) * u64::from(config.lanes);
        let control_bytes = (lane * lanes).next_multiple_of(PAGE);
        // One for all NICs: what a lane needs does not depend on whose it is.
        let control = Arc::new(Region::shared("ep-control", control_bytes)?);
        let nics = devices
            .into_iter()
            .map(|device| OwnNic::new(device, region, &control));
        Ok(Self {
            nics: nics.collect::<Result<_, _>>()?,
            heap: Mutex::new(Heap::new(control_bytes)),
            control_bytes,
            global_route: config.global_route,
            region_bytes: region.len(),
            settings: PathSettings {
                ack_timeout: config.ack_timeout,
                retry_count: config.retry_count,
                rnr_retry: config.rnr_retry,
                traffic_class: config.traffic_class,
                service_level: config.service_level,
            },
        })
    }

    /// What peers have to know of each NIC.
    pub(in crate::links) fn addresses(&self) -> Vec<NicAddress> {
        let address = |nic: &OwnNic| NicAddress {
            port: nic.device.port().address(),
            rkey: nic.mr.rkey(),
        };
        self.nics.iter().map(address).collect()
    }

    pub(in crate::links) fn commands(&self) -> u64 {
        self.nics.iter().map(|nic| nic.device.commands()).sum()
    }

    pub(in crate::links) fn control_bytes(&self) -> u64 {
        self.control_bytes
    }

    pub(super) fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    pub(super) fn settings(&self) -> &PathSettings {
        &self.settings
    }

    pub(in crate::links) fn link(
        &self,
        config: &GroupConfig,
        peer: Rank,
    ) -> Result<RdmaLink, Error> {
        let lanes = (0..config.lanes as usize)
            .filter_map(|lane| {
                let nic = nic_of(lane, self.nics.len());
                Some(self.lane(nic, self.nics.get(nic)?, config.queue_depth))
            })
            .collect::<Result<Vec<Lane>, Error>>()?;
        Ok(RdmaLink {
            peer,
            marks: [vec![0; lanes.len()], vec![0; lanes.len()]],
            lanes,
        })
    }

    /// What this rank has to find out about the way of each lane to a peer's NIC.
    pub(super) fn ways<'a>(&self, card: &'a Card, lanes: usize) -> Result<Vec<Way<'a>>, Error> {
        let missing = || Error::NotOffered {
            rank: card.rank,
            what: "RDMA port",
        };
        let mut found: Vec<((usize, usize), Way<'a>)> = Vec::new();
        (0..lanes)
            .map(|lane| {
                let (own, theirs) = (nic_of(lane, self.nics.len()), nic_of(lane, card.nics.len()));
                if let Some((_, way)) = found.iter().find(|(pair, _)| *pair == (own, theirs)) {
                    return Ok(*way);
                }
                let address = card.nics.get(theirs).ok_or_else(missing)?;
                let nic = self.nics.get(own).ok_or_else(missing)?;
                let way = nic.way(card.rank, address, self.global_route)?;
                found.push(((own, theirs), way));
                Ok(way)
            })
            .collect()
    }

    fn lane(&self, index: usize, nic: &OwnNic, depth: u32) -> Result<Lane, Error> {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place =
            |bytes| -> Result<u64, Error> { Ok(heap.alloc(bytes, CACHE_LINE)?.offset()) };
        let places = QueuePlaces {
            ring: place(u64::from(depth) * WQEBB_BYTES as u64)?,
            depth,
            record: place(CACHE_LINE)?,
            cqe: place(CACHE_LINE)?,
        };
        let cq_record = place(CACHE_LINE)?;
        let completions =
            CompletionQueue::create(&nic.device, &nic.umem, &nic.uar, &places, cq_record)?;
        let mut pair = AnyQueuePair::create(
            &nic.device,
            &nic.domain,
            &nic.umem,
            &nic.uar,
            completions,
            &places,
        )?;
        Ok(Lane {
            queue: pair.checked::<Reset>()?.send_queue(places)?,
            address: nic.umem.address() + places.ring,
            pair,
            psn: 0,
            nic: index,
            lkey: nic.mr.lkey(),
            target: None,
        })
    }

    #[cfg(all(test, feature = "soft"))]
    pub(in crate::links) fn device(&self, nic: usize) -> &Device {
        &self.nics[nic].device
    }

    #[cfg(all(test, feature = "soft"))]
    pub(super) fn domain(&self) -> &ProtectionDomain {
        &self.nics[0].domain
    }
}

/// The devices of a rank, no port of them twice.
fn open_all(config: &GroupConfig) -> Result<Vec<Arc<Device>>, Error> {
    let mut devices: Vec<Arc<Device>> = Vec::new();
    for nic in &config.nics {
        let device = Device::open(&nic.nic, nic.gid)?;
        let place = |device: &Device| (device.name().to_owned(), device.port().number);
        let (name, port) = place(&device);
        if devices
            .iter()
            .any(|other| place(other) == (name.clone(), port))
        {
            return Err(Error::Config {
                what: "nics",
                value: format!("port {port} of {name} twice"),
                limit: "different ports".into(),
            });
        }
        devices.push(device);
    }
    Ok(devices)
}
