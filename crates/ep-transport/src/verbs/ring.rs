//! A send queue as the poster sees it: ring, doorbell record, doorbell, completions.

use super::{QueuePair, ReadyToSend, Reset};
use crate::region::{Region, RegionError};
use mlx5gda_sys::cqe::{CQE_BYTES, CqeOpcode, Syndrome};
use mlx5gda_sys::wqe::{DataPtr, Post, Remote, WQEBB_BYTES, Wqe, WqeError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Work queue entries posted so far, in building blocks of 64 bytes. Never wraps;
/// the NIC sees the low 16 bits, the ring the low `log2(depth)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Cursor(u64);

impl Cursor {
    fn low16(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The latest cursor at or before `self` whose low 16 bits are `low`.
    fn latest_with(self, low: u16) -> Cursor {
        Cursor(self.0 - u64::from(self.low16().wrapping_sub(low)))
    }
}

/// Where a queue's parts lie in the control memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePlaces {
    /// The ring, `depth * 64` bytes.
    pub(crate) ring: u64,
    /// Building blocks that the ring holds; a power of two, at most 32,768.
    pub(crate) depth: u32,
    /// The doorbell record, 8 bytes.
    pub(crate) record: u64,
    /// The collapsed completion queue, one 64-byte entry.
    pub(crate) cqe: u64,
}

/// The BlueFlame doorbell register of a UAR page.
///
/// # Invariants
/// The address is that of a mapped, writable, 8-byte aligned register that stays
/// mapped while the owner of the UAR lives; [`SendQueue`] is dropped before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorbellRegister(*mut u64);

// SAFETY: the register may be written from any thread; order between writers does
// not matter, as the NIC takes the counters from the doorbell records.
unsafe impl Send for DoorbellRegister {}

impl DoorbellRegister {
    /// # Safety
    /// `address` fulfils the invariant of the type.
    pub(crate) unsafe fn new(address: *mut u64) -> Self {
        Self(address)
    }

    fn ring(self, value: u64) {
        // SAFETY: mapped, writable and aligned by the type's invariant. A single
        // 8-byte atomic store is what the register wants; release orders it after
        // the doorbell record and the entries.
        unsafe { AtomicU64::from_ptr(self.0) }.store(value, Ordering::Release);
    }
}

/// An error completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompletionError {
    pub(crate) syndrome: u8,
    pub(crate) vendor: u8,
}

impl CompletionError {
    fn is_flush(self) -> bool {
        Syndrome::from_code(self.syndrome) == Syndrome::WrFlush
    }
}

impl std::fmt::Display for CompletionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Syndrome::from_code(self.syndrome);
        write!(
            f,
            "{name} (syndrome {:#04x}, vendor {:#04x})",
            self.syndrome, self.vendor
        )?;
        if self.is_flush() {
            // All completions share one entry, and this was the only one seen there.
            write!(f, ", behind an earlier error")?;
        }
        Ok(())
    }
}

/// Memory of a peer, to which what is posted may go.
#[derive(Clone, Copy, Debug)]
pub struct Target(Remote);

impl QueuePair<'_, ReadyToSend> {
    /// Memory of its other end. Nothing is posted without, so nothing is before now.
    #[must_use]
    pub fn target(&self, address: u64, rkey: u32) -> Target {
        Target(Remote {
            addr: address,
            rkey,
        })
    }
}

impl Target {
    /// `offset` bytes on; the caller has checked that this is within the memory.
    pub(crate) fn at(self, offset: u64) -> Self {
        Self(Remote {
            addr: self.0.addr + offset,
            ..self.0
        })
    }

    #[cfg(all(test, feature = "soft"))]
    pub(crate) fn remote(&mut self) -> &mut Remote {
        &mut self.0
    }
}

/// Why nothing was posted.
#[derive(Debug)]
pub(crate) enum PostError {
    Full { outstanding: u32, depth: u32 },
    Wqe(WqeError),
    Memory(RegionError),
}

impl From<WqeError> for PostError {
    fn from(error: WqeError) -> Self {
        PostError::Wqe(error)
    }
}

impl From<RegionError> for PostError {
    fn from(error: RegionError) -> Self {
        PostError::Memory(error)
    }
}

