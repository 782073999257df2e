//! A client that knows nothing but the function table.

#[path = "client/connect.rs"]
mod connect;

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use mlx5gda_sys::cqe::{Cqe64, CqeOpcode, Syndrome};
use mlx5gda_sys::doorbell::UAR_CQ_DOORBELL;
use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{
    CmdOpcode, CmdStatus, CommandIn, Cqc, CreateCqIn, CreateQpIn, Layout, Mailbox, Mtu, OutHeader,
    PmState, QueryCqIn, RqType,
};
use mlx5gda_sys::table::FnTable;
use mlx5gda_sys::wqe::{DataPtr, Post, Wqe};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::mm::{MprotectFlags, mprotect};
use soft_hca::Config;

pub(crate) const ACCESS: u32 = ffi::IBV_ACCESS_LOCAL_WRITE
    | ffi::IBV_ACCESS_REMOTE_WRITE
    | ffi::IBV_ACCESS_REMOTE_READ
    | ffi::IBV_ACCESS_REMOTE_ATOMIC;

/// Page-aligned memory.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; 4096]);

/// An open device with a protection domain, a UAR, control memory and data
/// memory.
pub(crate) struct Client {
    pub(crate) table: FnTable,
    pub(crate) name: String,
    pub(crate) context: *mut ffi::ibv_context,
    pub(crate) pd: *mut ffi::ibv_pd,
    pub(crate) pdn: u32,
    pub(crate) eqn: u32,
    pub(crate) uar: *mut ffi::mlx5dv_devx_uar,
    pub(crate) umem: *mut ffi::mlx5dv_devx_umem,
    pub(crate) mr: *mut ffi::ibv_mr,
    pub(crate) gid: [u8; 16],
    /// 0 on Ethernet.
    pub(crate) lid: u16,
    /// On InfiniBand, packets carry a global route header.
    pub(crate) routed: bool,
    control: Box<[Page]>,
    data: Box<[Page]>,
    /// Control memory taken.
    pub(crate) used: u64,
    closed: bool,
}

/// Bytes of data memory.
pub(crate) const DATA: usize = 1 << 20;
const CONTROL: usize = 1 << 18;
/// What completions of queue pairs with a receive queue say.
pub(crate) const USER_INDEX: u32 = 0x000a_bcde;

impl Client {
    pub(crate) fn new(config: Config) -> Self {
        let table = soft_hca::fn_table(config).unwrap();
        // SAFETY: called as the manual pages say; every pointer is checked.
        unsafe {
            let mut count = 0;
            let list = (table.ibv_get_device_list)(&mut count);
            assert!(!list.is_null() && count > 0);
            let device = *list;
            let name = CStr::from_ptr((table.ibv_get_device_name)(device));
            let name = name.to_str().unwrap().to_owned();
            let mut attr = ffi::mlx5dv_context_attr {
                flags: ffi::MLX5DV_CONTEXT_FLAGS_DEVX,
                comp_mask: 0,
            };
            let context = (table.mlx5dv_open_device)(device, &mut attr);
            assert!(!context.is_null());
            (table.ibv_free_device_list)(list);
            let pd = (table.ibv_alloc_pd)(context);
            let mut out = ffi::mlx5dv_pd::default();
            let mut obj = ffi::mlx5dv_obj::default();
            obj.pd.in_ = pd;
            obj.pd.out = &mut out;
            let types = u64::from(ffi::MLX5DV_OBJ_PD);
            assert_eq!((table.mlx5dv_init_obj)(&mut obj, types), 0);
            let mut eqn = 0;
            assert_eq!((table.mlx5dv_devx_query_eqn)(context, 0, &mut eqn), 0);
            let uar = (table.mlx5dv_devx_alloc_uar)(context, 0);
            assert!(!uar.is_null());
            let mut control = vec![Page([0; 4096]); CONTROL / 4096].into_boxed_slice();
            let mut data = vec![Page([0; 4096]); DATA / 4096].into_boxed_slice();
            let umem = (table.mlx5dv_devx_umem_reg)(
                context,
                control.as_mut_ptr().cast(),
                CONTROL,
                ffi::IBV_ACCESS_LOCAL_WRITE,
            );
            assert!(!umem.is_null());
            let mr = (table.ibv_reg_mr)(pd, data.as_mut_ptr().cast(), DATA, ACCESS as i32);
            assert!(!mr.is_null());
            let (gid, lid) = port_address(&table, context);
            Self {
                table,
                name,
                context,
                pd,
                pdn: out.pdn,
                eqn,
                uar,
                umem,
                mr,
                gid,
                lid,
                routed: false,
                control,
                data,
                used: 0,
                closed: false,
            }
        }
    }

