//! A peer's region mapped at an address that never changes.

use crate::error::Error;
use crate::fabric::PeerFault;
use crate::ids::Rank;
use crate::member::records::Card;
use crate::region::{Region, RegionError};
use crate::window;
use rustix::fd::AsFd;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct WindowLink {
    peer: Rank,
    window: Region,
    connected: bool,
}

impl WindowLink {
    pub(super) fn reserve(peer: Rank, region: &Arc<Region>) -> Result<Self, RegionError> {
        Ok(Self {
            peer,
            window: Region::reserved(region.len())?,
            connected: false,
        })
    }

    pub(super) fn address(&self) -> (String, u64) {
        (format!("window to {}", self.peer), self.window.address())
    }

    /// The mapping stays, so that a store that comes late hits memory that nobody reads.
    pub(super) fn forget(&mut self) {
        self.connected = false;
    }

    pub(super) fn connect(&mut self, card: &Card) -> Result<(), Error> {
        let shared = window::fetch_from(card)?;
        self.window.replace(shared.file.as_fd())?;
        self.connected = true;
        Ok(())
    }

    fn check(&self) -> Result<(), PeerFault> {
        if self.connected {
            Ok(())
        } else {
            Err(PeerFault::NotConnected { peer: self.peer })
        }
    }

    pub(super) fn write(
        &self,
        region: &Region,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<(), PeerFault> {
        self.check()?;
        region
            .copy_to(from, &self.window, to, len)
            .map_err(|source| PeerFault::Range {
                peer: self.peer,
                source,
            })
    }

    pub(super) fn signal(&self, to: u64, value: u64) -> Result<(), PeerFault> {
        self.check()?;
        self.window
            .store_release(to, value)
            .map_err(|source| PeerFault::Range {
                peer: self.peer,
                source,
            })
    }
}
