//! Memory of the GPU that callers bring, and that results are put into.

use super::args::{Handle as HandleWords, Report};
use crate::config::Config;
use cudarc::driver::{CudaStream, DevicePtr, sys};
use ep_transport::cuda::{CudaError, Device, DeviceMemory};
use ep_transport::{Epoch, Rank};
use std::sync::Arc;

/// A range of device memory that belongs to somebody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tensor {
    /// Its device address.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
}

impl Tensor {
    /// `bytes` bytes at `address`.
    #[must_use]
    pub fn new(address: u64, bytes: u64) -> Self {
        Self { address, bytes }
    }

    /// Memory of `cudarc`, for an operation on `stream`. What `cudarc` knows of its use on
    /// other streams comes before; it does not learn of the operation, so that what uses the
    /// memory on another stream afterwards has to wait for `stream`.
    #[must_use]
    pub fn of<T>(memory: &impl DevicePtr<T>, stream: &CudaStream) -> Self {
        let (address, _read) = memory.device_ptr(stream);
        Self::new(address, memory.num_bytes() as u64)
    }
}

impl From<&DeviceMemory> for Tensor {
    fn from(memory: &DeviceMemory) -> Self {
        Self::new(memory.address(), memory.len())
    }
}

/// A CUDA stream of the buffer's device, by its raw handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(pub sys::CUstream);

impl From<sys::CUstream> for Stream {
    fn from(stream: sys::CUstream) -> Self {
        Self(stream)
    }
}

impl From<&CudaStream> for Stream {
    fn from(stream: &CudaStream) -> Self {
        Self(stream.cu_stream())
    }
}

impl From<&Arc<CudaStream>> for Stream {
    fn from(stream: &Arc<CudaStream>) -> Self {
        Self(stream.cu_stream())
    }
}

/// The type of expert numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexType {
    /// `i32`
    I32,
    /// `i64`
    #[default]
    I64,
}

impl IndexType {
    pub(super) fn bytes(self) -> u32 {
        match self {
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}

/// What a rank brings to a dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// How many.
    pub tokens: u32,
    /// Choices of each.
    pub top_k: u32,
    /// Rows, bf16, `[tokens][hidden]`.
    pub x: Tensor,
    /// Experts, `[tokens][top_k]`. What is no expert, -1 say, is no choice (of `i64` the low
    /// 32 bits count); an expert that is named twice gets the token once, with the sum of
    /// the weights.
    pub topk_idx: Tensor,
    /// Their type.
    pub index_type: IndexType,
    /// Weights, `f32`, `[tokens][top_k]`.
    pub topk_weights: Tensor,
}

/// Where a dispatch puts what it delivers: tokens packed by local expert, in the order of
/// (source rank, token index).
#[derive(Clone, Copy, Debug)]
pub struct DispatchTensors {
    /// `[local_experts][capacity * max_tokens][hidden]`, bf16 or E4M3.
    pub recv_x: Tensor,
    /// Scales of FP8 rows, one for 128 channels; unused for bf16. `f32`,
    /// `[local_experts][hidden / 128][capacity * max_tokens]`; with
    /// [`ScaleFormat::Ue8m0`](super::ScaleFormat::Ue8m0) the exponents, four groups of channels together,
    /// `[local_experts][ceil(hidden / 512)][capacity * max_tokens][4]` bytes.
    pub recv_scales: Tensor,
    /// Rows of each expert, `u32`, `[local_experts]`. Those of a rank that was given up after it had
    /// said how many come ([`DispatchHandle::answers`]) are counted, and those that did not
    /// come hold what they held before; combine leaves all of them out.
    pub recv_count: Tensor,
    /// Token index at its source of each row, `u32`, `[local_experts][capacity * max_tokens]`.
    pub src_info: Tensor,
    /// Rows of each source, `u64` of (count << 32 | begin), `[local_experts][capacity]`.
    pub layout_range: Tensor,
}

/// Where a combine puts what it delivers.
#[derive(Clone, Copy, Debug)]
pub struct CombineTensors {
    /// Weighted sums, bf16, `[tokens][hidden]`.
    pub x: Tensor,
    /// One bit for each choice whose contribution is not in a token's sum, `u32`, `[tokens]`.
    pub missing: Tensor,
}

/// Sizes in bytes of everything that operations of a rank use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// [`DispatchTensors::recv_x`]
    pub recv_x: u64,
    /// [`DispatchTensors::recv_scales`]; 0 for bf16.
    pub recv_scales: u64,
    /// [`DispatchTensors::recv_count`]
    pub recv_count: u64,
    /// [`DispatchTensors::src_info`]
    pub src_info: u64,
    /// [`DispatchTensors::layout_range`]
    pub layout_range: u64,
    /// What the experts make, bf16 in the shape of `recv_x`.
    pub expert_output: u64,
}

impl Sizes {
    pub(super) fn new(config: &Config, rank: Rank) -> Self {
        let experts = u64::from(config.placement().local_experts(rank)).max(1);
        let rows = experts * config.rows_per_expert() as u64;
        let hidden = u64::from(config.hidden());
        let rows_as = config.dispatch_type();
        Self {
            recv_x: rows * hidden * rows_as.element_bytes(),
            recv_scales: rows * rows_as.scale_bytes(config.hidden()),
            recv_count: experts * 4,
            src_info: rows * 4,
            layout_range: experts * u64::from(config.capacity()) * 8,
            expert_output: rows * hidden * 2,
        }
    }
}

