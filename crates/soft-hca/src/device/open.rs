//! A device and its engine's life.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{ContextId, State, thread};
use crate::config::Config;
use crate::engine;
use crate::error::Error;
use crate::net::{self, Port};
use crate::stats::Stats;
use crate::wire::UDP_PORT;

/// Source of context numbers.
static CONTEXTS: AtomicU64 = AtomicU64::new(1);

/// The address was given: whoever gives it again has the device.
const FIXED: u8 = 0;
/// The address was picked for somebody who has not opened and closed it yet.
const RESERVED: u8 = 1;
/// The address was picked and the device is nobody's.
const FREE: u8 = 2;

/// A device with one port.
#[derive(Debug)]
pub(crate) struct Device {
    name: String,
    port: Port,
    state: Mutex<State>,
    /// Threads that want the lock; the engine lets them pass.
    waiting: AtomicU32,
    /// Bound from the first opening on, as long as the process lives: the address
    /// is the device's identity.
    socket: Arc<UdpSocket>,
    bound: AtomicBool,
    running: Mutex<Running>,
    /// [`FIXED`], [`RESERVED`] or [`FREE`].
    owner: AtomicU8,
}

/// Who has the device open, and the thread that serves them.
#[derive(Debug, Default)]
struct Running {
    contexts: Vec<ContextId>,
    engine: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Device {
    /// A device with this port, whose address it does not occupy yet.
    ///
    /// # Errors
    /// [`Error::Bind`] if there is no socket of the address's family.
    pub(crate) fn new(name: String, port: Port, config: &Config) -> Result<Self, Error> {
        let address = port.address;
        let socket = net::unbound(address).map_err(|source| Error::Bind { address, source })?;
        Ok(Self {
            state: Mutex::new(State::new(name.clone(), port.clone(), config)),
            name,
            port,
            waiting: AtomicU32::new(0),
            socket: Arc::new(socket),
            bound: AtomicBool::new(false),
            running: Mutex::new(Running::default()),
            owner: AtomicU8::new(FIXED),
        })
    }

    /// Occupies the address, if that was not done before.
    ///
    /// # Errors
    /// [`Error::Bind`] if the address is taken or not of this host.
    pub(crate) fn occupy(&self) -> Result<(), Error> {
        let _one_at_a_time = self.running();
        self.bind()
    }

    /// As [`Device::occupy`], under the lock of who has the device open.
    fn bind(&self) -> Result<(), Error> {
        let address = self.port.address;
        if !self.bound.load(Ordering::Relaxed) {
            net::bind(&self.socket, SocketAddr::new(address, UDP_PORT))
                .map_err(|source| Error::Bind { address, source })?;
            self.bound.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Applies MTU and faults.
    ///
    /// # Errors
    /// [`Error::Open`] if the device is open with another MTU.
    pub(crate) fn configure(&self, config: &Config) -> Result<(), Error> {
        let open = self.is_open();
        let mut state = self.lock();
        if open && state.mtu != config.mtu {
            return Err(Error::Open {
                address: self.port.address,
                mtu: state.mtu.bytes(),
            });
        }
        state.mtu = config.mtu;
        state.batching = config.batching;
        state.set_faults(config.faults);
        Ok(())
    }

    /// Keeps the device for whoever asked for it, until it is closed.
    pub(crate) fn reserve(&self) {
        self.owner.store(RESERVED, Ordering::Relaxed);
    }

    /// Reserves the device if it was reserved before and is free again; its
    /// counters start over and its link is up.
    pub(crate) fn take_free(&self) -> bool {
        let taken = self
            .owner
            .compare_exchange(FREE, RESERVED, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if taken {
            let mut state = self.lock();
            state.stats = Stats::default();
            state.set_link(true);
        }
        taken
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn port(&self) -> &Port {
        &self.port
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The device's state, for a command.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// The device's state, for the engine: after those who wait for it, since
    /// the lock is not fair and the engine takes it again at once.
    pub(crate) fn lock_last(&self) -> MutexGuard<'_, State> {
        const PATIENCE: u32 = 100;
        for _ in 0..PATIENCE {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::yield_now();
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody has it open.
    pub(crate) fn is_open(&self) -> bool {
        !self.running().contexts.is_empty()
    }

    /// Opens the device; the first to do so occupies its address and starts the
    /// engine.
    ///
    /// # Errors
    /// As [`Device::occupy`], and [`Error::Thread`] if no thread can be started.
    pub(crate) fn open(self: &Arc<Self>) -> Result<ContextId, Error> {
        let mut running = self.running();
        self.bind()?;
        if running.engine.is_none() {
            let stop = Arc::new(AtomicBool::new(false));
            let (device, flag) = (Arc::clone(self), Arc::clone(&stop));
            let run = move || engine::run(&device, &flag);
            let thread = thread::spawn(self.name.clone(), run);
            let thread = thread.map_err(|source| Error::Thread {
                device: self.name.clone(),
                source,
            })?;
            running.engine = Some((stop, thread));
        }
        let context = ContextId(CONTEXTS.fetch_add(1, Ordering::Relaxed));
        running.contexts.push(context);
        Ok(context)
    }

    /// Closes the device and frees what the context has left; the last to do
    /// so ends the engine.
    pub(crate) fn close(&self, context: ContextId) {
        let mut running = self.running();
        running.contexts.retain(|open| *open != context);
        self.lock().free_context(context);
        if running.contexts.is_empty()
            && let Some((stop, thread)) = running.engine.take()
        {
            stop.store(true, Ordering::Release);
            // The engine looks at the flag at least every
            // `engine::LONGEST_NAP`, so this ends.
            debug_assert!(engine::LONGEST_NAP < Duration::from_secs(1));
            if thread.join().is_err() {
                tracing::error!(device = %self.name, "engine panicked");
            }
            // A device with a fixed address stays fixed.
            let _ =
                self.owner
                    .compare_exchange(RESERVED, FREE, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
