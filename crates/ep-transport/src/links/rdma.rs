//! Queue pairs to one peer, remade in place for each of its lives.

mod resources;

use super::QueuePairReport;
use crate::error::Error;
use crate::fabric::PeerFault;
use crate::ids::{Half, Rank};
use crate::member::records::{Card, QpOffer};
use crate::region::{Region, RegionError};
use crate::verbs::{AnyQueuePair, Init, PostError, RemoteEnd, SendQueue, Target};
use mlx5gda_sys::wqe::DataPtr;
pub(super) use resources::RdmaResources;

#[derive(Debug)]
struct Lane {
    // Before the queue pair whose UAR it rings.
    queue: SendQueue,
    pair: AnyQueuePair,
    /// Address of the ring.
    address: u64,
    /// First PSN of the current life.
    psn: u32,
    /// Which of this rank's NICs it is of, and that NIC's key of the region.
    nic: usize,
    lkey: u32,
    /// The peer's region; `None` while not connected.
    target: Option<Target>,
}

impl Lane {
    /// The place up to which everything has completed.
    fn completed(&mut self, peer: Rank, lane: u32) -> Result<u64, PeerFault> {
        let polled = self.queue.poll();
        polled
            .map_err(|source| PeerFault::Range { peer, source })?
            .map_err(|error| PeerFault::Completion {
                peer,
                lane,
                qpn: self.pair.number(),
                what: error.to_string(),
            })
    }
}

/// The queue pairs to one peer.
#[derive(Debug)]
pub(super) struct RdmaLink {
    peer: Rank,
    lanes: Vec<Lane>,
    /// For each half, how far each lane was rung.
    marks: [Vec<u64>; 2],
}

impl RdmaLink {
    pub(super) fn report(&self) -> Vec<QueuePairReport> {
        self.lanes
            .iter()
            .zip(0..)
            .map(|(lane, index)| QueuePairReport {
                peer: self.peer,
                lane: index,
                nic: lane.nic as u32,
                qpn: lane.pair.number(),
                state: lane.pair.state().name(),
                commands: lane.pair.commands(),
            })
            .collect()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.lanes
            .iter()
            .enumerate()
            .map(|(i, lane)| (format!("ring to {}, lane {i}", self.peer), lane.address))
    }

    /// Two commands for each queue pair: Reset, then Init. Numbers stay, packet
    /// sequence numbers start anew.
    pub(super) fn prepare(&mut self) -> Result<Vec<QpOffer>, Error> {
        self.forget();
        for mark in self.marks.iter_mut().flatten() {
            *mark = 0;
        }
        self.lanes
            .iter_mut()
            .map(|lane| {
                let pair = lane.pair.reset()?;
                lane.queue.reset(&pair)?;
                pair.init()?;
                lane.psn = fresh_psn(lane.psn);
                Ok(QpOffer {
                    qpn: lane.pair.number(),
                    psn: lane.psn,
                })
            })
            .collect()
    }

    /// Two commands for each queue pair: Ready-to-Receive, then Ready-to-Send.
    pub(super) fn connect(
        &mut self,
        resources: &RdmaResources,
        card: &Card,
        offers: &[QpOffer],
        me: Rank,
    ) -> Result<(), Error> {
        let rank = card.rank;
        if offers.len() != self.lanes.len() {
            return Err(Error::Config {
                what: "number of queue pairs offered by a peer",
                value: format!("{} by {rank}", offers.len()),
                limit: self.lanes.len().to_string(),
            });
        }
        if card
            .region_address
            .checked_add(resources.region_bytes())
            .is_none()
        {
            return Err(Error::Config {
                what: "region address of a peer",
                value: format!("{:#x} of {rank}", card.region_address),
                limit: format!("at least {} below 2^64", resources.region_bytes()),
            });
        }
        // All ways first: to find one may take seconds, or fail.
        let ways = resources.ways(card, self.lanes.len())?;
        let mut targets = Vec::with_capacity(ways.len());
        let ends = self.lanes.iter_mut().zip(offers).zip(&ways);
        for (((lane, offer), way), index) in ends.zip(0u16..) {
            let port = &way.theirs.port;
            let remote = RemoteEnd {
                qpn: offer.qpn,
                psn: offer.psn,
                gid: port.gid,
                mac: way.mac,
                lid: port.lid,
                global: way.global,
                mtu: way.mtu,
                flow: flow(me, rank, index),
            };
            let settings = resources.settings();
            let pair = lane.pair.checked::<Init>()?;
            let pair = pair.ready_to_receive(&remote, settings)?;
            let pair = pair.ready_to_send(lane.psn, settings)?;
            targets.push(pair.target(card.region_address, way.theirs.rkey));
        }
        // Only when all are connected.
        for (lane, target) in self.lanes.iter_mut().zip(targets) {
            lane.target = Some(target);
        }
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        for lane in &mut self.lanes {
            lane.target = None;
        }
    }

    /// The local key of the region and a place in the peer's, as a lane's NICs know them.
    fn target(
        &self,
        lane: u32,
        region: &Region,
        to: u64,
        len: u64,
    ) -> Result<(u32, Target), PeerFault> {
        let connected = self
            .lanes
            .get(lane as usize)
            .and_then(|lane| Some((lane.lkey, lane.target?)));
        let (lkey, target) = connected.ok_or(PeerFault::NotConnected { peer: self.peer })?;
        if to.checked_add(len).is_none_or(|end| end > region.len()) {
            return Err(self.range(RegionError::OutOfRange {
                offset: to,
                len,
                bytes: region.len(),
            }));
        }
        Ok((lkey, target.at(to)))
    }