/// Device memory for what a dispatch delivers.
#[derive(Debug)]
pub struct DispatchOutput {
    /// See [`DispatchTensors`].
    pub recv_x: DeviceMemory,
    /// See [`DispatchTensors`].
    pub recv_scales: Option<DeviceMemory>,
    /// See [`DispatchTensors`].
    pub recv_count: DeviceMemory,
    /// See [`DispatchTensors`].
    pub src_info: DeviceMemory,
    /// See [`DispatchTensors`].
    pub layout_range: DeviceMemory,
}

impl DispatchOutput {
    pub(super) fn new(device: &Arc<Device>, sizes: &Sizes) -> Result<Self, CudaError> {
        let memory = |bytes| DeviceMemory::new(device, bytes);
        Ok(Self {
            recv_x: memory(sizes.recv_x)?,
            recv_scales: match sizes.recv_scales {
                0 => None,
                bytes => Some(memory(bytes)?),
            },
            recv_count: memory(sizes.recv_count)?,
            src_info: memory(sizes.src_info)?,
            layout_range: memory(sizes.layout_range)?,
        })
    }

    /// The same as ranges.
    #[must_use]
    pub fn tensors(&self) -> DispatchTensors {
        DispatchTensors {
            recv_x: (&self.recv_x).into(),
            recv_scales: self
                .recv_scales
                .as_ref()
                .map_or_else(Tensor::default, Into::into),
            recv_count: (&self.recv_count).into(),
            src_info: (&self.src_info).into(),
            layout_range: (&self.layout_range).into(),
        }
    }
}

/// Device memory for what a combine delivers.
#[derive(Debug)]
pub struct CombineOutput {
    /// See [`CombineTensors`].
    pub x: DeviceMemory,
    /// See [`CombineTensors`].
    pub missing: DeviceMemory,
}

impl CombineOutput {
    pub(super) fn new(device: &Arc<Device>, config: &Config) -> Result<Self, CudaError> {
        let tokens = u64::from(config.max_tokens());
        Ok(Self {
            x: DeviceMemory::new(device, tokens * u64::from(config.hidden()) * 2)?,
            missing: DeviceMemory::new(device, tokens * 4)?,
        })
    }

    /// The same as ranges.
    #[must_use]
    pub fn tensors(&self) -> CombineTensors {
        CombineTensors {
            x: (&self.x).into(),
            missing: (&self.missing).into(),
        }
    }
}

/// Who took part in an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The operation.
    pub epoch: Epoch,
    /// Ranks that delivered everything, this one included.
    pub answered: Vec<Rank>,
}

impl Answers {
    fn new(epoch: u64, there: u32, lost: &[u64; 32]) -> Self {
        let answered = (0..32_u32).filter(|rank| {
            there >> rank & 1 == 1 && lost.get(*rank as usize) != Some(&epoch.wrapping_add(1))
        });
        Self {
            epoch: Epoch(epoch),
            answered: answered.map(Rank).collect(),
        }
    }
}

/// What a dispatch leaves on the device for its combine. As many may be under way at a time
/// as there are handles; made once, used again and again.
#[derive(Debug)]
pub struct DispatchHandle {
    pub(super) number: u64,
    words: DeviceMemory,
    entries: DeviceMemory,
    owners: DeviceMemory,
    sent: DeviceMemory,
}

impl DispatchHandle {
    pub(super) fn new(
        device: &Arc<Device>,
        config: &Config,
        number: u64,
    ) -> Result<Self, CudaError> {
        let (tokens, top_k) = (
            u64::from(config.max_tokens()),
            u64::from(config.max_top_k()),
        );
        let memory = |bytes| DeviceMemory::new(device, bytes);
        Ok(Self {
            number,
            words: memory(size_of::<HandleWords>() as u64)?,
            entries: memory(u64::from(config.capacity()) * tokens * top_k * 8)?,
            owners: memory(tokens * top_k)?,
            sent: memory(tokens * 4)?,
        })
    }

    /// Device address of the words that say who answered, see [`HandleWords`].
    #[must_use]
    pub fn address(&self) -> u64 {
        self.words.address()
    }

    pub(super) fn addresses(&self) -> [u64; 4] {
        [
            self.words.address(),
            self.entries.address(),
            self.owners.address(),
            self.sent.address(),
        ]
    }

    /// Who took part in the last dispatch that used this handle and has ended. Copies from
    /// the device.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn answers(&self) -> Result<Answers, CudaError> {
        let mut words = [HandleWords::default()];
        self.words.read(0, bytemuck::cast_slice_mut(&mut words))?;
        let [words] = words;
        Ok(Answers::new(words.epoch, words.present, &words.lost.epoch))
    }
}

/// Reads a combine's report.
pub(super) fn combine_answers(report: &DeviceMemory) -> Result<Answers, CudaError> {
    let mut words = [Report::default()];
    report.read(0, bytemuck::cast_slice_mut(&mut words))?;
    let [words] = words;
    Ok(Answers::new(words.epoch, words.active, &words.lost.epoch))
}
