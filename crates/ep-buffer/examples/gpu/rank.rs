//! One rank's memory on its GPU, its stream and its operations.

use crate::members::Members;
use anyhow::Result;
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, sys};
use ep_buffer::cuda::{
    CombineOutput, DeviceFabric, DispatchHandle, DispatchOutput, EpBuffer, IndexType, Tensor,
    Tokens,
};
use ep_buffer::testing::reference::Batch;
use ep_transport::cuda::{DeviceMemory, GpuGroup};
use ep_transport::{Incarnation, MemberEvent, Rank, Snapshot};
use half::bf16;
use std::sync::Arc;

/// What one layer of a graph leaves.
pub(crate) struct Layer {
    pub(crate) handle: DispatchHandle,
    pub(crate) combined: CombineOutput,
}

/// A rank with room for the results of several layers.
pub(crate) struct GpuRank<F = GpuGroup> {
    pub(crate) buffer: EpBuffer<F>,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) received: DispatchOutput,
    pub(crate) layers: Vec<Layer>,
    x: DeviceMemory,
    idx: DeviceMemory,
    weights: DeviceMemory,
    tokens: u32,
    top_k: u32,
}

impl<F: DeviceFabric> GpuRank<F> {
    pub(crate) fn new(buffer: EpBuffer<F>, layers: u32) -> Result<Self> {
        let (config, device) = (buffer.config(), buffer.fabric().device());
        let context = CudaContext::new(device.ordinal() as usize)?;
        let choices = u64::from(config.max_tokens()) * u64::from(config.max_top_k());
        let row = u64::from(config.hidden()) * 2;
        let layer = |_| {
            Ok(Layer {
                handle: buffer.handle()?,
                combined: buffer.combine_output()?,
            })
        };
        Ok(Self {
            stream: context.new_stream()?,
            received: buffer.dispatch_output()?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            x: DeviceMemory::new(device, u64::from(config.max_tokens()) * row)?,
            idx: DeviceMemory::new(device, choices * 4)?,
            weights: DeviceMemory::new(device, choices * 4)?,
            tokens: 0,
            top_k: 1,
            buffer,
        })
    }

    /// Brings a batch to the GPU, on which nothing may run.
    pub(crate) fn load(&mut self, batch: &Batch) -> Result<()> {
        self.tokens = batch.tokens() as u32;
        self.top_k = batch.top_k as u32;
        self.load_rows(batch)?;
        self.idx.write(0, bytemuck::cast_slice(&batch.topk_idx))?;
        let weights = bytemuck::cast_slice(&batch.topk_weights);
        Ok(self.weights.write(0, weights)?)
    }

    /// The same where only the rows differ from the last batch.
    pub(crate) fn load_rows(&self, batch: &Batch) -> Result<()> {
        Ok(self.x.write(0, bytemuck::cast_slice(&batch.x))?)
    }

    /// Puts a dispatch on the stream, for layer `layer`.
    pub(crate) fn dispatch(&mut self, layer: usize) -> Result<()> {
        let tokens = Tokens {
            tokens: self.tokens,
            top_k: self.top_k,
            x: Tensor::from(&self.x),
            topk_idx: Tensor::from(&self.idx),
            index_type: IndexType::I32,
            topk_weights: Tensor::from(&self.weights),
        };
        let handle = &self.layers[layer].handle;
        let out = self.received.tensors();
        // SAFETY: all memory is this rank's own and is freed after its stream is through.
        Ok(unsafe { self.buffer.dispatch(&self.stream, &tokens, handle, &out) }?)
    }

    /// Puts a combine of `y` on the stream, for layer `layer`.
    pub(crate) fn combine(&mut self, layer: usize, y: Tensor) -> Result<()> {
        let layer = &self.layers[layer];
        let shape = (self.tokens, self.top_k);
        let out = layer.combined.tensors();
        // SAFETY: as above.
        Ok(unsafe {
            self.buffer
                .combine(&self.stream, shape, &layer.handle, y, &out)
        }?)
    }

    /// Captures what `body` puts on the stream.
    pub(crate) fn capture(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<CudaGraph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode)?;
        let done = body(self);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags)?;
        done?;
        graph.ok_or_else(|| anyhow::anyhow!("nothing was captured"))
    }

    /// Sums and missing bits of a layer.
    pub(crate) fn sums(&self, layer: usize) -> Result<(Vec<bf16>, Vec<u32>)> {
        let combined = &self.layers[layer].combined;
        let hidden = self.buffer.config().hidden() as usize;
        let mut x = vec![bf16::ZERO; self.tokens as usize * hidden];
        let mut missing = vec![0; self.tokens as usize];
        combined.x.read(0, bytemuck::cast_slice_mut(&mut x))?;
        let into = bytemuck::cast_slice_mut(&mut missing);
        combined.missing.read(0, into)?;
        Ok((x, missing))
    }
}

impl Members for GpuGroup {
    fn rank(&self) -> Rank {
        self.rank()
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation()
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot()
    }

    fn take_events(&self) -> Vec<MemberEvent> {
        self.take_events()
    }
}

/// The whole of `memory`.
pub(crate) fn read_all<T: bytemuck::Pod>(memory: &DeviceMemory) -> Result<Vec<T>> {
    let mut data = vec![T::zeroed(); memory.len() as usize / size_of::<T>()];
    memory.read(0, bytemuck::cast_slice_mut(&mut data))?;
    Ok(data)
}
