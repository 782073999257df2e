//! The devices of this process.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Config, ConfigError, Faults, LAST_LID, LinkLayer};
use crate::device::Device;
use crate::error::Error;
use crate::net::{Link, Port};
use crate::process::PerProcess;
use crate::stats::Stats;

/// Every device since the process started; a device is never removed, so that
/// its address and its counters stay.
static DEVICES: PerProcess<Mutex<Vec<Arc<Device>>>> = PerProcess::new();

/// Addresses tried before giving up.
const TRIES: u32 = 64;

/// The devices that a thread asked for last.
#[derive(Clone)]
struct Mine {
    process: u32,
    config: Config,
    names: Vec<String>,
}

thread_local! {
    static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
}

fn devices() -> MutexGuard<'static, Vec<Arc<Device>>> {
    DEVICES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure that the devices of `config` exist, and has this thread see them
/// and no others. A device on an address given is made once and found again
/// later, occupied when it is opened; an automatic one is new, or one that was
/// opened and closed before.
///
/// # Errors
/// [`Error::Bind`] if there is no socket to be had, [`Error::NoAddress`], [`Error::LinkLayer`],
/// [`ConfigError::NoLid`], or [`Error::Open`] if a device with an address given
/// is open with another MTU.
pub(crate) fn install(config: &Config) -> Result<(), Error> {
    let mut devices = devices();
    let mut names = Vec::new();
    for &address in &config.addresses {
        let port = port(address, config)?;
        let found = devices
            .iter()
            .find(|device| device.port().address == address);
        let device = match found {
            Some(device) if *device.port() == port => Arc::clone(device),
            Some(_) => return Err(Error::LinkLayer { address }),
            None => {
                let device = Arc::new(Device::new(next_name(&devices), port, config)?);
                devices.push(Arc::clone(&device));
                device
            }
        };
        device.configure(config)?;
        names.push(device.name().to_owned());
    }
    let automatic = if config.addresses.is_empty() {
        config.automatic
    } else {
        0
    };
    for _ in 0..automatic {
        let fits = |device: &Device| {
            let fits = port(device.port().address, config);
            fits.is_ok_and(|port| port == *device.port())
        };
        let mut found = devices.iter().filter(|device| fits(device));
        let device = match found.find(|device| device.take_free()) {
            Some(device) => Arc::clone(device),
            None => {
                let device = Arc::new(on_any_address(next_name(&devices), config)?);
                device.reserve();
                devices.push(Arc::clone(&device));
                device
            }
        };
        device.configure(config)?;
        names.push(device.name().to_owned());
    }
    MINE.set(Some(Mine {
        process: process::id(),
        config: config.clone(),
        names,
    }));
    Ok(())
}

fn next_name(devices: &[Arc<Device>]) -> String {
    format!("soft_mlx5_{}", devices.len())
}

/// The port that an address is to have.
fn port(address: IpAddr, config: &Config) -> Result<Port, ConfigError> {
    let link = match config.link_layer {
        LinkLayer::Ethernet => Link::Ethernet,
        LinkLayer::InfiniBand => Link::InfiniBand {
            lid: config
                .lids
                .lid(address)
                .ok_or(ConfigError::NoLid { address })?,
            lids: Arc::new(config.lids.clone()),
        },
    };
    Ok(Port { address, link })
}

/// An address that is probably free.
fn any_address(random: u64, config: &Config) -> Option<IpAddr> {
    let [a, b, c, ..] = random.to_ne_bytes();
    match config.link_layer {
        // Away from 127.0.0.0/16, where people put services of their own, and
        // from host parts 0 and 255.
        LinkLayer::Ethernet => Some(Ipv4Addr::new(127, 16 + a % 96, b, 1 + c % 254).into()),
        LinkLayer::InfiniBand => {
            let lid = 1 + u16::from_ne_bytes([a, b]) % LAST_LID;
            config.lids.address(lid)
        }
    }
}

fn on_any_address(name: String, config: &Config) -> Result<Device, Error> {
    let random = RandomState::new();
    let mut last = None;
    for round in 0..TRIES {
        // Forked processes have the same keys.
        let random = random.hash_one((process::id(), round));
        let Some(address) = any_address(random, config) else {
            continue;
        };
        let device = Device::new(name.clone(), port(address, config)?, config)?;
        match device.occupy() {
            Ok(()) => return Ok(device),
            Err(Error::Bind { source, .. }) => last = Some(source),
            Err(other) => return Err(other),
        }
    }
    Err(Error::NoAddress {
        tries: TRIES,
        source: last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)),
    })
}

/// The devices that this thread sees: those it asked for last, or all. The
/// environment decides what there is if nobody has asked yet. In a process that
/// was forked, what the thread asked for is made anew.
///
/// # Errors
/// As [`install`], and [`Error::Config`].
pub(crate) fn visible() -> Result<Vec<Arc<Device>>, Error> {
    match MINE.with_borrow(Clone::clone) {
        Some(mine) if mine.process != process::id() => install(&mine.config)?,
        None if devices().is_empty() => install(&Config::from_env()?)?,
        _ => {}
    }
    let mine = MINE.with_borrow(|mine| mine.as_ref().map(|mine| mine.names.clone()));
    let seen = |device: &Device| {
        let names = mine.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name == device.name()))
    };
    Ok(devices()
        .iter()
        .filter(|device| seen(device))
        .map(Arc::clone)
        .collect())
}

/// Finds a device by name.
fn find(name: &str) -> Result<Arc<Device>, Error> {
    devices()
        .iter()
        .find(|device| device.name() == name)
        .map(Arc::clone)
        .ok_or_else(|| Error::NoDevice {
            name: name.to_owned(),
        })
}

/// The counters of a device of this process.
///
/// # Errors
/// [`Error::NoDevice`] for a name that no device has.
pub fn stats(name: &str) -> Result<Stats, Error> {
    let device = find(name)?;
    let state = device.lock();
    let mut stats = state.stats.clone();
    stats.live = state.live();
    Ok(stats)
}

/// Sets the faults of a device from now on.
///
/// # Errors
/// [`Error::NoDevice`] for a name that no device has.
pub fn set_faults(name: &str, faults: Faults) -> Result<(), Error> {
    find(name)?.lock().set_faults(faults);
    Ok(())
}

/// Takes the link of a device down or up. While it is down, nothing is sent and
/// nothing received; whoever has the device open gets `IBV_EVENT_PORT_ERR` and
/// `IBV_EVENT_PORT_ACTIVE`.
///
/// # Errors
/// [`Error::NoDevice`] for a name that no device has.
pub fn set_link(name: &str, up: bool) -> Result<(), Error> {
    find(name)?.lock().set_link(up);
    Ok(())
}