/// The poster's end of one queue pair's send queue.
#[derive(Debug)]
pub(crate) struct SendQueue {
    memory: Arc<Region>,
    places: QueuePlaces,
    register: DoorbellRegister,
    qpn: u32,
    posted: Cursor,
    rung: Cursor,
    completed: Cursor,
    /// End of the last entry that asks for a completion.
    signalled: Cursor,
    /// The error to report. Entries behind the one that failed are flushed, and their
    /// completions take the place of its own.
    error: Option<CompletionError>,
    /// First 8 bytes of the last entry, which ring the doorbell.
    last_control: u64,
}

impl SendQueue {
    pub(super) fn new(
        memory: Arc<Region>,
        places: QueuePlaces,
        register: DoorbellRegister,
        qpn: u32,
    ) -> Result<Self, RegionError> {
        let mut queue = Self {
            memory,
            places,
            register,
            qpn,
            posted: Cursor(0),
            rung: Cursor(0),
            completed: Cursor(0),
            signalled: Cursor(0),
            error: None,
            last_control: 0,
        };
        queue.clear()?;
        Ok(queue)
    }

    /// Back to empty, as the NIC's side is after the reset of the queue pair, which must
    /// be its own: the NIC must not read now.
    pub(crate) fn reset(&mut self, _: &QueuePair<'_, Reset>) -> Result<(), RegionError> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), RegionError> {
        for cursor in [
            &mut self.posted,
            &mut self.rung,
            &mut self.completed,
            &mut self.signalled,
        ] {
            *cursor = Cursor(0);
        }
        self.error = None;
        let mut entry = [0; CQE_BYTES];
        // "Invalid" until the NIC writes a completion; a reader that finds a
        // completion of the last life here would count it in this one.
        entry[CQE_BYTES - 1] = (CqeOpcode::Invalid as u8) << 4;
        self.memory.write(self.places.cqe, &entry)?;
        self.memory.store_release(self.places.record, 0)
    }

    fn outstanding(&self) -> u32 {
        (self.posted.0 - self.completed.0) as u32
    }

    fn post(&mut self, wqe: &Wqe, signalled: bool) -> Result<(), PostError> {
        let blocks = u64::from(wqe.wqebbs());
        let depth = u64::from(self.places.depth);
        // Behind what asks for no completion, `ring` must find room for a NOP that does.
        let nop = u64::from(!signalled);
        if self.posted.0 + blocks + nop - self.completed.0 > depth {
            return Err(PostError::Full {
                outstanding: self.outstanding(),
                depth: self.places.depth,
            });
        }
        for (i, block) in wqe.bytes().chunks(WQEBB_BYTES).enumerate() {
            let slot = (self.posted.0 + i as u64) % depth;
            self.memory
                .write(self.places.ring + slot * WQEBB_BYTES as u64, block)?;
        }
        self.posted.0 += blocks;
        self.last_control = wqe.ctrl_doorbell();
        if signalled {
            self.signalled = self.posted;
        }
        Ok(())
    }

    fn next(&self, signalled: bool) -> Post {
        Post {
            qpn: self.qpn,
            index: self.posted.low16(),
            signalled,
            ..Post::default()
        }
    }

    /// Posts an RDMA WRITE, unsignalled. The last free entry is not for it.
    pub(crate) fn write(&mut self, target: Target, local: DataPtr) -> Result<(), PostError> {
        let wqe = Wqe::rdma_write(self.next(false), target.0, &[local], None)?;
        self.post(&wqe, false)
    }

    /// Posts an inline RDMA WRITE of 8 bytes, signalled.
    pub(crate) fn signal(&mut self, target: Target, value: u64) -> Result<(), PostError> {
        let wqe = Wqe::rdma_write_inline(self.next(true), target.0, &value.to_ne_bytes(), None)?;
        self.post(&wqe, true)
    }