    fn range(&self, source: RegionError) -> PeerFault {
        PeerFault::Range {
            peer: self.peer,
            source,
        }
    }

    fn post(
        &mut self,
        lane: u32,
        act: impl FnOnce(&mut SendQueue) -> Result<(), PostError>,
    ) -> Result<(), PeerFault> {
        let peer = self.peer;
        let Some(queue) = self.lanes.get_mut(lane as usize).map(|l| &mut l.queue) else {
            return Err(PeerFault::NotConnected { peer });
        };
        act(queue).map_err(|error| match error {
            PostError::Full { outstanding, depth } => PeerFault::QueueFull {
                peer,
                lane,
                outstanding,
                depth,
            },
            PostError::Memory(source) => PeerFault::Range { peer, source },
            PostError::Wqe(error) => PeerFault::Malformed {
                peer,
                lane,
                what: error.to_string(),
            },
        })
    }

    pub(super) fn write(
        &mut self,
        lane: u32,
        region: &Region,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault> {
        let (lkey, target) = self.target(lane, region, to, len)?;
        let too_long = || RegionError::OutOfRange {
            offset: from,
            len,
            bytes: region.len(),
        };
        if from.checked_add(len).is_none_or(|end| end > region.len()) {
            return Err(self.range(too_long()));
        }
        let local = DataPtr {
            addr: region.address() + from,
            lkey,
            len: u32::try_from(len).map_err(|_| self.range(too_long()))?,
        };
        self.post(lane, |queue| queue.write(target, local))
    }

    pub(super) fn signal(
        &mut self,
        lane: u32,
        region: &Region,
        to: u64,
        value: u64,
    ) -> Result<(), PeerFault> {
        let (_, target) = self.target(lane, region, to, 8)?;
        self.post(lane, |queue| queue.signal(target, value))
    }

    pub(super) fn ring(&mut self, half: Half) -> Result<(), PeerFault> {
        for index in 0..self.lanes.len() {
            let mut mark = 0;
            self.post(index as u32, |queue| {
                mark = queue.ring()?;
                Ok(())
            })?;
            if let Some(slot) = self.marks[half.index()].get_mut(index) {
                *slot = mark;
            }
        }
        Ok(())
    }

    pub(super) fn reusable(&mut self, half: Half) -> Result<bool, PeerFault> {
        let mut done = true;
        for ((lane, index), mark) in self
            .lanes
            .iter_mut()
            .zip(0..)
            .zip(&self.marks[half.index()])
        {
            done &= lane.completed(self.peer, index)? >= *mark;
        }
        Ok(done)
    }

    /// Hands all that was posted to the NIC; whether all of it has completed.
    pub(super) fn flush(&mut self) -> Result<bool, PeerFault> {
        let mut done = true;
        for index in 0..self.lanes.len() as u32 {
            let mut end = 0;
            self.post(index, |queue| {
                end = queue.ring()?;
                Ok(())
            })?;
            if let Some(lane) = self.lanes.get_mut(index as usize) {
                done &= lane.completed(self.peer, index)? >= end;
            }
        }
        Ok(done)
    }
}

/// Picks the UDP source port of a queue pair, so that switches which spread flows
/// by it give those of one peer different paths.
fn flow(me: Rank, peer: Rank, lane: u16) -> u16 {
    // Odd factors far apart: lanes, peers and directions of a pair all differ.
    let mixed = u32::from(lane)
        .wrapping_mul(2557)
        .wrapping_add(me.0.wrapping_mul(37))
        .wrapping_add(peer.0.wrapping_mul(401));
    (mixed & 0x3fff) as u16
}

/// A starting PSN that differs from the last life's by far more packets than can
/// be under way.
fn fresh_psn(last: u32) -> u32 {
    let clock = crate::events::monotonic_us();
    let step = 0x20_0000 + (clock.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 43) as u32 % 0xc0_0000;
    (last + step) & 0xff_ffff
}

#[cfg(test)]
#[cfg(feature = "soft")]
mod ends;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_queue_pairs_of_a_rank_use_different_source_ports() {
        for me in (0..8).map(Rank) {
            let peers = (0..8).map(Rank).filter(|peer| *peer != me);
            let flows: Vec<u16> = peers
                .flat_map(|peer| (0..16).map(move |lane| flow(me, peer, lane)))
                .collect();
            let distinct: BTreeSet<u16> = flows.iter().copied().collect();
            assert_eq!(distinct.len(), flows.len(), "{me}");
        }
        assert_ne!(flow(Rank(1), Rank(2), 0), flow(Rank(2), Rank(1), 0));
    }

    #[test]
    fn each_life_starts_far_from_the_last() {
        let mut psn = 0;
        for _ in 0..1000 {
            let next = fresh_psn(psn);
            let distance = next.wrapping_sub(psn) & 0xff_ffff;
            assert!((0x20_0000..=0xe0_0000).contains(&distance), "{psn} {next}");
            psn = next;
        }
    }
}
