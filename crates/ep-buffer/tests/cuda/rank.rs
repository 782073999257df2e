//! One rank on a GPU: its memory, its stream, and what comes of an operation.

use cudarc::driver::result::{memcpy_dtoh_sync, memcpy_htod_sync};
use cudarc::driver::{CudaContext, CudaStream, sys};
use ep_buffer::Config;
use ep_buffer::cuda::testing::Member;
use ep_buffer::cuda::{
    CombineOutput, DispatchHandle, DispatchOutput, EpBuffer, IndexType, Settings, Tensor, Tokens,
};
use ep_transport::cuda::DeviceMemory;
use half::bf16;
use std::sync::{Arc, Mutex};

/// What a rank brings, on the host.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) top_k: usize,
    pub(crate) x: Vec<bf16>,
    pub(crate) topk_idx: Vec<i32>,
    pub(crate) weights: Vec<f32>,
}

impl Batch {
    pub(crate) fn tokens(&self) -> usize {
        self.topk_idx.len() / self.top_k
    }
}

/// What it gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Received {
    pub(crate) x: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    pub(crate) count: Vec<u32>,
    pub(crate) src_info: Vec<u32>,
    pub(crate) ranges: Vec<u64>,
}

pub(crate) struct GpuRank {
    pub(crate) buffer: EpBuffer<Member>,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) handle: DispatchHandle,
    pub(crate) received: DispatchOutput,
    pub(crate) combined: CombineOutput,
    pub(crate) y: DeviceMemory,
    /// Of batches loaded from now on.
    pub(crate) index_type: IndexType,
    x: DeviceMemory,
    idx: DeviceMemory,
    weights: DeviceMemory,
    tokens: u32,
    top_k: u32,
    experts_return_input: bool,
}

static MAKING: Mutex<()> = Mutex::new(());

impl GpuRank {
    pub(crate) fn new(config: &Config, settings: Settings, member: Member) -> Self {
        // Streams that are made at the same time may get the same queue of a GPU, in which the
        // kernels of one rank wait behind those of another that wait for them.
        let _alone = MAKING.lock();
        let buffer = EpBuffer::new(config.clone(), settings, member).unwrap();
        let device = Arc::clone(ep_buffer::cuda::DeviceFabric::device(buffer.fabric()));
        let context = CudaContext::new(device.ordinal() as usize).unwrap();
        let memory = |bytes: u64| DeviceMemory::new(&device, bytes.max(16)).unwrap();
        let choices = u64::from(config.max_tokens()) * u64::from(config.max_top_k());
        Self {
            stream: context.new_stream().unwrap(),
            handle: buffer.handle().unwrap(),
            received: buffer.dispatch_output().unwrap(),
            combined: buffer.combine_output().unwrap(),
            y: buffer.expert_output().unwrap(),
            index_type: IndexType::I64,
            x: memory(u64::from(config.max_tokens()) * u64::from(config.hidden()) * 2),
            idx: memory(choices * 8),
            weights: memory(choices * 4),
            tokens: 0,
            top_k: 1,
            experts_return_input: false,
            buffer,
        }
    }

    pub(crate) fn load(&mut self, batch: &Batch) {
        self.tokens = batch.tokens() as u32;
        self.top_k = batch.top_k as u32;
        let wide: Vec<i64> = batch.topk_idx.iter().map(|e| i64::from(*e)).collect();
        let idx: &[u8] = match self.index_type {
            IndexType::I64 => bytemuck::cast_slice(&wide),
            IndexType::I32 => bytemuck::cast_slice(&batch.topk_idx),
        };
        self.x.write(0, bytemuck::cast_slice(&batch.x)).unwrap();
        self.idx.write(0, idx).unwrap();
        let weights = bytemuck::cast_slice(&batch.weights);
        self.weights.write(0, weights).unwrap();
    }

    fn tokens(&self) -> Tokens {
        Tokens {
            tokens: self.tokens,
            top_k: self.top_k,
            x: Tensor::from(&self.x),
            topk_idx: Tensor::from(&self.idx),
            index_type: self.index_type,
            topk_weights: Tensor::from(&self.weights),
        }
    }

    /// From now on the experts return their input.
    pub(crate) fn use_received_as_output(&mut self) {
        self.experts_return_input = true;
    }

