//! What a responder works on.

use mlx5gda_sys::wqe::AtomicOp;

use crate::wire::{AckCode, NakCode};

/// The right that a request needs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMA WRITE.
    Write,
    /// RDMA READ.
    Read,
    /// Atomic operations.
    Atomic,
}

/// Why a request cannot be executed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Key, range, protection domain or access right.
    Access,
    /// The queue pair does not do this.
    Unsupported,
    /// No receive buffer at the moment.
    NotReady,
    /// The receive buffer is too short.
    Length,
    /// The receive buffer is not accessible.
    Operation,
    /// The receive queue is not accessible.
    Queue,
}

impl Fault {
    /// How the peer is told.
    pub(super) const fn code(self, min_rnr_nak: u8) -> AckCode {
        match self {
            Self::Access => AckCode::Nak(NakCode::RemoteAccess),
            Self::Unsupported | Self::Length => AckCode::Nak(NakCode::InvalidRequest),
            Self::NotReady => AckCode::RnrNak { timer: min_rnr_nak },
            Self::Operation | Self::Queue => AckCode::Nak(NakCode::RemoteOperational),
        }
    }
}

/// A message that took a receive buffer, complete.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MessageEnd {
    /// Bytes of the message.
    pub len: u32,
    /// Immediate data.
    pub immediate: Option<u32>,
    /// It was a WRITE, whose data went elsewhere.
    pub is_write: bool,
    /// The sender asks for an event.
    pub solicited: bool,
}

/// The memory and receive queue behind a responder.
pub trait Target {
    /// Whether `len` bytes at `addr` may be accessed so.
    ///
    /// # Errors
    /// The reason why not.
    fn check(&mut self, rkey: u32, addr: u64, len: u32, access: Access) -> Result<(), Fault>;

    /// Writes `data` at `addr`.
    ///
    /// # Errors
    /// The reason why not. Unless the memory went away, nothing was written.
    fn write(&mut self, rkey: u32, addr: u64, data: &[u8]) -> Result<(), Fault>;

    /// Executes an atomic at `addr` and returns the value found; one of 4 bytes
    /// is in the low half.
    ///
    /// # Errors
    /// The reason why not; then nothing was changed.
    fn atomic(&mut self, rkey: u32, addr: u64, op: AtomicOp) -> Result<u64, Fault>;

    /// Takes a receive buffer for the message that starts.
    ///
    /// # Errors
    /// [`Fault::NotReady`] when there is none, [`Fault::Unsupported`] when
    /// there is no receive queue.
    fn receive_begin(&mut self) -> Result<(), Fault>;

    /// Stores `data` at `offset` of the receive buffer taken.
    ///
    /// # Errors
    /// The reason why not.
    fn receive_data(&mut self, offset: u32, data: &[u8]) -> Result<(), Fault>;

    /// The message that took the receive buffer is complete.
    fn receive_end(&mut self, end: MessageEnd);
}
