//! One rank's place in a group of GPUs.

use super::control::{DeviceControl, Settings};
use super::device::Device;
use super::error::CudaError;
use super::links::GpuLinks;
use super::memory::DeviceMemory;
use super::table::{MAX_RANKS, Table};
use super::windows::Windows;
use crate::config::GroupConfig;
use crate::control::Admission;
use crate::error::Error;
use crate::events::MemberEvent;
use crate::group::Snapshot;
use crate::ids::{Epoch, Incarnation, Rank};
use crate::member::agent::Connections;
use crate::member::connection::ConnectionState;
use crate::member::membership::{Membership, Place};
use crate::member::records::Card;
use crate::store::Rendezvous;
use crate::window::{self, WindowServer};
use std::mem::size_of;
use std::sync::Arc;
use std::time::Duration;

/// How long who leaves waits for the operation that runs.
const LAST_OPERATION: Duration = Duration::from_secs(2);

/// How long kernels wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOuts {
    /// For a peer, before it is masked.
    pub operation: Duration,
    /// For a decision about who takes part; longer than `GroupConfig::update_time_out`.
    pub decision: Duration,
}

/// A rank's membership in a group whose data path is a GPU.
///
/// What [`Group`](crate::Group) is for the host, with windows and a table in place of
/// queue pairs and [`Control`](crate::Control): operations are kernels, which ask the table
/// who takes part and store into the windows. All ranks are on one host, on GPUs that reach
/// one another. Of the configuration, what is about paths and NICs does not matter.
///
/// Before it is dropped everything that was launched has ended.
pub struct GpuGroup {
    // Its threads use the rest.
    membership: Membership,
    _window: WindowServer,
    links: Arc<GpuLinks>,
    control: Arc<DeviceControl>,
}

impl std::fmt::Debug for GpuGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuGroup")
            .field("rank", &self.rank())
            .field("incarnation", &self.incarnation())
            .field("device", self.device())
            .finish_non_exhaustive()
    }
}

impl GpuGroup {
    /// Takes a rank: makes its region of `region_bytes` on this GPU, windows for those of
    /// the others, the table and the rendezvous entry.
    ///
    /// # Errors
    /// Bad settings, no memory, no store, or a living process holds the rank.
    pub fn open(
        config: &GroupConfig,
        device: &Arc<Device>,
        region_bytes: u64,
        time_outs: TimeOuts,
        store: Arc<dyn Rendezvous>,
    ) -> Result<Self, Error> {
        check(config, time_outs)?;
        let windows = Windows::reserve(device, config.capacity, region_bytes)?;
        let common = format!(
            "gpu capacity={} ops_per_round={} region={} {}",
            config.capacity,
            config.ops_per_round,
            windows.stride(),
            config.common
        );
        let place = Place::take(config, common, store)?;
        let links = Arc::new(GpuLinks::new(place.rank, windows)?);
        let settings = Settings {
            capacity: config.capacity,
            own: place.incarnation,
            round: config.ops_per_round,
            time_out: time_outs.operation,
            decision_time_out: time_outs.decision,
        };
        let table = DeviceMemory::new(device, size_of::<Table>() as u64)?;
        let control = Arc::new(DeviceControl::new(table, settings)?);
        let window = window::serve(config, links.shared()?)?;
        let card = Card {
            rank: place.rank,
            incarnation: place.incarnation,
            host: window::host_of(place.rank)?,
            config: place.common.clone(),
            nics: Vec::new(),
            region_address: links.windows().address(place.rank)?,
            window: Some(window.name().to_owned()),
        };
        let membership = Membership::begin(
            config,
            place,
            card,
            Arc::clone(&control) as Arc<dyn Admission>,
            Arc::clone(&links) as Arc<dyn Connections>,
        )?;
        Ok(Self {
            membership,
            _window: window,
            links,
            control,
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.membership.rank()
    }

    /// This rank's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.membership.incarnation()
    }

    /// The GPU.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        self.windows().device()
    }

    /// The regions of all ranks, this one's included.
    #[must_use]
    pub fn windows(&self) -> &Windows {
        self.links.windows()
    }

    /// Where kernels find the [`Table`]; the same for the life of the group.
    #[must_use]
    pub fn table_address(&self) -> u64 {
        self.control.words().address()
    }