    pub(crate) fn umem_id(&self) -> u32 {
        // SAFETY: alive until closed.
        unsafe { (*self.umem).umem_id }
    }

    pub(crate) fn page_id(&self) -> u32 {
        // SAFETY: alive until closed.
        unsafe { (*self.uar).page_id }
    }

    pub(crate) fn key(&self) -> u32 {
        // SAFETY: alive until closed.
        unsafe { (*self.mr).rkey }
    }

    /// Address of the data memory.
    pub(crate) fn address(&self) -> u64 {
        self.data.as_ptr().addr() as u64
    }

    /// 8 bytes of the data memory, as another thread sees them.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= DATA);
        let at = self.data.as_ptr().cast::<u8>().wrapping_add(offset);
        // SAFETY: in range, aligned, alive; shared with the device by atomics.
        unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) }
    }

    pub(crate) fn store(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= DATA);
        let to = self.data.as_ptr().cast::<u8>().wrapping_add(offset);
        // SAFETY: in range; nothing is in flight for these bytes.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to.cast_mut(), data.len()) };
    }

    pub(crate) fn load(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= DATA);
        let from = self.data.as_ptr().cast::<u8>().wrapping_add(offset);
        let mut data = vec![0; len];
        fence(Ordering::Acquire);
        // SAFETY: in range; nothing is in flight for these bytes.
        unsafe { ptr::copy_nonoverlapping(from, data.as_mut_ptr(), len) };
        data
    }

    /// Takes control memory.
    pub(crate) fn take(&mut self, bytes: u64) -> u64 {
        let at = self.used;
        self.used += bytes.next_multiple_of(64);
        assert!(self.used <= CONTROL as u64);
        at
    }

    /// Has the next control memory begin on a page of its own.
    pub(crate) fn next_page(&mut self) {
        self.used = self.used.next_multiple_of(4096);
    }

    /// Takes a page of control memory away from the process, or gives it back.
    pub(crate) fn control_access(&self, offset: u64, access: MprotectFlags) {
        assert!(offset.is_multiple_of(4096));
        // SAFETY: a page of the client's own; nobody but the device looks at it
        // while it is away.
        unsafe { mprotect(self.control(offset).cast(), 4096, access) }.unwrap();
    }

    /// As [`Client::control_access`], a page of the data memory.
    pub(crate) fn data_access(&self, offset: usize, access: MprotectFlags) {
        assert!(offset.is_multiple_of(4096) && offset < DATA);
        let at = self.data.as_ptr().wrapping_byte_add(offset).cast_mut();
        // SAFETY: as above.
        unsafe { mprotect(at.cast(), 4096, access) }.unwrap();
    }

    fn control(&self, offset: u64) -> *mut u8 {
        self.control
            .as_ptr()
            .cast::<u8>()
            .wrapping_add(offset as usize)
            .cast_mut()
    }

    /// Creates an object by a command.
    pub(crate) fn create<I: CommandIn>(
        &self,
        input: I,
    ) -> Result<(*mut ffi::mlx5dv_devx_obj, Mailbox<I::Out>), CmdStatus> {
        let input = Mailbox::new(input);
        let mut out = Mailbox::<I::Out>::zeroed();
        // SAFETY: the context is open, the mailboxes are as long as said.
        let object = unsafe {
            (self.table.mlx5dv_devx_obj_create)(
                self.context,
                input.as_ptr(),
                size_of::<I>(),
                out.as_mut_ptr(),
                size_of::<I::Out>(),
            )
        };
        if object.is_null() {
            return Err(status(&*out));
        }
        Ok((object, out))
    }

    /// Registers a part of the data memory in another protection domain, or
    /// with other rights; its key.
    pub(crate) fn register(&self, pd: *mut ffi::ibv_pd, len: usize, access: u32) -> u32 {
        let addr = self.data.as_ptr().cast_mut().cast();
        // SAFETY: the data memory is alive as long as the client.
        let mr = unsafe { (self.table.ibv_reg_mr)(pd, addr, len, access as i32) };
        assert!(!mr.is_null());
        // SAFETY: alive until the client is closed.
        unsafe { (*mr).lkey }
    }

    pub(crate) fn another_pd(&self) -> *mut ffi::ibv_pd {
        // SAFETY: the context is open.
        let pd = unsafe { (self.table.ibv_alloc_pd)(self.context) };
        assert!(!pd.is_null());
        pd
    }

    /// Changes an object by a command.
    pub(crate) fn modify<I: CommandIn>(
        &self,
        object: *mut ffi::mlx5dv_devx_obj,
        input: I,
    ) -> Result<(), CmdStatus> {
        let input = Mailbox::new(input);
        let mut out = Mailbox::<I::Out>::zeroed();
        // SAFETY: as in `create`.
        let result = unsafe {
            (self.table.mlx5dv_devx_obj_modify)(
                object,
                input.as_ptr(),
                size_of::<I>(),
                out.as_mut_ptr(),
                size_of::<I::Out>(),
            )
        };
        assert_eq!(result == 0, status(&*out) == CmdStatus::Ok);
        if result == 0 {
            Ok(())
        } else {
            Err(status(&*out))
        }
    }

    pub(crate) fn query<I: CommandIn>(
        &self,
        object: *mut ffi::mlx5dv_devx_obj,
        input: I,
    ) -> Mailbox<I::Out> {
        self.try_query(object, input).unwrap()
    }

    pub(crate) fn try_query<I: CommandIn>(
        &self,
        object: *mut ffi::mlx5dv_devx_obj,
        input: I,
    ) -> Result<Mailbox<I::Out>, CmdStatus> {
        let input = Mailbox::new(input);
        let mut out = Mailbox::<I::Out>::zeroed();
        // SAFETY: as in `create`.
        let result = unsafe {
            (self.table.mlx5dv_devx_obj_query)(
                object,
                input.as_ptr(),
                size_of::<I>(),
                out.as_mut_ptr(),
                size_of::<I::Out>(),
            )
        };
        assert_eq!(result == 0, status(&*out) == CmdStatus::Ok);
        if result == 0 {
            Ok(out)
        } else {
            Err(status(&*out))
        }
    }

    /// Runs a command that creates nothing; 0 or the error number.
    pub(crate) fn general<I: CommandIn>(&self, input: &I, out: &mut [u8]) -> i32 {
        // SAFETY: as in `create`; a mailbox needs no alignment here.
        unsafe {
            (self.table.mlx5dv_devx_general_cmd)(
                self.context,
                std::ptr::from_ref(input).cast(),
                size_of::<I>(),
                out.as_mut_ptr().cast(),
                out.len(),
            )
        }
    }

    pub(crate) fn destroy(&self, object: *mut ffi::mlx5dv_devx_obj) -> i32 {
        // SAFETY: an unknown pointer is refused.
        unsafe { (self.table.mlx5dv_devx_obj_destroy)(object) }
    }

    /// A CREATE_CQ command for a queue of `2^log` entries.
    pub(crate) fn cq_command(&mut self, log: u32, collapsed: bool) -> (CreateCqIn, u64) {
        let entries = if collapsed { 1 } else { 1u64 << log };
        let ring = self.take(entries * 64);
        let doorbell = self.take(8);
        let mut input = CreateCqIn::new();
        input.set_cq_umem_offset(ring);
        input.set_cq_umem_id(self.umem_id());
        input.set_cq_umem_valid(true);
        let cqc = &mut input.cq_context;
        cqc.set_cc(collapsed);
        cqc.set_oi(true);
        cqc.set_log_cq_size(log).unwrap();
        cqc.set_uar_page(self.page_id()).unwrap();
        cqc.set_c_eqn(self.eqn);
        cqc.set_dbr_umem_id(self.umem_id());
        cqc.set_dbr_umem_valid(true);
        cqc.set_dbr_addr(doorbell);
        for entry in 0..entries {
            // SAFETY: control memory, not yet known to the device.
            unsafe { *self.control(ring + entry * 64 + 63) = 0xf1 };
        }
        (input, ring)
    }

    pub(crate) fn cq(&mut self, log: u32, collapsed: bool) -> Cq {
        let (input, ring) = self.cq_command(log, collapsed);
        self.cq_by(input, ring).unwrap()
    }

    /// A queue of `2^log` entries that minds its consumer counter.
    pub(crate) fn strict_cq(&mut self, log: u32) -> Cq {
        let (mut input, ring) = self.cq_command(log, false);
        input.cq_context.set_oi(false);
        self.cq_by(input, ring).unwrap()
    }

    /// The queue that this command creates, with its ring at `ring`.
    pub(crate) fn cq_by(&self, input: CreateCqIn, ring: u64) -> Result<Cq, CmdStatus> {
        let log = input.cq_context.log_cq_size();
        let (object, out) = self.create(input)?;
        Ok(Cq {
            object,
            number: out.cqn(),
            doorbell: input.cq_context.dbr_addr(),
            ring,
            log,
            consumed: 0,
        })
    }

    pub(crate) fn qp_command(&mut self, cq: u32, log: u32) -> (CreateQpIn, u64, u64) {
        let queue = self.take(64 << log);
        let doorbell = self.take(8);
        let mut input = CreateQpIn::new();
        input.set_wq_umem_offset(queue);
        input.set_wq_umem_id(self.umem_id());
        input.set_wq_umem_valid(true);
        let qpc = &mut input.qpc;
        qpc.set_pd(self.pdn).unwrap();
        qpc.set_pm_state(PmState::Migrated.code()).unwrap();
        qpc.set_uar_page(self.page_id()).unwrap();
        qpc.set_rq_type(RqType::ZeroLength.code()).unwrap();
        qpc.set_log_sq_size(log).unwrap();
        qpc.set_cqn_snd(cq).unwrap();
        qpc.set_cqn_rcv(cq).unwrap();
        qpc.set_dbr_umem_id(self.umem_id());
        qpc.set_dbr_umem_valid(true);
        qpc.set_dbr_addr(doorbell);
        (input, queue, doorbell)
    }

    /// A queue pair with `2^log` send blocks and `2^log` receive WQEs of two
    /// buffers each.
    pub(crate) fn qp_with_receives(&mut self, cq: &Cq, log: u32) -> Qp {
        let (input, queue) = self.receives_command(cq, log);
        self.qp_by(input, queue).unwrap()
    }

    /// The command that creates such a queue pair, and where its send queue is.
    pub(crate) fn receives_command(&mut self, cq: &Cq, log: u32) -> (CreateQpIn, u64) {
        let (mut input, ..) = self.qp_command(cq.number, log);
        let receive_bytes = 32 << log;
        let queue = self.take(receive_bytes + (64 << log));
        input.set_wq_umem_offset(queue);
        let qpc = &mut input.qpc;
        qpc.set_rq_type(RqType::Regular.code()).unwrap();
        qpc.set_log_rq_size(log).unwrap();
        qpc.set_log_rq_stride(1).unwrap();
        qpc.set_user_index(USER_INDEX).unwrap();
        (input, queue + receive_bytes)
    }

    /// The queue pair that this command creates, with its send queue at `queue`.
    pub(crate) fn qp_by(&self, input: CreateQpIn, queue: u64) -> Result<Qp, CmdStatus> {
        let (object, out) = self.create(input)?;
        Ok(Qp {
            object,
            number: out.qpn(),
            queue,
            doorbell: input.qpc.dbr_addr(),
            log: input.qpc.log_sq_size(),
            posted: 0,
        })
    }

    /// Posts the receive WQE with this index.
    pub(crate) fn post_receive(&self, qp: &Qp, index: u16, buffers: &[DataPtr]) {
        let slot = u64::from(index) & ((1 << qp.log) - 1);
        let at = qp.queue - (32 << qp.log) + slot * 32;
        let mut wqe = [0u8; 32];
        // A list shorter than the stride ends with the invalid key.
        wqe[20..24].copy_from_slice(&0x100u32.to_be_bytes());
        for (segment, buffer) in wqe.as_chunks_mut::<16>().0.iter_mut().zip(buffers) {
            segment[..4].copy_from_slice(&buffer.len.to_be_bytes());
            segment[4..8].copy_from_slice(&buffer.lkey.to_be_bytes());
            segment[8..].copy_from_slice(&buffer.addr.to_be_bytes());
        }
        let to = self.control(at);
        // SAFETY: in control memory; not looked at before the doorbell record
        // says so.
        unsafe { ptr::copy_nonoverlapping(wqe.as_ptr(), to, 32) };
        let record = u32::from(index.wrapping_add(1)).to_be();
        // SAFETY: in control memory, aligned.
        unsafe { AtomicU32::from_ptr(self.control(qp.doorbell).cast()) }
            .store(record, Ordering::Release);
    }

    pub(crate) fn qp(&mut self, cq: &Cq, log: u32) -> Qp {
        let (input, queue, _) = self.qp_command(cq.number, log);
        self.qp_by(input, queue).unwrap()
    }

    fn doorbell_record(&self, qp: &Qp) -> &AtomicU32 {
        // SAFETY: in control memory, aligned, alive as long as the client.
        unsafe { AtomicU32::from_ptr(self.control(qp.doorbell + 4).cast()) }
    }

    /// Copies a WQE into the ring and rings the doorbell.
    pub(crate) fn post(&self, qp: &mut Qp, wqe: &Wqe) {
        self.place(qp, wqe);
        self.ring(qp, wqe);
    }

    /// Posts whatever bytes, in whole blocks.
    pub(crate) fn post_bytes(&self, qp: &mut Qp, wqe: &[u8]) {
        self.place_bytes(qp, wqe);
        self.record(qp);
        // The value says nothing that the doorbell record does not say.
        self.write_doorbell(1);
    }

    /// Says in the doorbell record what is posted, and rings nothing.
    pub(crate) fn record(&self, qp: &Qp) {
        let record = u32::from(qp.posted).to_be();
        self.doorbell_record(qp).store(record, Ordering::Release);
    }

    /// Writes to the doorbell register.
    pub(crate) fn write_doorbell(&self, value: u64) {
        // SAFETY: the register is in the UAR page, which is alive.
        let register = unsafe { AtomicU64::from_ptr((*self.uar).reg_addr.cast()) };
        register.store(value, Ordering::Release);
    }

    pub(crate) fn place(&self, qp: &mut Qp, wqe: &Wqe) {
        self.place_bytes(qp, wqe.bytes());
    }

    fn place_bytes(&self, qp: &mut Qp, wqe: &[u8]) {
        for block in wqe.chunks_exact(64) {
            let slot = u64::from(qp.posted) & ((1 << qp.log) - 1);
            let to = self.control(qp.queue + slot * 64);
            // SAFETY: in control memory; the device does not look at the entry
            // before the doorbell record says so.
            unsafe { ptr::copy_nonoverlapping(block.as_ptr(), to, 64) };
            qp.posted = qp.posted.wrapping_add(1);
        }
    }

    pub(crate) fn ring(&self, qp: &Qp, wqe: &Wqe) {
        self.record(qp);
        self.write_doorbell(wqe.ctrl_doorbell());
    }

    pub(crate) fn signalled(&self, qp: &Qp) -> Post {
        Post {
            qpn: qp.number,
            index: qp.posted,
            signalled: true,
            solicited: false,
            fence: false,
        }
    }

    /// Makes the collapsed queue's entry invalid again, as it was at first.
    pub(crate) fn forget(&self, cq: &Cq) {
        let at = self.control(cq.ring + 56).cast();
        // SAFETY: in control memory, aligned; no completion is under way.
        unsafe { AtomicU64::from_ptr(at) }.store(u64::MAX, Ordering::Release);
    }

    /// The collapsed queue's entry.
    pub(crate) fn collapsed(&self, cq: &Cq) -> Cqe64 {
        self.entry(cq, 0)
    }

    fn entry(&self, cq: &Cq, index: u64) -> Cqe64 {
        let at = self.control(cq.ring + index * 64);
        let mut words = [0u64; 8];
        for (i, word) in words.iter_mut().enumerate().rev() {
            // SAFETY: in control memory, aligned; the last word first.
            *word = unsafe { AtomicU64::from_ptr(at.cast::<u64>().wrapping_add(i)) }
                .load(Ordering::Acquire);
        }
        zerocopy::transmute!(words)
    }

    /// Waits until the collapsed queue reports the WQE with this index, or an
    /// error.
    pub(crate) fn wait(&self, cq: &Cq, index: u16) -> Result<(), (u16, Syndrome)> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let cqe = self.collapsed(cq);
            match cqe.opcode() {
                Ok(CqeOpcode::Req) if cqe.wqe_counter() == index => return Ok(()),
                Ok(CqeOpcode::ReqErr) => return Err((cqe.wqe_counter(), cqe.syndrome())),
                _ => {}
            }
            assert!(
                Instant::now() < until,
                "no completion of WQE {index}: {cqe:?}"
            );
            std::thread::yield_now();
        }
    }

    /// The next entry of a queue that is not collapsed, once it is there.
    pub(crate) fn next(&self, cq: &mut Cq) -> Cqe64 {
        let until = Instant::now() + Duration::from_secs(10);
        let owner = cq.consumed >> cq.log & 1 != 0;
        loop {
            let cqe = self.entry(cq, u64::from(cq.consumed) & ((1 << cq.log) - 1));
            if cqe.opcode() != Ok(CqeOpcode::Invalid) && cqe.owner() == owner {
                cq.consumed += 1;
                return cqe;
            }
            assert!(Instant::now() < until, "completion {} missing", cq.consumed);
            std::thread::yield_now();
        }
    }

    /// Says in the doorbell record what was consumed.
    pub(crate) fn release(&self, cq: &Cq) {
        let consumed = (cq.consumed & 0x00ff_ffff).to_be();
        // SAFETY: in control memory, aligned.
        unsafe { AtomicU32::from_ptr(self.control(cq.doorbell).cast()) }
            .store(consumed, Ordering::Release);
    }

    /// Writes the arming word, and rings nothing.
    pub(crate) fn record_arming(&self, cq: &Cq, sequence: u32, solicited: bool) -> u32 {
        let word = sequence << 28 | u32::from(solicited) << 24 | cq.consumed & 0x00ff_ffff;
        // SAFETY: in control memory, aligned.
        unsafe { AtomicU32::from_ptr(self.control(cq.doorbell + 4).cast()) }
            .store(word.to_be(), Ordering::Release);
        word
    }

    /// Arms a queue for the completion after those consumed: writes the arming
    /// word and the doorbell register.
    pub(crate) fn arm(&self, cq: &Cq, sequence: u32, solicited: bool) {
        let word = self.record_arming(cq, sequence, solicited);
        let value = u64::from(word) << 32 | u64::from(cq.number);
        // SAFETY: the register is in the UAR page, which is alive.
        let register = unsafe {
            let page = (*self.uar).base_addr.cast::<u8>();
            AtomicU64::from_ptr(page.add(UAR_CQ_DOORBELL).cast())
        };
        register.store(value.to_be(), Ordering::Release);
    }

    pub(crate) fn cq_context(&self, cq: &Cq) -> Cqc {
        self.try_cq_context(cq).unwrap()
    }

    pub(crate) fn try_cq_context(&self, cq: &Cq) -> Result<Cqc, CmdStatus> {
        let mut input = QueryCqIn::new();
        input.set_cqn(cq.number).unwrap();
        self.try_query(cq.object, input).map(|out| out.cq_context)
    }

    /// Posts a NOP that completes.
    pub(crate) fn nop(&self, qp: &mut Qp) {
        let wqe = Wqe::nop(self.signalled(qp)).unwrap();
        self.post(qp, &wqe);
    }

    pub(crate) fn commands(&self, opcode: CmdOpcode) -> u64 {
        let stats = soft_hca::stats(&self.name).unwrap();
        stats.commands.get(&opcode).copied().unwrap_or(0)
    }

    /// What the context has heard of its port and nobody has fetched yet.
    pub(crate) fn port_events(&self) -> Vec<ffi::ibv_event_type> {
        // SAFETY: open as long as the context.
        let fd = unsafe { BorrowedFd::borrow_raw((*self.context).async_fd) };
        fcntl_setfl(fd, OFlags::NONBLOCK).unwrap();
        let mut seen = Vec::new();
        let mut event = ffi::ibv_async_event::default();
        // SAFETY: the context is open; `event` is writable.
        while unsafe { (self.table.ibv_get_async_event)(self.context, &mut event) } == 0 {
            seen.push(event.event_type);
        }
        seen
    }

    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            // SAFETY: the context is open and not used afterwards.
            assert_eq!(unsafe { (self.table.ibv_close_device)(self.context) }, 0);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