    fn y(&self) -> Tensor {
        match self.experts_return_input {
            true => Tensor::from(&self.received.recv_x),
            false => Tensor::from(&self.y),
        }
    }

    pub(crate) fn dispatch(&mut self, halves: bool) {
        if halves {
            self.dispatch_send();
            self.dispatch_receive();
            return;
        }
        let (tokens, out) = (self.tokens(), self.received.tensors());
        let (b, handle) = (&mut self.buffer, &self.handle);
        // SAFETY: all memory is this rank's own and lives until its stream is through.
        unsafe { b.dispatch(&self.stream, &tokens, handle, &out) }.unwrap();
    }

    pub(crate) fn dispatch_send(&mut self) {
        let (tokens, out) = (self.tokens(), self.received.tensors());
        let (b, handle) = (&mut self.buffer, &self.handle);
        // SAFETY: as above.
        unsafe { b.dispatch_send(&self.stream, &tokens, handle, &out) }.unwrap();
    }

    pub(crate) fn dispatch_receive(&mut self) {
        let (tokens, out) = (self.tokens(), self.received.tensors());
        let (b, handle) = (&mut self.buffer, &self.handle);
        // SAFETY: as above.
        unsafe { b.dispatch_receive(&self.stream, &tokens, handle, &out) }.unwrap();
    }

    /// Makes something else of elements of `memory`, by their index; of how many of them.
    pub(crate) fn change<T: bytemuck::Pod + PartialEq>(
        &self,
        memory: Tensor,
        change: impl Fn(usize, T) -> T,
    ) -> usize {
        let mut data = vec![T::zeroed(); memory.bytes as usize / size_of::<T>()];
        self.stream.context().bind_to_thread().unwrap();
        // SAFETY: `memory` is a range on this device, and as long as `data`.
        unsafe { memcpy_dtoh_sync(&mut data, memory.address) }.unwrap();
        let changed: Vec<T> = data
            .iter()
            .enumerate()
            .map(|(i, word)| change(i, *word))
            .collect();
        // SAFETY: as above.
        unsafe { memcpy_htod_sync(memory.address, &changed) }.unwrap();
        data.iter()
            .zip(&changed)
            .filter(|(was, is)| was != is)
            .count()
    }

    pub(crate) fn combine(&mut self, halves: bool) {
        let shape = (self.tokens, self.top_k);
        let (y, out) = (self.y(), self.combined.tensors());
        // SAFETY: as above.
        unsafe {
            let b = &mut self.buffer;
            if halves {
                b.combine_send(&self.stream, shape, &self.handle, y, &out)
                    .unwrap();
                b.combine_receive(&self.stream, shape, &self.handle, y, &out)
                    .unwrap();
            } else {
                b.combine(&self.stream, shape, &self.handle, y, &out)
                    .unwrap();
            }
        }
    }

    /// A graph of `pairs` pairs.
    pub(crate) fn capture(&mut self, pairs: usize) -> cudarc::driver::CudaGraph {
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        for _ in 0..pairs {
            self.dispatch(false);
            self.combine(false);
        }
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        self.stream.end_capture(flags).unwrap().unwrap()
    }

    /// What the dispatch delivered; rows that hold nothing are zeroed.
    pub(crate) fn fetch(&self) -> Received {
        fn read<T: bytemuck::Pod>(memory: &DeviceMemory) -> Vec<T> {
            let mut data = vec![T::zeroed(); memory.len() as usize / size_of::<T>()];
            memory.read(0, bytemuck::cast_slice_mut(&mut data)).unwrap();
            data
        }
        Received {
            x: read(&self.received.recv_x),
            scales: self
                .received
                .recv_scales
                .as_ref()
                .map(read)
                .unwrap_or_default(),
            count: read(&self.received.recv_count),
            src_info: read(&self.received.src_info),
            ranges: read(&self.received.layout_range),
        }
    }

    pub(crate) fn fetch_sums(&self) -> (Vec<bf16>, Vec<u32>) {
        let tokens = self.tokens as usize;
        let hidden = self.buffer.config().hidden() as usize;
        let mut x = vec![bf16::ZERO; tokens * hidden];
        let mut missing = vec![0; tokens];
        let into = bytemuck::cast_slice_mut(&mut x);
        self.combined.x.read(0, into).unwrap();
        let into = bytemuck::cast_slice_mut(&mut missing);
        self.combined.missing.read(0, into).unwrap();
        (x, missing)
    }
}