    /// Hands what was posted to the NIC; the last entry will have a completion.
    /// Returns the place up to which everything is then under way.
    pub(crate) fn ring(&mut self) -> Result<u64, PostError> {
        if self.signalled < self.posted {
            let wqe = Wqe::nop(self.next(true))?;
            self.post(&wqe, true)?;
        }
        if self.rung < self.posted {
            // Receive counter (none here), then the send counter, big-endian.
            let mut record = [0; 8];
            record[4..].copy_from_slice(&u32::from(self.posted.low16()).to_be_bytes());
            self.memory
                .store_release(self.places.record, u64::from_ne_bytes(record))?;
            self.register.ring(self.last_control);
            self.rung = self.posted;
        }
        Ok(self.posted.0)
    }

    /// Reads the completion queue: the place up to which everything has completed.
    ///
    /// A queue pair that has failed stays so until the reset, and of its errors the first
    /// one that was seen here and says why is reported again and again. If the flushed
    /// entries behind it complete before anybody looks, why is not known: the one entry of
    /// a collapsed queue does not hold it any more, and QUERY_QP does not tell.
    pub(crate) fn poll(&mut self) -> Result<Result<u64, CompletionError>, RegionError> {
        // The NIC writes these 8 bytes of the entry last and at once.
        let tail = self
            .memory
            .load_acquire(self.places.cqe + CQE_BYTES as u64 - 8)?
            .to_ne_bytes();
        let [_, _, _, _, high, low, _, op_own] = tail;
        match CqeOpcode::from_nibble(op_own >> 4) {
            Ok(CqeOpcode::Req) => {
                // Entries that ask for completions take one block each.
                let end = u16::from_be_bytes([high, low]).wrapping_add(1);
                let completed = self.posted.latest_with(end);
                self.completed = self.completed.max(completed);
                Ok(Ok(self.completed.0))
            }
            Ok(CqeOpcode::Invalid) => Ok(Ok(self.completed.0)),
            _ => {
                let mut bytes = [0; CQE_BYTES];
                self.memory.read(self.places.cqe, &mut bytes)?;
                // As in `mlx5_err_cqe`.
                let now = CompletionError {
                    vendor: bytes[54],
                    syndrome: bytes[55],
                };
                let known = self.error.filter(|error| !error.is_flush());
                Ok(Err(*self.error.insert(known.unwrap_or(now))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn completions_are_placed_across_the_wrap_of_the_counter() {
        let posted = Cursor(0x2_0003);
        assert_eq!(posted.latest_with(3), Cursor(0x2_0003));
        assert_eq!(posted.latest_with(0xffff), Cursor(0x1_ffff));
        assert_eq!(posted.latest_with(4), Cursor(0x1_0004));
    }

    fn queue(depth: u32) -> (SendQueue, Box<u64>) {
        let memory = Arc::new(Region::shared("control", 65536).unwrap());
        let mut page = Box::new(0);
        // SAFETY: the box outlives the queue in each test and is 8-byte aligned.
        let register = unsafe { DoorbellRegister::new(&mut *page) };
        let places = QueuePlaces {
            ring: 4096,
            depth,
            record: 0,
            cqe: 64,
        };
        (
            SendQueue::new(memory, places, register, 0x42).unwrap(),
            page,
        )
    }

    fn target(addr: u64) -> Target {
        Target(Remote { addr, rkey: 7 })
    }

    fn complete(queue: &SendQueue, index: u16) {
        let [high, low] = index.to_be_bytes();
        let requester = (CqeOpcode::Req as u8) << 4;
        let tail = [0, 0, 0, 0x42, high, low, 0, requester];
        queue.memory.write(queue.places.cqe + 56, &tail).unwrap();
    }

    #[test]
    fn a_full_queue_refuses_and_never_overwrites() {
        let there = target(0x1000);
        let (mut queue, _page) = queue(4);
        for value in 0..4 {
            queue.signal(there, value).unwrap();
        }
        queue.ring().unwrap();
        let before = {
            let mut ring = [0; 256];
            queue.memory.read(4096, &mut ring).unwrap();
            ring
        };
        assert!(matches!(
            queue.signal(there, 9),
            Err(PostError::Full {
                outstanding: 4,
                depth: 4
            })
        ));
        let mut after = [0; 256];
        queue.memory.read(4096, &mut after).unwrap();
        assert_eq!(before, after);
        complete(&queue, 1);
        assert_eq!(queue.poll().unwrap(), Ok(2));
        queue.signal(there, 9).unwrap();
        queue.signal(there, 10).unwrap();
        assert!(queue.signal(there, 11).is_err());
    }

    #[test]
    fn a_reset_forgets_the_last_life() {
        let (mut queue, page) = queue(8);
        queue.signal(target(8), 1).unwrap();
        assert_eq!(queue.ring().unwrap(), 1);
        assert_ne!(*page, 0);
        assert_eq!(queue.memory.load_acquire(0).unwrap().to_ne_bytes()[7], 1);
        complete(&queue, 0);
        queue.clear().unwrap();
        assert_eq!(queue.poll().unwrap(), Ok(0));
        assert_eq!(queue.memory.load_acquire(0).unwrap(), 0);
    }

    fn local() -> DataPtr {
        DataPtr {
            addr: 0x9000,
            lkey: 3,
            len: 100,
        }
    }

    #[test]
    fn a_queue_full_of_writes_can_be_rung() {
        let there = target(0x1000);
        let (mut queue, page) = queue(8);
        for _ in 0..7 {
            queue.write(there, local()).unwrap();
        }
        // The last place is for what asks for a completion: a NOP, or a signal.
        assert!(matches!(
            queue.write(there, local()),
            Err(PostError::Full {
                outstanding: 7,
                depth: 8
            })
        ));
        assert_eq!(queue.ring().unwrap(), 8);
        assert_ne!(*page, 0);
        complete(&queue, 7);
        assert_eq!(queue.poll().unwrap(), Ok(8));
        for _ in 0..7 {
            queue.write(there, local()).unwrap();
        }
        queue.signal(there, 1).unwrap();
        assert_eq!(queue.ring().unwrap(), 16);
    }

    proptest! {
        /// Whatever is posted and completes in between: it is never too late to ring.
        #[test]
        fn whatever_was_posted_can_be_rung(acts in vec(0..4u32, 1..300)) {
            let (mut queue, _page) = queue(8);
            let mut rung = 0;
            for act in acts {
                match act {
                    0 => drop(queue.signal(target(0x1000), 1)),
                    1 | 2 => drop(queue.write(target(0x1000), local())),
                    _ => {
                        rung = queue.ring().unwrap();
                        prop_assert_eq!(queue.signalled.0, rung);
                        complete(&queue, (rung as u16).wrapping_sub(1));
                        prop_assert_eq!(queue.poll().unwrap(), Ok(rung));
                    }
                }
                prop_assert!(queue.outstanding() <= 8);
                prop_assert!(queue.posted.0 >= rung);
            }
            queue.ring().unwrap();
        }
    }

    fn fail(queue: &SendQueue, syndrome: Syndrome) {
        let mut entry = [0; CQE_BYTES];
        entry[55] = syndrome.code();
        entry[63] = (CqeOpcode::ReqErr as u8) << 4;
        queue.memory.write(queue.places.cqe, &entry).unwrap();
    }

    #[test]
    fn what_failed_is_reported_and_not_what_was_flushed_behind_it() {
        let (mut queue, _page) = queue(8);
        let seen = |queue: &mut SendQueue, syndrome| {
            fail(queue, syndrome);
            let error = queue.poll().unwrap().unwrap_err();
            Syndrome::from_code(error.syndrome)
        };
        assert_eq!(seen(&mut queue, Syndrome::WrFlush), Syndrome::WrFlush);
        queue.clear().unwrap();
        for syndrome in [Syndrome::RemoteAccess, Syndrome::WrFlush] {
            assert_eq!(seen(&mut queue, syndrome), Syndrome::RemoteAccess);
        }
        queue.clear().unwrap();
        assert_eq!(queue.poll().unwrap(), Ok(0));
        let next = seen(&mut queue, Syndrome::TransportRetryExceeded);
        assert_eq!(next, Syndrome::TransportRetryExceeded);
    }

    #[test]
    fn writes_without_a_signal_complete_too() {
        let (mut queue, _page) = queue(8);
        queue.write(target(0x1000), local()).unwrap();
        assert_eq!(queue.ring().unwrap(), 2);
        let mut last = [0; 64];
        queue.memory.read(4096 + 64, &mut last).unwrap();
        let parsed = mlx5gda_sys::wqe::parse(&last).unwrap();
        assert!(parsed.flags.signalled());
    }
}
