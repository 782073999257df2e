//! The buffer itself: one rank's end of dispatch and combine on a GPU.

use super::args::{Args, MODE_RECEIVE, MODE_SEND, Report};
use super::fabric::DeviceFabric;
use super::kernels::Kernels;
use super::launch::base_args;
use super::layout::Layout;
use super::limits::Limits;
use super::resources::Resources;
use super::settings::Settings;
use super::tensor::{
    Answers, CombineOutput, CombineTensors, DispatchHandle, DispatchOutput, DispatchTensors, Sizes,
    Stream, Tensor, Tokens, combine_answers,
};
use crate::config::Config;
use crate::error::EpError;
use ep_transport::Rank;
use ep_transport::cuda::{CudaError, DeviceMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static NEXT_BUFFER: AtomicU64 = AtomicU64::new(1);

/// Which half of which operation comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    Dispatch { tokens: u32, top_k: u32 },
    Combine { tokens: u32, top_k: u32 },
}

/// Dispatch and combine on a GPU, over NVLink windows.
///
/// All ranks of the group put the same operations on their streams in the same order, and
/// operations of one buffer follow one another: on one stream, or ordered by events. All of
/// them can be captured in graphs; a graph stays valid for the life of the buffer, whoever
/// dies and comes back meanwhile.
#[derive(Debug)]
pub struct EpBuffer<F> {
    pub(super) number: u64,
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) sizes: Sizes,
    pub(super) kernels: Kernels,
    report: DeviceMemory,
    expert_tokens: DeviceMemory,
    pub(super) base: Args,
    pub(super) resources: Resources,
    pending: Pending,
    fabric: F,
}

impl EpBuffer<()> {
    /// Bytes of device memory that each rank's window needs, whatever rank it is.
    #[must_use]
    pub fn footprint(config: &Config) -> u64 {
        Layout::new(config).bytes()
    }
}

impl<F: DeviceFabric> EpBuffer<F> {
    /// A buffer on `fabric`, whose windows have at least [`EpBuffer::footprint`] bytes.
    ///
    /// # Errors
    /// The configuration is beyond what GPUs can do or does not fit the group, or the
    /// device refuses.
    pub fn new(config: Config, settings: Settings, fabric: F) -> Result<Self, EpError> {
        let rank = fabric.rank();
        let device = Arc::clone(fabric.device());
        let cuda = |source| EpError::Cuda { rank, source };
        let layout = Layout::new(&config);
        let resources = Resources::new(&config, settings, rank, &device)?;
        let windows = fabric.windows();
        for (what, ours, theirs) in [
            (
                "capacity",
                config.capacity().into(),
                u64::from(windows.capacity()),
            ),
            (
                "bytes of a window",
                layout.bytes(),
                windows.stride().min(layout.bytes()),
            ),
        ] {
            if ours != theirs {
                return Err(EpError::Mismatch {
                    rank,
                    what,
                    config: ours,
                    fabric: theirs,
                });
            }
        }
        let report = DeviceMemory::new(&device, size_of::<Report>() as u64).map_err(cuda)?;
        let local = u64::from(config.placement().local_experts(rank)).max(1);
        let expert_tokens = DeviceMemory::new(&device, local * 8).map_err(cuda)?;
        let base = Args {
            report: report.address(),
            expert_tokens: expert_tokens.address(),
            ..base_args(&config, &layout, &fabric)
        };
        Ok(Self {
            number: NEXT_BUFFER.fetch_add(1, Relaxed),
            sizes: Sizes::new(&config, rank),
            kernels: Kernels::load(&device).map_err(cuda)?,
            report,
            expert_tokens,
            base,
            resources,
            pending: Pending::Nothing,
            layout,
            config,
            fabric,
        })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.fabric.rank()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The group under the buffer.
    #[must_use]
    pub fn fabric(&self) -> &F {
        &self.fabric
    }

    /// The group under the buffer.
    pub fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// Gives the group back. Graphs that have captured operations of this buffer must not be
    /// launched any more.
    #[must_use]
    pub fn into_fabric(self) -> F {
        self.fabric
    }

    /// Sizes of what operations read and write.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Device memory for the results of dispatches.
    ///
    /// # Errors
    /// There is not enough.
    pub fn dispatch_output(&self) -> Result<DispatchOutput, EpError> {
        self.cuda(DispatchOutput::new(self.fabric.device(), &self.sizes))
    }

    /// Device memory for the results of combines.
    ///
    /// # Errors
    /// There is not enough.
    pub fn combine_output(&self) -> Result<CombineOutput, EpError> {
        self.cuda(CombineOutput::new(self.fabric.device(), &self.config))
    }

    /// Zeroed device memory for what the experts make.
    ///
    /// # Errors
    /// There is not enough.
    pub fn expert_output(&self) -> Result<DeviceMemory, EpError> {
        self.cuda(DeviceMemory::new(
            self.fabric.device(),
            self.sizes.expert_output,
        ))
    }

    /// A handle, to tie combines to their dispatches.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn handle(&self) -> Result<DispatchHandle, EpError> {
        self.cuda(DispatchHandle::new(
            self.fabric.device(),
            &self.config,
            self.number,
        ))
    }

