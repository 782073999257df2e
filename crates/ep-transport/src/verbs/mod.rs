//! Owners of verbs objects.
//!
//! Every object holds what it depends on, so it cannot outlive it, and destroys
//! itself when dropped. Construction either yields a whole object or nothing. What the NIC
//! refuses to destroy is kept with its memory, and tried again when the context is closed.

mod device;
mod gpu;
mod leftover;
mod nearest;
mod object;
mod path;
mod port;
mod qp;
mod ring;

pub(crate) use device::Device;
pub use gpu::{GpuMemory, GpuRange};
pub(crate) use nearest::nearest_nics;
pub(crate) use object::{CompletionQueue, MemoryRegion, ProtectionDomain, Uar, Umem};
pub(crate) use qp::AnyQueuePair;
pub use qp::{Init, PathSettings, QueuePair, ReadyToReceive, ReadyToSend, RemoteEnd, Reset};
pub use ring::Target;
pub(crate) use ring::{PostError, QueuePlaces, SendQueue};

use crate::region::RegionError;
use mlx5gda_sys::prm::{CmdStatus, FieldError};
use mlx5gda_sys::table::LoadError;

/// Why a NIC object could not be had or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerbsError {
    /// libibverbs or libmlx5 is not there or too old.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The software NIC could not start.
    #[cfg(feature = "soft")]
    #[error("software NIC: {0}")]
    Soft(#[from] soft_hca::Error),
    /// No such device.
    #[error("no RDMA device {wanted}; found: {found}")]
    NoDevice {
        /// The name asked for, or `of any name`.
        wanted: String,
        /// The devices of this machine.
        found: String,
    },
    /// The machine does not say where a device is.
    #[error("no {what} in {}", sysfs.display())]
    Topology {
        /// What was looked for.
        what: String,
        /// Where sysfs is mounted.
        sysfs: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The port cannot carry traffic.
    #[error("port {port} of {device} is {state}, not active")]
    PortDown {
        /// Device name.
        device: String,
        /// Port number.
        port: u8,
        /// Its state (`enum ibv_port_state`).
        state: u32,
    },
    /// The port has no such address.
    #[error("port {port} of {device} has no {wanted}; it has: {found}")]
    NoGid {
        /// Device name.
        device: String,
        /// Port number.
        port: u8,
        /// What was looked for.
        wanted: String,
        /// What its GID table has, by index.
        found: String,
    },
    /// A library call failed.
    #[error("{call} for {object} failed")]
    Call {
        /// The C function.
        call: &'static str,
        /// What it was for.
        object: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The NIC cannot reach a GPU's memory.
    #[error("{device} cannot reach GPU memory ({object}): {missing}")]
    GpuDirect {
        /// The NIC.
        device: String,
        /// The memory.
        object: String,
        /// What is missing for GPUDirect.
        missing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The device refused a command.
    #[error("{command} for {object} refused: {status} (syndrome {syndrome:#x})")]
    Command {
        /// The command.
        command: &'static str,
        /// What it was for.
        object: String,
        /// The device's status.
        status: CmdStatus,
        /// The device's syndrome.
        syndrome: u32,
    },
    /// A queue pair cannot go from one state to the other.
    #[error("queue pair {qpn:#x} cannot go from {from} to {to}")]
    IllegalTransition {
        /// Its number.
        qpn: u32,
        /// Its state.
        from: &'static str,
        /// The state asked for.
        to: &'static str,
    },
    /// A value does not fit the device's format.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Control memory could not be reached.
    #[error(transparent)]
    Memory(#[from] RegionError),
}
