//! The windows, as the membership agent changes them.

use super::device::{Device, Uuid};
use super::error::CudaError;
use super::memory::DeviceRegion;
use super::windows::Windows;
use crate::error::Error;
use crate::ids::Rank;
use crate::member::agent::Connections;
use crate::member::records::{Card, Offers, QpOffer};
use crate::window::{Shared, fetch_from};
use rustix::fd::AsFd;

/// One rank's windows, with its own region behind one of them.
#[derive(Debug)]
pub(super) struct GpuLinks {
    me: Rank,
    windows: Windows,
    /// The descriptor that peers get is made from it.
    region: DeviceRegion,
}

impl GpuLinks {
    pub(super) fn new(me: Rank, windows: Windows) -> Result<Self, CudaError> {
        let region = DeviceRegion::new(windows.device(), windows.stride())?;
        // SAFETY: nothing was launched that could know the windows.
        unsafe { windows.place_own(me, &region)? };
        Ok(Self {
            me,
            windows,
            region,
        })
    }

    pub(super) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// What peers map.
    pub(super) fn shared(&self) -> Result<Shared, CudaError> {
        Ok(Shared {
            file: self.region.export()?,
            bytes: self.region.len(),
            gpu: Some(self.region.device().uuid().0),
        })
    }

    fn connect_to(&self, card: &Card) -> Result<(), Error> {
        let rank = card.rank;
        let shared = fetch_from(card)?;
        let theirs = shared.gpu.map(Uuid).ok_or(Error::NotOffered {
            rank,
            what: "memory of a GPU",
        })?;
        let device = self.windows.device();
        let refused = |source| Error::NoPeerAccess {
            me: self.me,
            ours: device.uuid(),
            rank,
            theirs,
            source,
        };
        if !reaches(device, theirs)? {
            return Err(refused(None));
        }
        // SAFETY: the agent has masked the rank and waited until no operation counts it;
        // it is admitted only after this. The peer has said how large its region is.
        let replaced = unsafe {
            self.windows
                .replace(rank, shared.file.as_fd(), shared.bytes)
        };
        replaced.map_err(|error| match error {
            CudaError::Call { .. } => refused(Some(error)),
            other => other.into(),
        })
    }
}

/// Whether memory of that GPU can be mapped here, as far as this process can tell: one
/// that it was not given to see (`CUDA_VISIBLE_DEVICES`) may well be within reach.
fn reaches(device: &Device, theirs: Uuid) -> Result<bool, CudaError> {
    match device.ordinal_of(theirs)? {
        Some(ordinal) => device.can_access_peer(ordinal),
        None => Ok(true),
    }
}

impl Connections for GpuLinks {
    fn prepare(&self, ranks: &[Rank]) -> Result<Offers, Error> {
        let mut offers = Vec::new();
        for rank in ranks.iter().filter(|rank| **rank != self.me) {
            // SAFETY: the agent has masked the rank and waited until no operation counts it.
            unsafe { self.windows.clear(*rank)? };
            offers.push((*rank, Vec::new()));
        }
        Ok(Offers(offers))
    }

    fn connect(&self, peers: &[(Card, Vec<QpOffer>)]) -> Result<(), Error> {
        let mut peers = peers.iter().filter(|(card, _)| card.rank != self.me);
        peers.try_for_each(|(card, _)| self.connect_to(card))
    }

    /// The mapping stays until the next update: operations under way may still store there,
    /// and nobody reads what they store.
    fn forget(&self, _ranks: &[Rank]) {}
}