    /// Who took part in the last combine that has ended. Copies from the device.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn combine_answers(&self) -> Result<Answers, EpError> {
        self.cuda(combine_answers(&self.report))
    }

    /// Rows that each local expert has had in all dispatches so far. Copies from the device.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn expert_tokens(&self) -> Result<Vec<u64>, EpError> {
        let mut tokens = vec![0_u64; self.expert_tokens.len() as usize / 8];
        let read = self
            .expert_tokens
            .read(0, bytemuck::cast_slice_mut(&mut tokens));
        self.cuda(read.map(|()| tokens))
    }

    pub(super) fn cuda<T>(&self, result: Result<T, CudaError>) -> Result<T, EpError> {
        let rank = self.rank();
        result.map_err(|source| EpError::Cuda { rank, source })
    }

    /// Sends `tokens` to the ranks of their experts and packs what comes from all ranks by
    /// expert, all of it on `stream`.
    ///
    /// # Errors
    /// A shape does not fit, or the launch fails; nothing was launched then.
    ///
    /// # Safety
    /// All tensors are device memory of their sizes and stay so until the operation, and
    /// every graph that has captured it, is through; nobody writes to the inputs meanwhile.
    /// `stream` is a stream of this device. Operations of this buffer do not overlap.
    pub unsafe fn dispatch(
        &mut self,
        stream: impl Into<Stream>,
        tokens: &Tokens,
        handle: &DispatchHandle,
        out: &DispatchTensors,
    ) -> Result<(), EpError> {
        self.expect(Pending::Nothing, "dispatch")?;
        let args = self.dispatch_args(tokens, handle, out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_dispatch(stream.into(), args, MODE_SEND | MODE_RECEIVE) }
    }

    /// The first half of a dispatch: sends, and returns the GPU to others until
    /// [`EpBuffer::dispatch_receive`].
    ///
    /// # Errors
    /// As for [`EpBuffer::dispatch`]; or an operation's second half is due.
    ///
    /// # Safety
    /// As for [`EpBuffer::dispatch`].
    pub unsafe fn dispatch_send(
        &mut self,
        stream: impl Into<Stream>,
        tokens: &Tokens,
        handle: &DispatchHandle,
        out: &DispatchTensors,
    ) -> Result<(), EpError> {
        self.expect(Pending::Nothing, "dispatch_send")?;
        let args = self.dispatch_args(tokens, handle, out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_dispatch(stream.into(), args, MODE_SEND)? };
        self.pending = Pending::Dispatch {
            tokens: tokens.tokens,
            top_k: tokens.top_k,
        };
        Ok(())
    }

    /// The second half, with the same arguments as the first.
    ///
    /// # Errors
    /// As for [`EpBuffer::dispatch`]; or the first half was another one.
    ///
    /// # Safety
    /// As for [`EpBuffer::dispatch`].
    pub unsafe fn dispatch_receive(
        &mut self,
        stream: impl Into<Stream>,
        tokens: &Tokens,
        handle: &DispatchHandle,
        out: &DispatchTensors,
    ) -> Result<(), EpError> {
        let begun = Pending::Dispatch {
            tokens: tokens.tokens,
            top_k: tokens.top_k,
        };
        self.expect(begun, "dispatch_receive")?;
        let args = self.dispatch_args(tokens, handle, out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_dispatch(stream.into(), args, MODE_RECEIVE)? };
        self.pending = Pending::Nothing;
        Ok(())
    }

    /// Brings back what the experts made of the tokens of the dispatch that used `handle`,
    /// weighted and summed. `y` is read where it lies: bf16 in the shape of `recv_x`.
    /// `tokens` and `top_k` are those of the dispatch, which is of the same round
    /// ([`Config::ops_per_round`]): between rounds a rank's place may get another owner, for whom
    /// these sums are not.
    ///
    /// # Errors
    /// A shape does not fit, or the launch fails; nothing was launched then.
    ///
    /// # Safety
    /// As for [`EpBuffer::dispatch`]. `handle` was used by a dispatch before on this stream.
    pub unsafe fn combine(
        &mut self,
        stream: impl Into<Stream>,
        (tokens, top_k): (u32, u32),
        handle: &DispatchHandle,
        y: impl Into<Tensor>,
        out: &CombineTensors,
    ) -> Result<(), EpError> {
        self.expect(Pending::Nothing, "combine")?;
        let args = self.combine_args(tokens, top_k, handle, y.into(), out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_combine(stream.into(), args, MODE_SEND | MODE_RECEIVE) }
    }

    /// The first half of a combine: returns partial sums to others.
    ///
    /// # Errors
    /// As for [`EpBuffer::combine`]; or an operation's second half is due.
    ///
    /// # Safety
    /// As for [`EpBuffer::combine`].
    pub unsafe fn combine_send(
        &mut self,
        stream: impl Into<Stream>,
        (tokens, top_k): (u32, u32),
        handle: &DispatchHandle,
        y: impl Into<Tensor>,
        out: &CombineTensors,
    ) -> Result<(), EpError> {
        self.expect(Pending::Nothing, "combine_send")?;
        let args = self.combine_args(tokens, top_k, handle, y.into(), out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_combine(stream.into(), args, MODE_SEND)? };
        self.pending = Pending::Combine { tokens, top_k };
        Ok(())
    }

    /// The second half, with the same arguments as the first.
    ///
    /// # Errors
    /// As for [`EpBuffer::combine`]; or the first half was another one.
    ///
    /// # Safety
    /// As for [`EpBuffer::combine`].
    pub unsafe fn combine_receive(
        &mut self,
        stream: impl Into<Stream>,
        (tokens, top_k): (u32, u32),
        handle: &DispatchHandle,
        y: impl Into<Tensor>,
        out: &CombineTensors,
    ) -> Result<(), EpError> {
        self.expect(Pending::Combine { tokens, top_k }, "combine_receive")?;
        let args = self.combine_args(tokens, top_k, handle, y.into(), out)?;
        // SAFETY: passed on to our caller.
        unsafe { self.launch_combine(stream.into(), args, MODE_RECEIVE)? };
        self.pending = Pending::Nothing;
        Ok(())
    }

    /// The wire's floor: stores `bytes` bytes, a multiple of 16, to each other rank.
    ///
    /// # Errors
    /// More than the rows of a half take, or the launch fails.
    ///
    /// # Safety
    /// No operation of any rank is under way, and none that began before is waited for.
    pub unsafe fn push(&mut self, stream: impl Into<Stream>, bytes: u64) -> Result<(), EpError> {
        let limits = Limits { rank: self.rank() };
        let most = self.layout.half_bytes - self.layout.rows_at;
        limits.within("bytes to push", bytes, 0, most)?;
        let kernel = self.kernels.push();
        // SAFETY: the range is inside of every window (checked); the rest is our caller's.
        self.cuda(unsafe {
            self.kernels
                .launch(kernel, self.plain(stream.into()), &self.base, bytes)
        })
    }

    /// The floor of a launch: a kernel of the same shape that does nothing.
    ///
    /// # Errors
    /// The launch fails.
    ///
    /// # Safety
    /// `stream` is a stream of this device.
    pub unsafe fn nothing(&mut self, stream: impl Into<Stream>) -> Result<(), EpError> {
        let kernel = self.kernels.nothing();
        // SAFETY: touches nothing.
        self.cuda(unsafe {
            self.kernels
                .launch(kernel, self.plain(stream.into()), &self.base, 0)
        })
    }

    fn expect(&self, due: Pending, called: &'static str) -> Result<(), EpError> {
        if self.pending == due {
            return Ok(());
        }
        Err(EpError::Order {
            rank: self.rank(),
            called,
            due: match self.pending {
                Pending::Nothing => "a first half or a whole operation",
                Pending::Dispatch { .. } => "dispatch_receive with the arguments of its first half",
                Pending::Combine { .. } => "combine_receive with the arguments of its first half",
            },
        })
    }
}