fn status<O: Layout>(out: &O) -> CmdStatus {
    let header = OutHeader::from_slice(zerocopy::IntoBytes::as_bytes(out)).unwrap();
    CmdStatus::from_code(header.status())
}

/// The GID to use, and the LID.
fn port_address(table: &FnTable, context: *mut ffi::ibv_context) -> ([u8; 16], u16) {
    let mut port = ffi::ibv_port_attr::default();
    let out: *mut ffi::ibv_port_attr = &mut port;
    // SAFETY: the context is open; `out` is writable.
    assert_eq!(unsafe { (table.ibv_query_port)(context, 1, out.cast()) }, 0);
    assert_eq!(port.state, ffi::IBV_PORT_ACTIVE);
    let infiniband = port.link_layer == ffi::IBV_LINK_LAYER_INFINIBAND as u8;
    assert_eq!(infiniband, port.lid != 0);
    let wanted = if infiniband {
        ffi::IBV_GID_TYPE_IB
    } else {
        ffi::IBV_GID_TYPE_ROCE_V2
    };
    for index in 0..port.gid_tbl_len as u32 {
        let mut entry = ffi::ibv_gid_entry::default();
        let size = size_of::<ffi::ibv_gid_entry>();
        // SAFETY: as above.
        let result = unsafe { (table._ibv_query_gid_ex)(context, 1, index, &mut entry, 0, size) };
        assert_eq!(result, 0);
        if entry.gid_type == wanted {
            // SAFETY: any bytes are a GID.
            return (unsafe { entry.gid.raw }, port.lid);
        }
    }
    panic!("no GID");
}

pub(crate) struct Cq {
    pub(crate) object: *mut ffi::mlx5dv_devx_obj,
    pub(crate) number: u32,
    pub(crate) ring: u64,
    pub(crate) doorbell: u64,
    pub(crate) log: u32,
    pub(crate) consumed: u32,
}

pub(crate) struct Qp {
    pub(crate) object: *mut ffi::mlx5dv_devx_obj,
    pub(crate) number: u32,
    pub(crate) queue: u64,
    pub(crate) doorbell: u64,
    pub(crate) log: u32,
    pub(crate) posted: u16,
}

/// What one side tells the other.
pub(crate) struct End {
    pub(crate) qpn: u32,
    pub(crate) psn: u32,
    pub(crate) gid: [u8; 16],
    pub(crate) lid: u16,
    pub(crate) mtu: Mtu,
}

/// Two clients with one connected pair.
pub(crate) struct Pair {
    pub(crate) a: Client,
    pub(crate) b: Client,
    pub(crate) cq_a: Cq,
    pub(crate) qp_a: Qp,
    pub(crate) qp_b: Qp,
}