    /// The host's side of the table.
    #[must_use]
    pub fn control(&self) -> &DeviceControl {
        &self.control
    }

    /// Tells the others that this rank is ready to be taken in. Operations may go on: they
    /// count nobody until the agreed epoch, and with it from the next round on the others.
    /// Who cannot tell a round alone from one among others runs none before
    /// [`GpuGroup::wait_admitted`] has returned.
    ///
    /// # Errors
    /// The store is away.
    pub fn announce(&mut self) -> Result<(), Error> {
        self.membership.announce()
    }

    /// Announces this rank, waits until the group takes it in, and returns the agreed epoch.
    /// If no operation runs meanwhile, the next one has it.
    ///
    /// # Errors
    /// A peer's record or configuration does not fit, its memory is out of reach, another
    /// process took the rank, or `limit` is over. Why this rank does not fit is said again
    /// to whoever asks again, until the group has taken it in all the same.
    pub fn wait_admitted(&mut self, limit: Duration) -> Result<Epoch, Error> {
        self.membership.wait_admitted(limit)
    }

    /// How far the connection to `rank` is; as the agent has seen it last.
    #[must_use]
    pub fn connection(&self, rank: Rank) -> ConnectionState {
        self.membership.connection(rank)
    }

    /// Another life that has taken this rank, if there is one: this process is not
    /// a member any more.
    #[must_use]
    pub fn superseded(&self) -> Option<Incarnation> {
        self.membership.superseded()
    }

    /// Takes what has happened to the membership since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<MemberEvent> {
        self.membership.take_events()
    }

    /// What a captured graph could hold, by name: the same for the life of the group.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let windows = self.windows();
        let window = |rank: Rank| {
            let address = windows.address(rank).ok()?;
            Some((format!("window to {rank}"), address))
        };
        let ranks = (0..windows.capacity()).map(Rank);
        let mut addresses = vec![("table".to_owned(), self.table_address())];
        addresses.extend(ranks.filter_map(window));
        Snapshot {
            addresses,
            queue_pairs: Vec::new(),
            commands: 0,
            control_bytes: self.control.words().len(),
        }
    }

    /// Says that this rank has finished its work and waits until every present
    /// member has said so too.
    ///
    /// # Errors
    /// The store is away, or `limit` is over.
    pub fn finish(&self, limit: Duration) -> Result<(), Error> {
        self.membership.finish(limit)
    }

    /// Waits until no other rank is present; for the rank that serves the store.
    ///
    /// # Errors
    /// `limit` is over.
    pub fn wait_alone(&self, limit: Duration) -> Result<(), Error> {
        self.membership.wait_alone(limit)
    }

    /// Leaves on purpose: waits up to 2 seconds for the operation that runs, then tells the
    /// others, and they mask this rank at once.
    ///
    /// # Errors
    /// The store is away, or the operation did not end; the group is left all the same.
    pub fn leave(mut self) -> Result<(), Error> {
        let quiet = self.control.quiesce(LAST_OPERATION);
        self.membership.say_goodbye()?;
        match quiet? {
            true => Ok(()),
            false => Err(Error::NotQuiet {
                limit: LAST_OPERATION,
            }),
        }
    }
}

fn check(config: &GroupConfig, time_outs: TimeOuts) -> Result<(), Error> {
    config.check()?;
    let limit = MAX_RANKS as u32;
    if config.capacity > limit {
        let capacity = config.capacity;
        return Err(CudaError::TooManyRanks { capacity, limit }.into());
    }
    if time_outs.decision <= config.update_time_out {
        return Err(Error::Config {
            what: "time-out for decisions",
            value: format!("{:?}", time_outs.decision),
            limit: format!("more than the update's, {:?}", config.update_time_out),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_before_anything_is_made() {
        let time_outs = TimeOuts {
            operation: Duration::from_millis(100),
            decision: Duration::from_secs(20),
        };
        let config = GroupConfig::new(Rank(0), 33);
        let error = check(&config, time_outs).unwrap_err().to_string();
        assert!(error.contains("33") && error.contains("32"), "{error}");
        let config = GroupConfig::new(Rank(0), 32);
        assert!(check(&config, time_outs).is_ok());
        let decision = config.update_time_out;
        let error = check(
            &config,
            TimeOuts {
                decision,
                ..time_outs
            },
        );
        assert!(error.unwrap_err().to_string().contains("5s"));
    }
}
